"""A circuit breaker: after several failed calls in a row none is made for a while."""

from __future__ import annotations

import threading
import time


class Breaker:
    """Counts failures in a row, of all threads, and opens for `pause_s` seconds after `failures` of them.

    Attributes:
        open_until: the reading of `time.monotonic()` at which calls are made again.
    """

    def __init__(self, failures: int, pause_s: float) -> None:
        self.failures, self.pause_s = failures, pause_s
        self.open_until = 0.0
        self._failed = 0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether no call is to be made now."""
        return time.monotonic() < self.open_until

    def succeed(self) -> None:
        """Count a call that succeeded."""
        self._failed = 0

    def fail(self, lasting: bool = False) -> bool:
        """Count a failed call; return whether that opened the breaker, which a lasting cause does at once."""
        with self._lock:
            self._failed += 1
            if self._failed < self.failures and not lasting:
                return False
            self.open_until, self._failed = time.monotonic() + self.pause_s, 0
            return True
