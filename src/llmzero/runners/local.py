"""Runs every stage as a process of its own on this machine, by submitit's local executor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import submitit

from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners import entry
from llmzero.runners.directory import DirectoryHandle

TIMEOUT_MIN = 60 * 24 * 30  # submitit wants a limit; the budget is what ends a stage


class LocalRunner:
    """Stages as processes of this machine.

    Args:
        entry_point: the function that trains a stage, as `package.module.function`.
        workers: stages that run side by side; the machine's cores are shared out among them.
        threads: CPU threads a process; null shares the cores out evenly.
        gpus_per_stage: GPUs a stage may see; 0 hides them all.
        processes_per_stage: data-parallel processes of a stage; null is one a GPU, or one.
    """

    def __init__(
        self,
        entry_point: str,
        workers: int = 1,
        threads: int | None = None,
        gpus_per_stage: int = 0,
        processes_per_stage: int | None = None,
    ) -> None:
        self.entry_point = entry_point
        self.gpus_per_stage = gpus_per_stage
        self.processes_per_stage = processes_per_stage or max(1, gpus_per_stage)
        self.threads = threads or max(1, (os.cpu_count() or 1) // (workers * self.processes_per_stage))

    def start(self, spec: StageSpec) -> LocalHandle:
        """Start the stage's processes; they survive the driver."""
        executor = submitit.LocalExecutor(folder=spec.directory / "submitit")
        executor.update_parameters(
            timeout_min=TIMEOUT_MIN,
            gpus_per_node=self.gpus_per_stage,
            tasks_per_node=self.processes_per_stage,
        )
        with _interrupts_ignored():
            job = executor.submit(entry.run, str(spec.directory), self.entry_point, self.threads)
        return LocalHandle(spec, job)

    def attach(self, spec: StageSpec) -> LocalHandle | None:
        """Return a handle of a stage that has ended or still runs; None where its process is gone without a result."""
        ended = StageDir(spec.directory).result_file.exists()
        return LocalHandle(spec, None) if ended or entry.is_running(spec.directory) else None


class LocalHandle(DirectoryHandle):
    """A stage's process on this machine."""

    def __init__(self, spec: StageSpec, job: submitit.Job[Any] | None) -> None:
        super().__init__(spec)
        self._directory, self._job = spec.directory, job

    def alive(self) -> bool:
        """Whether the process runs."""
        started_here = self._job is not None and not self._job.done()
        return started_here or entry.is_running(self._directory)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Children inherit that Ctrl-C is ignored: it ends the driver, and the stages go on by themselves."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
