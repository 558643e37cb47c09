"""Runs every stage as a process of its own on this machine, by submitit's local executor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import submitit

from llmzero.runners import entry
from llmzero.stage import StageDir, StageResult, StageSpec, StageStatus

TIMEOUT_MIN = 60 * 24 * 30  # submitit wants a limit; the budget is what ends a stage
LOG_TAIL_CHARS = 2000


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
        self, entry_point: str, workers: int = 1, threads: int | None = None, gpus_per_stage: int = 0, processes_per_stage: int | None = None
    ) -> None:
        self.entry_point = entry_point
        self.gpus_per_stage = gpus_per_stage
        self.processes_per_stage = processes_per_stage or max(1, gpus_per_stage)
        self.threads = threads or max(1, (os.cpu_count() or 1) // (workers * self.processes_per_stage))

    def start(self, spec: StageSpec) -> LocalHandle:
        """Start the stage's processes; they survive the driver."""
        executor = submitit.LocalExecutor(folder=spec.directory / "submitit")
        executor.update_parameters(timeout_min=TIMEOUT_MIN, gpus_per_node=self.gpus_per_stage, tasks_per_node=self.processes_per_stage)
        with _interrupts_ignored():
            job = executor.submit(entry.run, str(spec.directory), self.entry_point, self.threads)
        return LocalHandle(spec, job)

    def attach(self, spec: StageSpec) -> LocalHandle | None:
        """Return a handle of a stage that has ended or still runs; None where its process is gone without a result."""
        ended = StageDir(spec.directory).result_file.exists()
        return LocalHandle(spec, None) if ended or entry.is_running(spec.directory) else None


class LocalHandle:
    """A stage's process, seen through its directory."""

    def __init__(self, spec: StageSpec, job: submitit.Job[Any] | None) -> None:
        self._stage = StageDir(spec.directory)
        self._job = job

    def poll(self) -> StageStatus:
        """Return the last heartbeat, or the result. A process that ended without one has died."""
        alive = self._alive()  # asked first: a process may write its result and end between two looks
        heartbeat = self._stage.status()
        result = self._stage.result()
        if result is not None:
            return StageStatus(result.state, result.validation, result.seconds, result.gpu_seconds)
        return StageStatus(
            state="running" if alive else "failed",
            validation=self._stage.validation(),
            seconds=heartbeat.get("seconds", 0.0),
            gpu_seconds=heartbeat.get("gpu_seconds", 0.0),
            phase=heartbeat.get("phase") or "starting",
            progress=heartbeat.get("progress", 0.0),
            died=not alive,
        )

    def stop(self) -> None:
        """Ask the trainer to checkpoint and end."""
        self._stage.request_stop()

    def result(self) -> StageResult:
        """Return the trainer's result, or a failure made from what a dead process left behind."""
        result = self._stage.result()
        if result is not None:
            return result
        heartbeat = self._stage.status()
        log = self._stage.log_file
        tail = log.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip().splitlines() if log.exists() else []
        error = f"the process died without a result (its log: {log}){': ' + tail[-1] if tail else ''}"
        return self._stage.failure(error, heartbeat.get("seconds", 0.0), heartbeat.get("gpu_seconds", 0.0))

    def _alive(self) -> bool:
        started_here = self._job is not None and not self._job.done()
        return started_here or entry.is_running(self._stage.path)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Children inherit that Ctrl-C is ignored: it ends the driver, and the stages go on by themselves."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
