"""What a stage's process runs: log to its directory, call the trainer; and the lock that tells its life."""

from __future__ import annotations

import atexit
import fcntl
import inspect
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO

from llmzero.core.files import open_own
from llmzero.core.kept import Kept
from llmzero.core.stage import StageDir
from llmzero.core.terminal import guard_output

LOCK = "stage.lock"
GRACE_S = 5.0  # for the other processes of a stage to end by themselves where one has ended badly
NEVER = float("inf")
LOOK_S = 0.01  # that a look at a lock may take, which keeps others from taking it meanwhile


def run(stages: Callable[[], None]) -> NoReturn:
    """Run what a stage's process is for, and end this process.

    Threads that still run are not waited for. Ctrl-C in the terminal is for the driver alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = 1
    try:
        stages()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def one(directory: str, entry_point: str) -> None:
    """Run a stage: `entry_point(directory)`, named `package.module.function`, with its output in its log."""
    log_to(StageDir(Path(directory)))
    function_of(entry_point)(directory)


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


def keeping(function: Callable[..., Any], kept: Kept) -> dict[str, Any]:
    """Return the keywords by which an entry point keeps an engine; none where it cannot."""
    return {"kept": kept} if "kept" in inspect.signature(function).parameters else {}


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment that sets the CPU threads of numerical libraries, when they are imported."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve the stage beside them
    }


def locked(file: Path) -> TextIO | None:
    """Return a file that is locked as long as it is open, here or in a process that inherits it.

    The lock is the kernel's: it is gone with the last process that has it, however that ends. A stage's
    processes have that of its directory. It is how a restarted driver knows that a stage lives, and what
    keeps two from training one stage.

    Returns:
        None where another has the lock.
    """
    lock = open_own(file)
    for last in (False, True):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0 if last else LOOK_S)
        else:
            return lock
    lock.close()
    return None


def is_running(directory: Path) -> bool:
    """Return whether a process holds the stage's lock."""
    try:
        with (directory / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may look at the same time
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


if __name__ == "__main__":
    run(lambda: one(*sys.argv[1:]))
