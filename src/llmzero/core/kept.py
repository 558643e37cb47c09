"""What a process keeps of one stage for the next that it runs: an engine that is slow to start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Kept:
    """A place for an engine between two stages of one process; empty after a stage that kept none.

    Attributes:
        engine: that has started, and sleeps.
        made_for: settings, architecture and processes that it was made for.
        host_bytes: memory of the process when it first kept this engine.
        gpu_bytes: that of its GPU.
        announce: called where a stage keeps an engine, before its result is there.
    """

    engine: Any = None
    made_for: str = ""
    host_bytes: int = 0
    gpu_bytes: int = 0
    announce: Callable[[], None] = lambda: None
