"""Configurations that need not be tried: too close to a sibling, or too large for the memory."""

from __future__ import annotations

from collections.abc import Mapping

from llmzero.core.hparams import Value
from llmzero.evidence.evidence import Evidence, StageView

MIN_DISTANCE = 0.02  # of a parameter's range: what is closer to a tried configuration counts as the same


def nearly_equal(evidence: Evidence, hparams: Mapping[str, Value]) -> list[StageView]:
    """Return the children that the stage has already with nearly this configuration, as far as is known."""
    return [
        child
        for child in evidence.children
        if child.hparams and evidence.catalogue.distance(hparams, child.hparams) < MIN_DISTANCE
    ]


def known_not_to_fit(evidence: Evidence, hparams: Mapping[str, Value]) -> StageView | None:
    """Return an earlier stage that ran out of memory and was nowhere larger than a configuration, or None.

    Larger is meant in the hyperparameters that the failure named as those that drive memory.
    """
    failed = (view for view in evidence.history if view.cause and view.cause.get("kind") == "out_of_memory")
    return next((view for view in failed if _as_large(evidence, view, hparams)), None)


def _as_large(evidence: Evidence, failed: StageView, hparams: Mapping[str, Value]) -> bool:
    drivers = [name for name in (failed.cause or {}).get("hparams") or {} if name in evidence.catalogue]
    position = {name: evidence.catalogue[name].position for name in drivers}
    return bool(drivers) and all(
        position[name](hparams[name]) >= position[name](failed.hparams[name]) for name in drivers
    )
