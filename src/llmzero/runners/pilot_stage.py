"""What a stage's process runs in a pilot: the trainer, alone in its directory, while its pilot lives."""

from __future__ import annotations

import ctypes
import inspect
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from llmzero.core.processes import SIGNALS, identity
from llmzero.core.stage import StageDir
from llmzero.runners.entry import function_of
from llmzero.runners.slurm_job import stage_lease
from llmzero.runners.warm_parent import PREPARE

ENTRY_POINT = "LLMZERO_ENTRY_POINT"  # the variable that names the function that trains
AT_WORK_ELSEWHERE = 75  # the exit code where another process works on the stage
PR_SET_PDEATHSIG = 1


def run(directory: str, *, started: float | None = None, kept: Any = None) -> None:
    """Run the stage's entry point, unless the stage has ended or another process works on it.

    An engine is kept for the next stage where the stage has one process: several, which have a warm parent
    each, could not be sure to go on together. It is killed with the process that started it, so no stage goes
    on without its pilot. Signals ask it to leave with a checkpoint, however many come: SLURM sends them to
    all processes of a job.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    interrupted = noting_signals()
    stage = StageDir(Path(directory))
    leads = identity()[0] == 0
    with stage_lease(stage) if leads else nullcontext(True) as ours:
        if not ours:
            sys.exit(AT_WORK_ELSEWHERE)
        if not stage.result_file.exists():
            function = function_of(os.environ[ENTRY_POINT])
            offered = {"started": started, "kept": kept if identity()[1] == 1 else None}
            takes = inspect.signature(function).parameters
            given = {name: value for name, value in offered.items() if value is not None and name in takes}
            function(directory, interrupted=interrupted, **given)


def prepare_stages(directory: str) -> None:
    """Do what the trainer's module does before every stage, where it does."""
    module = sys.modules.get(os.environ[ENTRY_POINT].rpartition(".")[0])
    prepare: Callable[[str], None] | None = getattr(module, PREPARE, None)
    if prepare is not None:
        prepare(directory)


def noting_signals() -> Callable[[], bool]:
    """Return a function that tells whether a signal has asked us to leave.

    Those that came before are delivered now: pilots start stages with them blocked.
    """
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        received.append(number)

    for number in SIGNALS:
        signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return lambda: bool(received)
