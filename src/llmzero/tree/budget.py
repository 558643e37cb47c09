"""What a search may spend, and what it has spent."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property

from llmzero.core.compute import MOST_FLOPS
from llmzero.core.errors import UserError
from llmzero.core.settings import setting


@dataclass
class Budget:
    """Limits of a search; None is no limit, and whichever comes first ends it."""

    stages: int | None = setting(
        16, "stages of the tree of the usual length, the base model not counted", low=1
    )
    seconds: float | None = setting(None, "wall time of the driver", low=0)
    gpu_seconds: float | None = setting(None, "devices times seconds; a CPU counts as one device", low=0)
    flops: float | None = setting(
        None,
        "compute by formula; no stage begins of which less than half would fit",
        low=0,
        high=MOST_FLOPS,
    )
    llm_dollars: float | None = setting(
        None, "of language models, at the prices of llm.price_input and llm.price_output", low=0
    )
    llm_tokens: int | None = setting(None, "of their prompts and replies", low=0)
    disk_gb: float | None = setting(
        None,
        "of checkpoints (10^9 bytes); optimizer states of dead branches are dropped first to keep it",
        low=0,
    )
    deadline: str | None = setting(
        None, "a date and time, e.g. 2027-01-31T08:00; running stages are stopped then"
    )

    @cached_property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name; the deadline in seconds since the epoch.

        A deadline without a time zone is in this machine's.

        Raises:
            UserError: the deadline is no date and time.
        """
        limits = {name: value for name, value in asdict(self).items() if value is not None}
        if self.deadline is not None:
            try:
                limits["deadline"] = datetime.fromisoformat(self.deadline).timestamp()
            except ValueError as error:
                raise UserError(
                    f"budget.deadline={self.deadline}: must be a date and time, e.g. 2027-01-31T08:00 or "
                    "2027-01-31T08:00+01:00"
                ) from error
        return limits


@dataclass
class Ledger:
    """What was spent. `stages` counts finished ones, `longer` says by how many usual lengths they were longer
    than so many usual ones; stopped and failed stages are charged what they used.

    `flops` is their compute; None is unknown, as of stages of earlier versions. The base model's own stage
    and the final test are no stages of the search: their cost is in `setup_gpu_seconds` and `setup_flops`.
    `idle_gpu_seconds` is what was held without a stage, as by pilots, and counts for the limit on
    `gpu_seconds`. `disk_gb` is what checkpoints take now, where there is a limit for it. `prefetched` counts
    proposals that were asked for before their parent had ended; each is used, or wasted, or open.
    """

    stages: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    llm_calls: int = 0
    llm_tokens: int = 0
    llm_dollars: float = 0.0
    setup_gpu_seconds: float = 0.0
    idle_gpu_seconds: float = 0.0
    disk_gb: float = 0.0
    prefetched: int = 0
    prefetches_used: int = 0
    prefetches_wasted: int = 0
    flops: float | None = 0.0
    setup_flops: float | None = 0.0
    longer: float = 0.0

    @property
    def lengths(self) -> float:
        """Finished stages, in usual lengths."""
        return self.stages + self.longer

    def spent_limits(
        self, budget: Budget, *, planned_stages: float, running_gpu_seconds: float, planned_flops: float = 0.0
    ) -> list[str]:
        """Return the names of the limits that are reached; compute that is unknown has reached any.

        `planned_stages` is the length of all created ones, in usual ones, so that parallel workers do not
        overshoot, as `planned_flops` is what those under way will cost, and half of the next one.
        """
        spent = {
            "stages": planned_stages + 0.5,  # half of the next one
            "seconds": self.seconds,
            "gpu_seconds": self.gpu_seconds + self.idle_gpu_seconds + running_gpu_seconds,
            "flops": math.inf if self.flops is None else self.flops + planned_flops,
            "llm_dollars": self.llm_dollars,
            "llm_tokens": float(self.llm_tokens),
            "disk_gb": self.disk_gb,
            "deadline": time.time(),
        }
        return _reached(spent, budget)

    def spent_llm_limits(self, budget: Budget, tokens: int = 0, dollars: float = 0.0) -> list[str]:
        """Return the limits on language models that are reached, by name, with further tokens and dollars."""
        spent = {"llm_dollars": self.llm_dollars + dollars, "llm_tokens": self.llm_tokens + tokens}
        return _reached(spent, budget)

    def left(self, budget: Budget) -> dict[str, float]:
        """Return what remains of every limited resource; of a deadline, the seconds until then."""
        spent: dict[str, float] = {**vars(self), "deadline": time.time()}
        spent["stages"] = self.lengths
        spent["gpu_seconds"] += self.idle_gpu_seconds
        spent["flops"] = math.inf if self.flops is None else self.flops
        return {name: limit - spent[name] for name, limit in budget.limits.items()}

    def to_dict(self) -> dict[str, float | None]:
        """Return the content of `summary.json`'s `budget`."""
        return {name: None if value is None else round(value, 3) for name, value in vars(self).items()}


def _reached(spent: Mapping[str, float], budget: Budget) -> list[str]:
    return [name for name, value in spent.items() if name in budget.limits and value >= budget.limits[name]]
