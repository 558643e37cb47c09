"""Which of a stage's processes this is, by its environment; whether a signal has asked one to leave."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Names of (rank, world size, local rank). SLURM's are those of a step: a batch script is one process,
# whatever its job asked for.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "submitit": ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


def identity() -> tuple[int, int, int]:
    """Return (rank, world size, local rank) as torchrun, submitit or SLURM set them; else (0, 1, 0)."""
    for names in LAUNCHERS.values():
        if all(name in os.environ for name in names):
            rank, size, local = (int(os.environ[name]) for name in names)
            return rank, size, local
    return 0, 1, 0


@contextmanager
def interruptible(signals: Sequence[int] = SIGNALS) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal has asked us to leave; a second signal acts as usual."""
    received: list[int] = []
    previous = {int(number): signal.getsignal(number) for number in signals}

    def note(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interruptible_between_rounds() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether an interruption is due, for whoever raises it between two rounds.

    A KeyboardInterrupt that is raised at any line is lost in a destructor, and may come out of an import as
    an error of another kind. Signals with handlers of their own, and other threads than the main one, are
    left alone.
    """
    main = threading.current_thread() is threading.main_thread()
    raising = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if main and signal.getsignal(number) is signal.default_int_handler
    ]
    with interruptible(raising) as asked:
        yield asked
