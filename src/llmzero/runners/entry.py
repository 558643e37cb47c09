"""What a stage's process runs first: log to the stage directory, take the stage's lock, call the trainer."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from llmzero.core.files import open_own
from llmzero.core.processes import identity
from llmzero.core.stage import StageDir
from llmzero.core.terminal import guard_output

LOCK = "stage.lock"


def run(directory: str, entry_point: str, threads: int) -> None:
    """Run `entry_point(directory)`, named `package.module.function`, unless the stage already runs.

    Each of a stage's processes has its lock. It is the kernel's: it is gone with the process, however that
    ends. It is how a restarted driver knows that a stage lives, and what keeps two processes from training
    one stage.
    """
    stage = StageDir(Path(directory))
    _, _, local_rank = identity()
    lock = open_own(stage.path / (f"{LOCK}.{local_rank}" if local_rank else LOCK))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    log_to(stage)
    limit_threads(threads)
    function_of(entry_point)(directory)
    lock.close()


def log_to(stage: StageDir) -> None:
    """Append what this process prints to the stage's log, without secrets."""
    log = open_own(stage.log_file)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    guard_output()


def function_of(entry_point: str) -> Callable[..., Any]:
    """Return the function named `package.module.function`."""
    module, function = entry_point.rsplit(".", 1)
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded


def limit_threads(threads: int) -> None:
    """Set the CPU threads of the numerical libraries that are imported from now on."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["OMP_WAIT_POLICY"] = (
        "PASSIVE"  # threads that spin while they wait starve the stage beside them
    )


def is_running(directory: Path) -> bool:
    """Return whether a process holds the stage's lock."""
    try:
        with (directory / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
