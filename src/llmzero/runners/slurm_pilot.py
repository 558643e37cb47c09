"""Deals stages to pilots: SLURM jobs that are asked for once, and run one stage after another."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from llmzero.core.errors import UserError
from llmzero.core.files import open_own
from llmzero.core.settings import setting
from llmzero.core.stage import StageDir, StageSpec, StageStatus
from llmzero.core.text import visible_line
from llmzero.runners import pilot_job
from llmzero.runners.base import StageRunner
from llmzero.runners.directory import DirectoryHandle
from llmzero.runners.environment import hidden, outside_a_job, withheld
from llmzero.runners.pilot_files import PILOT, PilotFiles, Record
from llmzero.runners.pilot_plan import is_leaving, longest_expected, pilots_to_submit
from llmzero.runners.sbatch import NotNowError, RefusedError, python_command, submit
from llmzero.runners.slurm import RETRY_S, SlurmRunnerSettings
from llmzero.runners.slurm_job import given_up, note_requeue
from llmzero.runners.slurm_queue import (
    GONE,
    JobState,
    Queue,
    cancel,
    held_seconds,
    job_name,
    jobs_alive,
    name_within,
)
from llmzero.runners.slurm_resources import EARLY_SIGNAL_S
from llmzero.runners.snapshot import snapshot
from llmzero.runners.warm import modules_of
from llmzero.tree.lease import SILENCE_S, LeaseWatch

log = logging.getLogger(__name__)

LOST_PILOTS = 5  # in a row, before a stage has ended, that are replaced
END_S = 20.0  # for pilots to end by themselves when the search is over
GAP_S = 1.0  # in which a stage may seem to be nowhere, as it is moved while two folders are read
BLAMELESS = ("CANCELLED", "COMPLETED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "DEADLINE", "BOOT_FAIL")


@dataclass
class SlurmPilotSettings(SlurmRunnerSettings):
    """`runner=slurm_pilot`."""

    pilots: int | None = setting(
        None, "jobs that run stages, each with the resources of one; null is search.workers", low=1
    )
    idle_min: float = setting(10.0, "minutes without a stage after which a pilot ends", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "mem_gb" in self.scale:
            raise UserError(
                "runner.scale.mem_gb: a pilot runs stages of all hyperparameters; "
                "set runner.mem_gb for the largest"
            )


@dataclass
class Pilot:
    """A pilot, as its search knows it.

    Attributes:
        watch: sees whether its record is renewed.
        submitted: when, on the monotonic clock, if by us.
        heard: when its record was renewed last, on the same clock.
        over: whether it has ended, and this was taken note of.
    """

    name: str
    job_id: str
    watch: LeaseWatch
    job: JobState = field(default_factory=lambda: JobState("PENDING"))
    record: Record | None = None
    submitted: float | None = None
    heard: float = field(default_factory=time.monotonic)
    over: bool = False

    @property
    def alive(self) -> bool:
        """Whether it may run, or run again; its record tells of one that SLURM does not tell of."""
        if self.job.state == GONE:
            return self.record is not None and time.monotonic() - self.heard < SILENCE_S
        return self.job.alive

    @property
    def runs(self) -> bool:
        """Whether it holds its devices and takes stages."""
        return self.alive and self.job.state != "PENDING"


class SlurmPilotRunner(StageRunner):
    """Stages in pilots. They outlive the driver; the next driver finds them by their names.

    Args:
        directory: the search directory.
        workers: pilots to have at most, where the settings do not say.
        secrets: environment variables with secrets of the driver's, whatever their names.
    """

    def __init__(
        self,
        settings: SlurmPilotSettings,
        directory: Path,
        workers: int = 1,
        secrets: Collection[str] = (),
    ) -> None:
        self.settings, self.secrets = settings, secrets
        self.files = PilotFiles(directory)
        self.most = settings.pilots or workers
        self.processes_per_node = settings.tasks
        if settings.max_gpus is not None and settings.max_gpus < settings.devices:
            raise UserError(f"runner.max_gpus={settings.max_gpus}: one stage takes {settings.devices}")
        self.queue = Queue(settings.poll_s)
        self._prefix = f"{name_within(self.files.folder)}-"  # of the names of pilots' jobs
        self.pilots: dict[str, Pilot] = {}
        self.lost: dict[str, str] = {}  # what became of the pilots of stages that died, by entry
        self._spec: StageSpec | None = None
        self._look_at = self._not_before = float("-inf")
        self._queue_wait = 0.0
        self._lost_in_a_row = 0
        self._pilots_wanted = False

    def start(self, spec: StageSpec) -> PilotHandle:
        """Put the stage into the queue, and see to it that there are pilots.

        Raises:
            UserError: SLURM refuses them for good.
        """
        self._spec, self._pilots_wanted = spec, True
        handle = PilotHandle(self, spec, self.files.add(spec.directory))
        self.look(now=True)
        return handle

    def attach(self, spec: StageSpec) -> PilotHandle | None:
        """Return a handle of a stage that has ended, waits or runs; None where it is gone."""
        self._spec, self._pilots_wanted = spec, True
        entry = self.files.entry_of(spec.directory)
        ended = StageDir(spec.directory).result_file.exists()
        return PilotHandle(self, spec, entry) if ended or entry else None

    def describe(self, stages: Sequence[Path]) -> dict[str, str]:
        """Return the pilot of each stage, or what the stage waits for."""
        holders, jobs = self.files.holders(), self._jobs()
        told: dict[str, str] = {}
        waiting = [job for _, job in jobs.values() if job.state == "PENDING"]
        reasons = sorted({job.reason for job in waiting} - {"", "None"})
        for stage in stages:
            entry = self.files.entry_of(stage)
            if entry in holders:
                job_id, job = jobs.get(holders[entry], ("?", JobState(GONE)))
                told[stage.name] = f"pilot {holders[entry]}: job {job_id} {job.state}"
            elif entry is not None and waiting:
                why = f" ({', '.join(reasons)})" if reasons else ""
                told[stage.name] = f"waits for a pilot: {len(waiting)} job(s) PENDING{why}"
            elif entry is not None:
                told[stage.name] = f"waits for a pilot: {len(jobs)} job(s) at work"
        return told

    def cancel(self, stages: Sequence[Path]) -> list[str]:
        """Take back stages that wait, and pilots; those that run end with their stages."""
        entries = {stage.name: self.files.entry_of(stage) for stage in stages}
        taken_back = [name for name, entry in entries.items() if entry and self.files.withdraw(entry)]
        if self.files.folder.exists():
            open_own(self.files.end_file).close()
        for job_id, job in self._jobs().values():
            if job.state == "PENDING":
                cancel(job_id)
        return taken_back

    def idle(self) -> Mapping[str, float]:
        """Return the device seconds that pilots held without a stage that was charged for them."""
        if self._pilots_wanted:  # also while no stage is there that looks, as agents think
            self.look()
        return {
            f"pilot {name}": round(pilot.record.idle, 3)
            for name, pilot in self.pilots.items()
            if pilot.record
        }

    def close(self) -> None:
        """End all pilots, and wait for it; the search is over."""
        self._pilots_wanted = False
        if not self.files.folder.exists():
            return
        if self._was_over():
            for name in self.files.pilots():
                record = self.files.read(name)
                if record is not None and name not in self.pilots:
                    self._remember(name, record)
            return
        self.look(now=True, submits=False)
        open_own(self.files.end_file).close()
        for patience in (END_S, 2 * END_S):
            deadline = time.monotonic() + patience
            for pilot in self._alive():
                if patience > END_S or not pilot.runs:
                    cancel(pilot.job_id)
            while self._alive() and time.monotonic() < deadline:
                time.sleep(pilot_job.POLL_S)
                self.look(now=True, submits=False)
        if left := [pilot.job_id for pilot in self._alive()]:  # or SLURM does not answer
            log.warning("pilots may be left in the queue: jobs %s", ", ".join(left))

    def _was_over(self) -> bool:
        """Whether an earlier driver saw to the end of all pilots, and none is left."""
        if not self.files.end_file.exists() or self._jobs():
            return False
        records = map(self.files.read, self.files.pilots())
        return all(record is None or record.state == "ended" for record in records)

    def _jobs(self) -> dict[str, tuple[str, JobState]]:
        """Return id and state of all pilots that are alive, by name."""
        jobs = {name.removeprefix(self._prefix): job for name, job in jobs_alive().items()}
        return {name: job for name, job in jobs.items() if PILOT.fullmatch(name)}

    # --- pilots ---

    def look(self, *, now: bool = False, submits: bool = True) -> None:
        """See how pilots and their stages are, take back what those had that are gone, and ask for more.

        Raises:
            UserError: SLURM refuses pilots for good, or one after another is lost.
        """
        if not now and time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self.settings.poll_s
        self._find()
        self._take_back()
        if submits:
            self.files.end_file.unlink(missing_ok=True)
            self._submit()

    def _names(self) -> list[str]:
        """Return the names of pilots that may be, whether they have told of themselves or not."""
        known = (name.removeprefix(self._prefix) for name in self.queue.beginning(self._prefix))
        return sorted({*self.files.pilots(), *filter(PILOT.fullmatch, known)})

    def _alive(self) -> list[Pilot]:
        return [pilot for pilot in self.pilots.values() if pilot.alive]

    def _find(self) -> None:
        """Bring what is known of all pilots up to date."""
        jobs = self.queue.beginning(self._prefix)
        for name in self._names():
            full = job_name(self.files.folder / name)
            pilot = self.pilots.get(name)
            if pilot is not None and pilot.over:
                continue
            record = self.files.read(name)
            if pilot is None:
                pilot = self._met(name, jobs.get(full), record)
            if pilot is None:
                continue
            if pilot.record is None and record and pilot.submitted is not None:
                self._queue_wait = max(self._queue_wait, time.monotonic() - pilot.submitted)
            pilot.record, pilot.job = record, self.queue.state(pilot.job_id)
            if pilot.watch.renewed():
                pilot.heard = time.monotonic()

    def _met(self, name: str, job_id: str | None, record: Record | None) -> Pilot | None:
        """Return a pilot of an earlier driver; None where nothing tells of it but a name."""
        if job_id is not None:
            return self._know(name, job_id)
        if record is None:
            return None
        over = record.state == "ended" or not self.queue.may_be(
            record.job_id, job_name(self.files.folder / name)
        )
        if over:  # in a copied search its job is one of the original, and works there
            self._remember(name, record)
            return None
        return self._know(name, record.job_id)

    def _remember(self, name: str, record: Record) -> None:
        """Know of a pilot that has ended, for what it has held."""
        watch = LeaseWatch(self.files.record_file(name))
        self.pilots[name] = Pilot(name, record.job_id, watch, JobState("COMPLETED"), record, over=True)

    def _know(self, name: str, job_id: str, submitted: float | None = None) -> Pilot:
        self.queue.follow(job_id)
        watch = LeaseWatch(self.files.record_file(name))
        pilot = self.pilots[name] = Pilot(name, job_id, watch, submitted=submitted)
        return pilot

    def _settle(self, pilot: Pilot) -> None:
        """Take note of the end of a pilot; of one that could not tell of it, find out what it has held.

        What its stage is charged for since its last record it has held too, and SLURM's accounts, in whole
        seconds, may know of more.
        """
        pilot.over = True
        self.queue.leave(pilot.job_id)
        record = self.files.read(pilot.name) or self._untold(pilot)  # anew: it may have told more by now
        pilot.record = record
        if record is None or record.state == "ended":
            return
        stage = self.files.stage(record.entry) if record.entry else None
        since = max(0.0, pilot_job.used_by(StageDir(stage)) - record.used) if stage else 0.0
        held = held_seconds([pilot.job_id]).get(pilot.job_id, 0.0)
        record.busy += since
        record.held = max(record.held + since / record.devices, held)
        record.state, record.entry = "ended", None
        self.files.write(pilot.name, record, 0)

    def _untold(self, pilot: Pilot) -> Record | None:
        """Return the record of a pilot that ended before it told of itself; None where it never began.

        Its log shows that it was of this search: a job of one that was deleted may have had the same name.
        """
        ours = any((self.files.folder / "jobs").glob(f"{pilot.job_id}_*"))
        return Record(pilot.job_id, devices=self.settings.devices) if ours else None

    def _take_back(self) -> None:
        """Put stages of pilots that are gone, or wait in SLURM's queue again, back into ours."""
        ended = [pilot for pilot in self.pilots.values() if not pilot.alive and not pilot.over]
        lost = [p for p in ended if p.submitted and (p.record is None or p.record.state != "ended")]
        for pilot in ended:
            self._settle(pilot)
        for entry, name in self.files.holders().items():
            holder = self.pilots.get(name)
            silent = holder is None or time.monotonic() - holder.heard > SILENCE_S
            if holder is None or not holder.alive or (holder.job.state == "PENDING" and silent):
                self._put_back(entry, name, holder)
        if not lost or self.files.end_file.exists():
            return
        self._lost_in_a_row += 1
        if self._lost_in_a_row > LOST_PILOTS:
            raise UserError(
                f"{self._lost_in_a_row} times pilots ended before a stage did, at last job "
                f"{lost[-1].job_id} ({lost[-1].job.state}); see {self.files.folder / 'jobs'}, "
                "then run the same command again"
            )

    def _put_back(self, entry: str, name: str, pilot: Pilot | None) -> None:
        """Have a stage go on elsewhere; where its pilot has failed it counts as died."""
        directory, state = self.files.stage(entry), pilot.job.state if pilot else GONE
        if directory is None or StageDir(directory).result_file.exists():
            self.files.finish(entry, name)
        elif pilot and not pilot.alive and state not in (*BLAMELESS, GONE):
            self.lost[entry] = f"pilot {name} (job {pilot.job_id}) ended: {state}"
            self.files.finish(entry, name)
        elif given_up(StageDir(directory)):
            self.files.finish(entry, name)
        else:
            note_requeue(StageDir(directory), pilot.job_id if pilot else "")
            self.files.give_back(entry, name)

    def _submit(self) -> None:
        """Ask SLURM for as many pilots as there is work for."""
        alive = self._alive()
        serving = [pilot for pilot in alive if not self._leaves(pilot)]
        stages = len(self.files.work()) + len(self.files.holders())
        more = pilots_to_submit(
            stages, len(serving), len(alive), self.most, self.settings.devices, self.settings.max_gpus
        )
        for _ in range(more):
            if time.monotonic() < self._not_before:
                return
            name = f"{1 + max(map(int, [*self.pilots, *self._names()]), default=0):04d}"
            try:
                job_id = self.queue.submitted(job_name(self.files.folder / name), partial(self._sbatch, name))
            except NotNowError as error:
                log.warning("sbatch: %s; trying again in %.0f s", visible_line(str(error)), RETRY_S)
                self._not_before = time.monotonic() + RETRY_S
            except RefusedError as error:
                raise UserError(f"sbatch refuses a pilot: {error}; see the settings of runner") from error
            else:
                self._know(name, job_id, time.monotonic())

    def _leaves(self, pilot: Pilot) -> bool:
        """Return whether a pilot is about to end, so that another has to be asked for."""
        record = pilot.record
        if record is None or not pilot.runs:
            return False
        finished = [stage for each in self.pilots.values() if each.record for stage in each.record.stages]
        whole = 60 * self.settings.timeout_min - self.settings.signal_delay_s - EARLY_SIGNAL_S
        leaving = is_leaving(record.left, whole, longest_expected(finished), self._queue_wait)
        return leaving or record.state in ("draining", "ended")

    def _sbatch(self, name: str) -> str:
        settings, spec = self.settings, self._spec
        assert spec is not None, "pilots are for stages"
        code = snapshot(self.files.home / "code") if settings.snapshot else None
        whole = replace(settings, scale={})  # a pilot's time is no stage's
        parameters = whole.parameters(spec.hparams, job_name(self.files.folder / name), code)
        parameters["srun_args"] += ["--kill-on-bad-exit=1"]  # no task goes on without the others
        times = (settings.idle_min * 60, settings.timeout_min * 60, settings.signal_delay_s + EARLY_SIGNAL_S)
        arguments = [str(self.files.home), name, settings.entry_point, str(settings.cpus_per_task)]
        arguments += [*map(str, times), *sorted(set(modules_of(spec.config)))]
        # All stages of a search have the same task and model, and so the same needs.
        with outside_a_job(), hidden(withheld(spec, settings.pass_env, self.secrets)):
            return submit(
                self.files.folder / "jobs", parameters, python_command(pilot_job.__name__, *arguments)
            )

    def stage_ended(self) -> None:
        """Note that pilots get stages done."""
        self._lost_in_a_row = 0


