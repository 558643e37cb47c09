"""Functions that may take forever or eat all memory, called in processes of their own."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import resource
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pebble import ProcessPool

MEMORY_BYTES = 2 * 1024**3  # of one process
CALLS_A_PROCESS = 10_000  # after which a process is replaced


class Guard:
    """Calls a function in a pool of processes, each call with a time and a memory limit.

    Args:
        function: a function of a module, so that another process can import it.
        timeout_s: seconds that one call may take.
        workers: processes, started with the first call.
        example: arguments of a first call in every process, which has no limits: imports then do not count
            against a call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        timeout_s: float,
        workers: int,
        example: tuple[Any, ...] | None = None,
    ) -> None:
        self.function, self.timeout_s, self.workers, self.example = function, timeout_s, workers, example
        self._pool: ProcessPool | None = None

    def __call__(self, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the values in the order of the arguments; None for a call that fails or exceeds a limit."""
        if self._pool is None:
            from pebble import ProcessPool

            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(
                self.workers, CALLS_A_PROCESS, _prepare, (self.function, self.example), context=context
            )
            atexit.register(self.close)
        calls = [self._pool.schedule(self.function, each, timeout=self.timeout_s) for each in arguments]
        return [_value(call) for call in calls]

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None


def _prepare(function: Callable[..., Any], example: tuple[Any, ...] | None) -> None:
    logging.disable(logging.WARNING)
    if example is not None:
        function(*example)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _value(call: Any) -> Any:
    try:
        return call.result()
    except Exception:  # a timeout, a process that died, or whatever the function raises
        return None
