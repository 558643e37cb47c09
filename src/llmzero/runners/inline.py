"""Runs every stage within the driver's own process, one after another: a replay as one batch job."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmzero.core.files import open_own
from llmzero.core.kept import Kept
from llmzero.core.processes import interruptible
from llmzero.core.settings import setting
from llmzero.core.stage import StageDir, StageSpec, StageStatus
from llmzero.runners.base import ENTRY_POINT, StageRunner
from llmzero.runners.entry import LOCK, function_of, is_running, keeping, locked, thread_limits
from llmzero.runners.environment import outside_a_job
from llmzero.runners.local import LocalHandle


@dataclass
class InlineRunnerSettings:
    """`runner=inline`."""

    entry_point: str = setting(ENTRY_POINT, "the function that trains a stage, as package.module.function")
    threads: int | None = setting(None, "CPU threads; null is one a core", low=1)


class InlineRunner(StageRunner):
    """Stages in this very process: the first look at one returns once it has ended, so none is stopped early.

    They share the driver's memory and environment, its keys among them.

    SIGTERM and SIGUSR2 make the stage checkpoint after the step in hand and end the driver; the same command
    goes on from there.

    The entry point is imported with the first stage. It takes the stage directory, and as keywords `started`
    and `interrupted`, as `llmzero.grpo.main.run_stage` does; and `kept`, where it can keep an engine for the
    stage after it.
    """

    def __init__(self, settings: InlineRunnerSettings) -> None:
        self.entry_point = settings.entry_point
        self.threads = settings.threads or os.cpu_count() or 1
        self._kept = Kept()

    def start(self, spec: StageSpec) -> InlineHandle:
        """Return a handle that runs the stage when it is polled: its driver has then told that it begins."""
        return InlineHandle(self, spec)

    def run(self, spec: StageSpec) -> None:
        """Run a stage to its end.

        Raises:
            KeyboardInterrupt: a signal came meanwhile.
        """
        started = time.time()
        os.environ.update(thread_limits(self.threads))
        with (
            outside_a_job(),
            interruptible() as interrupted,
            _alone(spec.directory),
            _logged(StageDir(spec.directory).log_file),
        ):
            function = function_of(self.entry_point)
            keywords = keeping(function, self._kept) | {"started": started, "interrupted": interrupted}
            function(spec.directory, **keywords)
        gc.collect()  # an engine refers to itself in circles: its memory is wanted by the next stage
        if interrupted():
            raise KeyboardInterrupt

    def attach(self, spec: StageSpec) -> LocalHandle | None:
        """Return a handle of a stage that has ended or that another process runs; None where it is gone."""
        ended = StageDir(spec.directory).result_file.exists()
        return LocalHandle(spec) if ended or is_running(spec.directory) else None


class InlineHandle(LocalHandle):
    """A stage that runs, once, when it is polled for the first time."""

    def __init__(self, runner: InlineRunner, spec: StageSpec) -> None:
        super().__init__(spec)
        self._runner, self._spec = runner, spec
        self._begun = False

    def poll(self) -> StageStatus:
        """Run the stage to its end, if it has not run, and report."""
        if not self._begun:
            self._begun = True
            self._runner.run(self._spec)
        return super().poll()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the stage's lock while the block runs, as a stage's own process does."""
    lock = locked(directory / LOCK)
    if lock is None:
        raise BlockingIOError(f"{directory}: another process trains this stage")
    with lock:
        yield


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Redirect all output to a file, also what libraries print past Python."""
    streams = {1: sys.stdout, 2: sys.stderr}
    originals = {descriptor: os.dup(descriptor) for descriptor in streams}
    with open_own(file) as log:
        for descriptor, stream in streams.items():
            stream.flush()
            os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        for descriptor, stream in streams.items():
            stream.flush()
            os.dup2(originals[descriptor], descriptor)
            os.close(originals[descriptor])
