"""The stage's sign of life: `status.json`, replaced atomically."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

from llmzero.core.files import write_json
from llmzero.core.stage import StageDir

MIN_INTERVAL = 0.3  # seconds between two heartbeats within a phase


class Heartbeat:
    """Writes state, phase, progress and the time spent. Time goes on over attempts.

    Args:
        devices: devices of the stage; a CPU process counts as one.
        writes: False for the processes that keep silent beside rank 0.
        started: when this attempt began, on `time.time()`'s clock; None is the start of the process.
    """

    def __init__(
        self, stage: StageDir, devices: int = 1, writes: bool = True, started: float | None = None
    ) -> None:
        self._stage = stage
        self._devices = devices
        self._writes = writes
        self._earlier = float(stage.status().get("seconds") or 0.0)
        if started is None:  # not psutil's time, which is off by the part of a second in which Linux booted
            since_boot = psutil.Process().create_time() - psutil.boot_time()
            started = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
        self._started = started
        self._written = 0.0
        self._fields: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        """Wall seconds of this stage, all attempts together."""
        return round(self._earlier + time.time() - self._started, 3)

    @property
    def gpu_seconds(self) -> float:
        """Devices times seconds."""
        return round(self.seconds * self._devices, 3)

    def beat(self, state: str = "running", **fields: Any) -> None:
        """Report; a beat that changes neither state nor phase is dropped where the last one is younger than
        `MIN_INTERVAL`.
        """
        changed = state != self._fields.get("state") or fields.get("phase") != self._fields.get("phase")
        self._fields = {**self._fields, "state": state, **fields}
        now = time.monotonic()
        if not self._writes or (not changed and now - self._written < MIN_INTERVAL):
            return
        self._written = now
        record = {
            **self._fields,
            "seconds": self.seconds,
            "gpu_seconds": self.gpu_seconds,
            "pid": os.getpid(),
        }
        write_json(self._stage.status_file, record)
