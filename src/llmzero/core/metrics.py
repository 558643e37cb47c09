"""The catalogue of metrics: what each one means, and what an unhealthy value tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One column of `metrics.jsonl`. `healthy` is (low, high), None where there is no bound."""

    name: str
    unit: str | None
    meaning: str
    unhealthy: str
    healthy: tuple[float | None, float | None]


def metric_catalogue(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """Build the catalogue from `conf/metrics.yaml`."""
    return {
        name: Metric(**{**dict(entry), "name": name, "healthy": tuple(entry["healthy"])})
        for name, entry in entries.items()
    }