class PilotHandle(DirectoryHandle):
    """A stage that waits for a pilot, runs in one, or has ended."""

    def __init__(self, runner: SlurmPilotRunner, spec: StageSpec, entry: str | None) -> None:
        super().__init__(spec)
        self._runner, self.spec, self._entry = runner, spec, entry
        self._gone_since: float | None = None

    @property
    def _waits(self) -> bool:
        return self._entry is not None and self._entry in self._runner.files.queued()

    def alive(self) -> bool:
        """Whether the stage waits or runs, or its result may still appear."""
        self._runner.look()
        if self._runner.files.entry_of(self.spec.directory) is not None:
            self._gone_since = None
            return True
        self._gone_since = self._gone_since or time.monotonic()
        return time.monotonic() - self._gone_since < max(self._runner.settings.grace_s, GAP_S)

    def poll(self) -> StageStatus:
        """Return the last heartbeat or the result; `queued` while the stage waits."""
        status = super().poll()
        if status.final and not status.died:
            self._runner.stage_ended()
        elif not status.seconds and self._waits:
            return StageStatus("queued", phase="queued")
        return status

    def stop(self) -> None:
        """Ask the trainer to checkpoint and end; what has not begun is taken back."""
        super().stop()
        if self._stage.result_file.exists() or self._stage.status() or self._entry is None:
            return
        if self._runner.files.withdraw(self._entry):
            self._stage.write_result(self._stage.failure("stopped before it began", 0.0, 0.0))

    def lost(self) -> str:
        """Return what became of a stage that left no result."""
        return self._runner.lost.get(self._entry or "") or super().lost()
