"""Runs every stage as a process of its own on this machine, by submitit's local executor."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmzero.core.settings import setting
from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners import entry
from llmzero.runners.base import ENTRY_POINT, StageRunner
from llmzero.runners.directory import DirectoryHandle, submitit_folder
from llmzero.runners.environment import PASS_ENV, hidden, outside_a_job, withheld

if TYPE_CHECKING:
    import submitit

TIMEOUT_MIN = 60 * 24 * 30  # submitit wants a limit; the budget is what ends a stage


@dataclass
class LocalRunnerSettings:
    """`runner=local`."""

    entry_point: str = setting(ENTRY_POINT, "the function that trains a stage, as package.module.function")
    workers: int | None = setting(
        None, "stages that share the machine's cores side by side; null is search.workers", low=1
    )
    threads: int | None = setting(None, "CPU threads of a process; null shares the cores out evenly", low=1)
    gpus_per_stage: int = setting(0, "GPUs that a stage may see; 0 hides them all", low=0)
    processes_per_stage: int | None = setting(
        None, "data-parallel processes of a stage; null is one a GPU, or one", low=1
    )
    pass_env: list[str] = setting([], PASS_ENV)


class LocalRunner(StageRunner):
    """Stages as processes of this machine.

    Args:
        workers: stages that run side by side, where the settings do not say.
        secrets: environment variables with secrets of the driver's, whatever their names.
    """

    def __init__(
        self, settings: LocalRunnerSettings, workers: int = 1, secrets: Collection[str] = ()
    ) -> None:
        self.settings, self.secrets = settings, secrets
        self.processes_per_node = settings.processes_per_stage or max(1, settings.gpus_per_stage)
        share = (settings.workers or workers) * self.processes_per_node
        self.threads = settings.threads or max(1, (os.cpu_count() or 1) // share)

    def start(self, spec: StageSpec) -> LocalHandle:
        """Start the stage's processes; they survive the driver."""
        import submitit  # slow to import, and every launcher imports this module for its settings

        executor = submitit.LocalExecutor(folder=submitit_folder(spec.directory))
        executor.update_parameters(
            timeout_min=TIMEOUT_MIN,
            gpus_per_node=self.settings.gpus_per_stage,
            tasks_per_node=self.processes_per_node,
        )
        secrets = withheld(spec, self.settings.pass_env, self.secrets)
        with _interrupts_ignored(), outside_a_job(), hidden(secrets):
            job = executor.submit(entry.run, str(spec.directory), self.settings.entry_point, self.threads)
        return LocalHandle(spec, job)

    def attach(self, spec: StageSpec) -> LocalHandle | None:
        """Return a handle of a stage that has ended or still runs; None where it died without a result."""
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
