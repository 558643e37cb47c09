"""What a stage is doing and how long it takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("generation", "reward", "logprobs", "update", "handover", "validation", "checkpoint")


class Phases:
    """Seconds spent in each phase since the last line of metrics. `current` is the phase that an error
    happened in.
    """

    def __init__(self) -> None:
        self.current = "starting"
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase; it stays the current one until the next begins."""
        self.current = name
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Return `seconds_PHASE` of every phase and begin anew."""
        seconds = {f"seconds_{name}": self._seconds[name] for name in NAMES}
        self._seconds.clear()
        return seconds
