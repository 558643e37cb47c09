"""What a search may spend, and what it has spent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmzero.core.errors import UserError


@dataclass(frozen=True)
class Budget:
    """Limits; None is no limit. The search ends at whichever comes first; `disk_gb` only where dropping optimizer states no longer helps.

    `deadline` is in seconds since the epoch.
    """

    stages: int | None = None
    seconds: float | None = None
    gpu_seconds: float | None = None
    llm_dollars: float | None = None
    llm_tokens: int | None = None
    disk_gb: float | None = None
    deadline: float | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Budget:
        """Read the group `budget`, in which the deadline is a date and time, of this machine's zone where none is given.

        Raises:
            UserError: that it is not.
        """
        deadline = config["deadline"]
        try:
            return cls(**{**config, "deadline": deadline and datetime.fromisoformat(deadline).timestamp()})
        except ValueError as error:
            raise UserError(
                f"budget.deadline={deadline}: must be a date and time, e.g. 2027-01-31T08:00 or 2027-01-31T08:00+01:00"
            ) from error


@dataclass
class Ledger:
    """What was spent. `stages` counts finished ones; stopped and failed stages are charged what they used.

    The base model's own stage and the final test are no stages of the search: their cost is in `setup_gpu_seconds`. `disk_gb` is
    what checkpoints take now, where there is a limit for it.
    """

    stages: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    llm_calls: int = 0
    llm_tokens: int = 0
    llm_dollars: float = 0.0
    setup_gpu_seconds: float = 0.0
    disk_gb: float = 0.0

    def spent_limits(self, budget: Budget, *, planned_stages: int, running_gpu_seconds: float) -> list[str]:
        """Return the names of the limits that are reached.

        `planned_stages` counts all created ones, so that parallel workers do not overshoot.
        """
        spent = {
            "stages": float(planned_stages),
            "seconds": self.seconds,
            "gpu_seconds": self.gpu_seconds + running_gpu_seconds,
            "llm_dollars": self.llm_dollars,
            "llm_tokens": float(self.llm_tokens),
            "disk_gb": self.disk_gb,
            "deadline": time.time(),
        }
        return _reached(spent, budget)

    def spent_llm_limits(self, budget: Budget) -> list[str]:
        """Return the names of the limits on language models that are reached."""
        return _reached({"llm_dollars": self.llm_dollars, "llm_tokens": self.llm_tokens}, budget)

    def left(self, budget: Budget) -> dict[str, float]:
        """Return what remains of every limited resource; of a deadline, the seconds until then."""
        spent = {**vars(self), "deadline": time.time()}
        return {name: limit - spent[name] for name, limit in vars(budget).items() if limit is not None}

    def to_dict(self) -> dict[str, float]:
        """Return the content of `summary.json`'s `budget`."""
        return {name: round(value, 3) for name, value in vars(self).items()}


def _reached(spent: Mapping[str, float], budget: Budget) -> list[str]:
    limits = vars(budget)
    return [name for name, value in spent.items() if limits[name] is not None and value >= limits[name]]
