"""Runs every stage as a SLURM job of its own, by submitit."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmzero.core.errors import UserError
from llmzero.core.files import read_json, write_json
from llmzero.core.hparams import Catalogue
from llmzero.core.settings import setting
from llmzero.core.stage import StageDir, StageSpec, StageStatus
from llmzero.core.text import visible_line
from llmzero.runners import slurm_job
from llmzero.runners.base import ENTRY_POINT, StageRunner
from llmzero.runners.directory import DirectoryHandle, submitit_folder
from llmzero.runners.environment import PASS_ENV, hidden, outside_a_job, withheld
from llmzero.runners.sbatch import NotNowError, RefusedError, python_command, submit
from llmzero.runners.slurm_queue import GONE, JOB_FILE, JobState, Queue, cancel, job_name, jobs_of
from llmzero.runners.slurm_resources import JobResources
from llmzero.runners.snapshot import snapshot
from llmzero.tree.lease import SILENCE_S, LeaseWatch

log = logging.getLogger(__name__)

RETRY_S = 30.0  # after sbatch was refused for a reason that passes


@dataclass
class SlurmRunnerSettings(JobResources):
    """`runner=slurm`."""

    entry_point: str = setting(
        ENTRY_POINT,
        "the function that trains a stage, as package.module.function; it takes the stage directory and "
        "the keyword interrupted",
    )
    max_gpus: int | None = setting(
        None, "devices that all jobs of this search may hold at a time; a CPU process counts as one", low=1
    )
    poll_s: float = setting(2.0, "seconds between two questions to SLURM, each about all jobs", low=0)
    grace_s: float = setting(
        15.0, "seconds after a stage's end in which its result may appear on the shared file system", low=0
    )
    pass_env: list[str] = setting([], PASS_ENV)
    snapshot: bool = setting(True, "jobs run a copy of this package as it was at their submission")


class SlurmRunner(StageRunner):
    """Stages as SLURM jobs. A job outlives the driver; the next driver looks it up by its name.

    Args:
        catalogue: the hyperparameters, by which `scale` is checked.
        secrets: environment variables with secrets of the driver's, whatever their names.
    """

    def __init__(
        self,
        settings: SlurmRunnerSettings,
        catalogue: Catalogue | None = None,
        secrets: Collection[str] = (),
    ) -> None:
        self.settings, self.secrets = settings, secrets
        if catalogue is not None:
            settings.check_scale(catalogue)
        self.processes_per_node = settings.tasks
        if settings.max_gpus is not None and settings.max_gpus < settings.devices:
            raise UserError(f"runner.max_gpus={settings.max_gpus}: one stage takes {settings.devices}")
        self.queue = Queue(settings.poll_s)
        self._waiting: list[SlurmHandle] = []
        self._not_before = float("-inf")

    def start(self, spec: StageSpec) -> SlurmHandle:
        """Submit the stage's job, at once or when `max_gpus` allows it.

        Raises:
            UserError: SLURM refuses it for good.
        """
        handle = SlurmHandle(self, spec)
        self._waiting.append(handle)
        self.submit_waiting()
        return handle

    def attach(self, spec: StageSpec) -> SlurmHandle | None:
        """Return a handle of a stage that has ended or whose job SLURM knows; None if never submitted."""
        handle = SlurmHandle(self, spec)
        if StageDir(spec.directory).result_file.exists():
            return handle
        name, job = job_name(spec.directory), read_json(spec.directory / JOB_FILE) or {}
        # In a copied search it is the original's job, which works there.
        recorded = job.get("job_id") if job.get("name", name) == name else None
        job_id = self.queue.named(name) or (recorded if self.queue.may_be(recorded, name) else None)
        if job_id is None:
            return None
        handle.take(job_id)
        return handle

    def describe(self, stages: Sequence[Path]) -> dict[str, str]:
        """Return the job of each stage that has one, its state and why it waits."""
        return {
            name: f"job {job_id} {job.state}" + (f" ({job.reason})" if job.reason not in ("", "None") else "")
            for name, (job_id, job) in jobs_of(stages).items()
        }

    def cancel(self, stages: Sequence[Path]) -> list[str]:
        """Take waiting jobs out of the queue; whoever goes on with the search submits them again."""
        waiting = {name: job_id for name, (job_id, job) in jobs_of(stages).items() if job.state == "PENDING"}
        for stage in stages:
            if stage.name in waiting:
                cancel(waiting[stage.name])
                (stage / JOB_FILE).unlink(missing_ok=True)
        return list(waiting)

    def submit_waiting(self) -> None:
        """Submit as many of the waiting stages as may run now, in their order."""
        limit = self.settings.max_gpus
        # A job that sbatch queued without saying so may be done by now.
        self._waiting = [handle for handle in self._waiting if not handle.has_result]
        while self._waiting and time.monotonic() >= self._not_before:
            if limit is not None and (self.queue.alive + 1) * self.settings.devices > limit:
                return
            handle = self._waiting[0]
            try:
                self._place(handle)
            except NotNowError as error:
                log.warning("sbatch: %s; trying again in %.0f s", visible_line(str(error)), RETRY_S)
                self._not_before = time.monotonic() + RETRY_S
                return
            self._waiting.pop(0)

    def withdraw(self, handle: SlurmHandle) -> None:
        """Take a stage that was not submitted off the list."""
        self._waiting.remove(handle)

    def _place(self, handle: SlurmHandle) -> None:
        """Give a stage its job.

        Raises:
            NotNowError: SLURM does not answer, or refuses the job for a reason that passes.
            UserError: SLURM refuses it for good.
        """
        spec, name = handle.spec, handle.name
        try:
            handle.take(self.queue.submitted(name, lambda: self._submit(spec, name)))
        except RefusedError as error:
            raise UserError(
                f"sbatch refuses the job of stage {spec.node_id}: {error}; see the settings of runner"
            ) from error

    def _submit(self, spec: StageSpec, name: str) -> str:
        code = snapshot(spec.directory.parent.parent / "code") if self.settings.snapshot else None
        parameters = self.settings.parameters(spec.hparams, name, code)
        arguments = [str(spec.directory), self.settings.entry_point, str(self.settings.cpus_per_task)]
        with outside_a_job(), hidden(withheld(spec, self.settings.pass_env, self.secrets)):
            return submit(
                submitit_folder(spec.directory), parameters, python_command(slurm_job.__name__, *arguments)
            )


class SlurmHandle(DirectoryHandle):
    """A stage's job, queued, running or ended."""

    def __init__(self, runner: SlurmRunner, spec: StageSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        self.name = job_name(spec.directory)
        self.job_id: str | None = None
        self._runner = runner
        self._ended_at: float | None = None
        self._lease = LeaseWatch(spec.directory / slurm_job.LEASE)

    def take(self, job_id: str) -> None:
        """Follow a job, and note its id."""
        self.job_id = job_id
        self._runner.queue.follow(job_id)
        note = {"job_id": job_id, "name": self.name, "submitted_at": time.time()}
        if (read_json(self.spec.directory / JOB_FILE) or {}).get("job_id") != job_id:
            write_json(self.spec.directory / JOB_FILE, note)

    @property
    def has_result(self) -> bool:
        """Whether a job has left the stage's result, if only one that we do not know."""
        return self._stage.result_file.exists()

    @property
    def _job(self) -> JobState:
        return self._runner.queue.state(self.job_id) if self.job_id else JobState("WAITING")

    def alive(self) -> bool:
        """Whether the job may still run or its result appear."""
        self._runner.submit_waiting()
        if self.job_id is None or self._job.alive:
            self._ended_at = None
            return True
        if (other := self._runner.queue.named(self.name)) is not None:  # ours found it at work, and ended
            self.take(other)
            return True
        gone = self._job.state == GONE
        if gone and self._lease.renewed():  # a job is at work that SLURM does not tell of
            self._ended_at = None
        self._ended_at = self._ended_at or time.monotonic()
        silence = SILENCE_S if gone and self._lease.present else 0.0
        return time.monotonic() - self._ended_at < max(self._runner.settings.grace_s, silence)

    def poll(self) -> StageStatus:
        """Return the last heartbeat or the result; `queued` while the job waits."""
        status = super().poll()
        if status.final:
            if self.job_id:
                self._runner.queue.leave(self.job_id)
        elif not status.seconds and self._job.state in ("WAITING", "PENDING"):
            return StageStatus("queued", phase="queued")
        return status

    def stop(self) -> None:
        """Ask the trainer to checkpoint and end; what has not begun is taken back."""
        super().stop()
        if self.has_result or self._stage.status():  # it has begun, whatever sbatch said
            return
        if self.job_id is None:
            self._runner.withdraw(self)
        elif self._job.state == "PENDING":
            cancel(self.job_id)
        else:
            return
        self._stage.write_result(self._stage.failure("stopped before it began", 0.0, 0.0))

    def lost(self) -> str:
        """Return how a job ended that left no result."""
        return f"job {self.job_id} ended without a result: {self._job.state}"

    @property
    def worth_another_try(self) -> bool:
        """A job that somebody cancelled stays cancelled."""
        return self._job.state != "CANCELLED"
