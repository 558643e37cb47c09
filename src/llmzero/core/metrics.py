"""The catalogue of metrics: what each one means, what an unhealthy value tells, and where it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from llmzero.core.errors import UserError
from llmzero.core.shapes import NOTHING, NUMBER_OR_NOTHING, Shape, require

CATALOGUE_FILE = Path(__file__).resolve().parents[3] / "conf" / "metrics.yaml"
REQUIRED_FIELDS = {"unit", "meaning", "unhealthy", "healthy"}
ENTRY: Shape = {
    "unit": (str, NOTHING),
    "meaning": str,
    "unhealthy": str,
    "healthy": [NUMBER_OR_NOTHING],
    "title?": (str, NOTHING),
    "plot?": (NOTHING, [str]),
    "depends_on?": [str],
    "healthy_ratio?": [NUMBER_OR_NOTHING],
    **{f"{flag}?": (int, NOTHING) for flag in ("table", "report", "observable", "level")},
}
PAIRS = ("healthy", "healthy_ratio", "plot")
# In the order of the versions that they came with.
FLAGS = (("table", "plot", "report", "title", "observable"), ("level", "healthy_ratio", "depends_on"))


@dataclass(frozen=True)
class Metric:
    """One column of `metrics.jsonl`; `conf/metrics.yaml` explains the fields.

    Attributes:
        healthy: (low, high), None where there is no bound.
        healthy_ratio: likewise of the level over a stage's last third, as a multiple of that over its first.
        depends_on: hyperparameters on which the value depends by definition, whatever the policy does.
        table, report, observable, level: positions in these lists; None where the metric is not in them.
        plot: panel, and how the line is drawn; None where it is not plotted.
        title: what a page calls it; None is its name.
    """

    name: str
    unit: str | None
    meaning: str
    unhealthy: str
    healthy: tuple[float | None, float | None]
    table: int | None = None
    plot: tuple[str, str] | None = None
    report: int | None = None
    title: str | None = None
    observable: int | None = None
    level: int | None = None
    healthy_ratio: tuple[float | None, float | None] = (None, None)
    depends_on: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the catalogue puts it nowhere and calls no value healthy: agents need its level alone."""
        flags = (self.table, self.plot, self.report, self.observable, self.level)
        return flags == (None,) * 5 and self.healthy == self.healthy_ratio == (None, None)


def metric_catalogue(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """Return the catalogue that the entries of `conf/metrics.yaml`, or of a file like it, describe."""
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise UserError("metrics.metrics: must be a mapping of names to entries, as in conf/metrics.yaml")
    metrics = {}
    for name, entry in with_flags(entries).items():
        if missing := REQUIRED_FIELDS - entry.keys():
            raise UserError(f"metrics.metrics.{name}: lacks {', '.join(sorted(missing))}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        if unknown := values.keys() - {each.name for each in fields(Metric)}:
            raise UserError(f"metrics.metrics.{name}: unknown field {', '.join(sorted(unknown))}")
        _check_entry(f"metrics.metrics.{name}", entry)
        metrics[name] = Metric(name, **values)
    return metrics


def _check_entry(where: str, entry: Mapping[str, Any]) -> None:
    try:
        require(dict(entry), ENTRY, where)
    except ValueError as error:
        raise UserError(str(error)) from error
    for key in PAIRS:
        if entry.get(key) is not None and len(entry[key]) != 2:
            raise UserError(f"{where}.{key}={entry[key]!r:.100}: must be two values")


def with_flags(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a catalogue's entries, with the flags of `conf/metrics.yaml` that came with a later version.

    Those are the ones of which no entry has any: catalogues in the search directories of earlier versions.
    """
    missing = [
        flag
        for flags in FLAGS
        if not any(flag in entry for entry in entries.values() for flag in flags)
        for flag in flags
    ]
    usual = usual_entries()
    return {
        name: {**entry, **{flag: usual[name][flag] for flag in missing if flag in usual.get(name, {})}}
        for name, entry in entries.items()
    }


@cache
def usual_entries() -> dict[str, dict[str, Any]]:
    """Return the entries of `conf/metrics.yaml`."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(CATALOGUE_FILE.read_text(encoding="utf-8"))["metrics"]
    return entries


def listed(metrics: Iterable[Metric], flag: Literal["table", "report", "observable", "level"]) -> list[str]:
    """Return the names of the metrics of one of the lists, in its order."""
    positions = {
        metric.name: position for metric in metrics if (position := getattr(metric, flag)) is not None
    }
    return sorted(positions, key=positions.__getitem__)
