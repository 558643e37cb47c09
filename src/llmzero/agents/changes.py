"""Changes that a language model wants, and where a stage is to resume from, kept within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmzero.agents.text import clean, one_line
from llmzero.core.hparams import Catalogue, HParams, Parameter
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.fit import known_not_to_fit, nearly_equal
from llmzero.evidence.proposal import Resume

SENTENCE, PHRASE = 500, 80  # characters of a model's words that are stored
MOST = 40  # changes, observations and diagnoses that are looked at
MOST_CHANGES = 5  # of one proposal


@dataclass
class Remarks:
    """What is wrong with an answer, and what is done about it where it is not mended."""

    complaints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, complaint: str, consequence: str) -> None:
        """Add a complaint, with its consequence as a note."""
        self.complaints.append(complaint)
        self.notes.append(f"{complaint} {consequence}")


def usable_changes(
    entries: Any, evidence: Evidence, remarks: Remarks, most: int = MOST_CHANGES
) -> tuple[HParams, dict[str, str]]:
    """Return the changes in a list that can be used, `most` at most, and their reasons."""
    if not isinstance(entries, list):
        remarks.add("`changes` must be a list of objects with name, value and reason.", "None was taken.")
        return {}, {}
    if len(entries) > most:
        taken = f"The first {most} were taken."
        remarks.add(f"{len(entries)} changes are too many: {most} at most.", taken)
    changes: HParams = {}
    reasons: dict[str, str] = {}
    present = evidence.stage.hparams
    for entry in entries[:most]:
        name, value, problem = _entry(entry, evidence.catalogue)
        if problem:
            clamped = f"Clamped to {value:g}." if value is not None else "Left out."
            remarks.add(problem, clamped)
        if value is None:
            continue
        if changes.get(name, value) != value:
            remarks.add(
                f"{name} is changed twice, to {changes[name]} and to {value}.", "The first was taken."
            )
        elif not evidence.catalogue.changes(present, {**present, name: value}):
            remarks.add(f"{name}={value}: is the present value; leave it out.", "Left out.")
        else:
            changes[name] = value
            reasons[name] = clean(entry.get("reason") or "", SENTENCE)
    in_order = evidence.catalogue.changes(present, {**present, **changes})
    return in_order, {name: reasons[name] for name in in_order}


def _entry(entry: Any, catalogue: Catalogue) -> tuple[str, Any, str | None]:
    """Return a change's name, the value that can be used of it (None: none), and what is wrong with it."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        return (
            "",
            None,
            f"{one_line(entry, PHRASE)} is no change: it must be an object with name, value and reason.",
        )
    name, value = entry["name"], entry.get("value")
    if name not in catalogue:
        return "", None, one_line(catalogue.problems({name: value})[0], SENTENCE) + "."
    parameter = catalogue[name]
    problem = parameter.problem(value)
    if problem is None:
        return name, parameter.settled(value), None
    return (
        name,
        _nearest(parameter, value),
        f"{name}={one_line(repr(value), PHRASE)}: must be {parameter.allowed}.",
    )


def _nearest(parameter: Parameter, value: Any) -> Any:
    """Return the allowed value nearest to a number, or to a text that is one; None for anything else."""
    numeric = parameter.choices is None or all(
        isinstance(c, int | float) and not isinstance(c, bool) for c in parameter.choices
    )
    number = finite_number(value)
    return parameter.clamp(number) if numeric and number is not None else None


def finite_number(value: Any) -> float | None:
    """Return a number, or what a text says that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)[:400]) > 300:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def useless(changes: HParams, resume: Resume, evidence: Evidence) -> str | None:
    """Return why a stage with these changes would be of no use; None where it may be of some."""
    new = {**evidence.stage.hparams, **changes}
    if failed := known_not_to_fit(evidence, new):
        assert failed.cause is not None
        sizes = ", ".join(
            f"{name}={failed.hparams[name]}"
            for name in failed.cause.get("hparams", {})
            if name in failed.hparams
        )
        return (
            f"This needs at least the memory of {failed.node_id} ({sizes}), which ran out of it. "
            "Propose something smaller."
        )
    for child in nearly_equal(evidence, new):
        if child.resume == resume:
            outcome = f"scored {child.score:.3f}" if child.score is not None else child.state
            return (
                f"This is nearly the configuration of {child.node_id}, which was tried from the same "
                f"checkpoint ({outcome}). Propose another."
            )
    return None


def checkpoint_of(value: Any, evidence: Evidence) -> tuple[Resume, list[str]]:
    """Return where to resume from, `best` where the wish cannot be met, and why it cannot."""
    if value == "best" or value == "last":
        return value, []
    if isinstance(value, int) and not isinstance(value, bool) and value in evidence.checkpoints:
        names: dict[int | None, Resume] = {max(evidence.checkpoints): "last", evidence.best_step: "best"}
        return names.get(value, value), []
    there = ", ".join(map(str, evidence.checkpoints))
    return "best", [
        f"resume_from={one_line(repr(value), PHRASE)}: must be best, last"
        + (f" or one of the steps {there}." if there else ".")
    ]
