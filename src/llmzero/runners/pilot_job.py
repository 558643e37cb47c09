"""What a pilot runs, a process a task: rank 0 takes stages from the search directory, the others follow."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmzero.core.errors import DamagedFileError
from llmzero.core.files import read_json, write_json
from llmzero.core.processes import SIGNALS, identity
from llmzero.core.stage import StageDir
from llmzero.runners import entry as stage_entry
from llmzero.runners import pilot_stage
from llmzero.runners.pilot_files import PilotFiles, Record
from llmzero.runners.pilot_plan import expected_seconds, fits, longest_expected
from llmzero.runners.slurm_job import command, given_up, note_requeue, until_it_answers, wait_for_the_end
from llmzero.runners.slurm_queue import UNREAD, job_name, squeue, time_left, time_used
from llmzero.runners.warm import UNSEEN, WarmParent, WarmStage

POLL_S = 0.1  # between two looks at the queue, or at a stage
RENEWAL_S = 2.0  # between two records
ELSEWHERE_S = 5.0  # until a stage is tried again that another process works on
OTHERS_WAIT_S = 10.0  # of a process for others of its stage which have ended, until it is killed
OTHERS_S = 60.0  # for the other tasks to end their part of a stage after rank 0 has
STAGES_KEPT = 20  # of which steps and seconds are told
FIRST_PORT, PORTS = 33_500, 4096  # where the processes of a stage meet; each stage has another


class Starter:
    """Starts the process of this task's part of a stage, by a fork of one that has imported what it needs.

    Args:
        entry_point: the function that trains a stage, as package.module.function.
        threads: CPU threads of a process.
        modules: what else to import beforehand.
    """

    def __init__(self, entry_point: str, threads: int, modules: Sequence[str]) -> None:
        limits = stage_entry.thread_limits(threads)
        self._environment = {**os.environ, **limits, pilot_stage.ENTRY_POINT: entry_point}
        self._modules = [entry_point.rpartition(".")[0], *modules]
        self._parent = self._new_parent()

    def _new_parent(self) -> WarmParent:
        """Return a process that has signals wait, as all that it forks does until it handles them.

        SLURM sends them to all processes of a job.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return WarmParent(f"{pilot_stage.__name__}.run", self._environment, self._modules)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def start(self, directory: Path, number: int) -> WarmStage:
        """Start it.

        Args:
            directory: the stage's.
            number: of the stage in this pilot; no two have the port that their processes meet at.
        """
        environment = self._environment
        if identity()[1] > 1:
            port = FIRST_PORT + (16 * int(os.environ["SLURM_JOB_ID"]) + number) % PORTS
            environment = {**environment, "MASTER_PORT": str(port)}
        with suppress(OSError):
            if self._parent.alive:
                return self._parent.start(directory, [environment])
        self._parent = self._new_parent()
        return self._parent.start(directory, [environment])


class Tasks:
    """How the tasks of a pilot with several agree: one file says which stage, one a task how its part ended.

    Files are replaced by renaming. What an earlier time of the job has left does not count.
    """

    def __init__(self, files: PilotFiles, pilot: str) -> None:
        self._files, self._pilot = files, pilot
        self.others = range(1, identity()[1])
        self._time = os.environ.get("SLURM_RESTART_COUNT", "0")

    def tell(self, number: int, entry: str | None, *, over: bool = False) -> None:
        """Say which stage is run, and whether it is over; None is the end of the pilot."""
        if self.others:
            self._write("task", {"number": number, "entry": entry, "over": over})

    def told(self) -> dict[str, Any]:
        """Return what was said last."""
        return self._read("task") or {"number": 0, "entry": "", "over": True}

    def answer(self, rank: int, number: int, status: int) -> None:
        """Say how a task's part of a stage has ended."""
        self._write(f"rank{rank}", {"number": number, "status": status})

    def answers(self, number: int) -> list[int]:
        """Return how those parts have ended that have."""
        said = [self._read(f"rank{rank}") for rank in self.others]
        return [each["status"] for each in said if each and each["number"] == number]

    def _write(self, name: str, content: dict[str, Any]) -> None:
        file = self._files.folder / f"{self._pilot}.{name}"
        write_json(file, {"time": self._time, **content}, sync=False)

    def _read(self, name: str) -> dict[str, Any] | None:
        content = read_json(self._files.folder / f"{self._pilot}.{name}")
        return content if content and content.get("time") == self._time else None


class Pilot:
    """Rank 0 of a pilot.

    Args:
        home: the search directory.
        name: the pilot's.
        starter: starts this task's part of a stage.
        idle_s: seconds without a stage after which it ends.
        limit_s: seconds that it may run, where SLURM does not say.
        early_s: seconds before its time limit in which it is told to end.
        asked_to_leave: tells whether a signal has come.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        starter: Starter,
        *,
        idle_s: float,
        limit_s: float,
        early_s: float,
        asked_to_leave: Callable[[], bool],
    ) -> None:
        self.files, self.name, self.starter = PilotFiles(home), name, starter
        self.idle_s, self.asked_to_leave = idle_s, asked_to_leave
        self.job_id = os.environ["SLURM_JOB_ID"]
        self.tasks = Tasks(self.files, name)
        earlier = self._earlier()
        # Its setup and imports held the devices, too.
        self.held_before = (earlier.held if earlier else 0.0) + time_used(self.job_id)
        self.began = time.monotonic()
        self.whole = (time_left(self.job_id) or limit_s) - early_s
        self.record = Record(self.job_id, devices=identity()[1])
        if earlier:
            self.record.busy, self.record.stages = earlier.busy, earlier.stages
        self.renewals, self.renewed_at, self.number = 0, float("-inf"), 0
        self.elsewhere: dict[str, float] = {}  # stages that others work on, and when

    def _earlier(self) -> Record | None:
        """Return what this pilot told before it was requeued."""
        with suppress(DamagedFileError):
            return self.files.read(self.name)
        return None

    def serve(self) -> None:
        """Run stages until nothing is left to do, or SLURM ends this job."""
        self._renew(now=True)
        while (entry := self._next()) is not None:
            self._run(entry)
        self.tasks.tell(self.number + 1, None)
        for entry, pilot in self.files.holders().items():
            if pilot == self.name:
                self.files.give_back(entry, pilot)
        asked = self.asked_to_leave()
        self.record.entry, self.record.state = None, "draining" if asked else "ended"
        self._renew(now=True)
        if asked:
            self._leave()

    def _next(self) -> str | None:
        """Wait for a stage that fits, and take it; None where the pilot is to end, as when none would fit."""
        since = time.monotonic()
        for entry, pilot in self.files.holders().items():
            if pilot == self.name and self.files.stage(entry) and not self.asked_to_leave():
                return entry  # taken before the job was requeued
        while not self.asked_to_leave() and not self.files.end_file.exists():
            for entry in self.files.queued():
                if self._wants(entry) and self.files.take(entry, self.name):
                    return entry
            useless = not fits(longest_expected(self.files.finished()), self._left, self.whole)
            if useless or time.monotonic() - since > self.idle_s:
                return None
            self._renew()
            time.sleep(POLL_S)
        return None

    def _wants(self, entry: str) -> bool:
        """Return whether a stage can be run now, and fits into the time left."""
        directory = self.files.stage(entry)
        if directory is None or time.monotonic() - self.elsewhere.get(entry, -ELSEWHERE_S) < ELSEWHERE_S:
            return False
        return fits(
            expected_seconds(_left(StageDir(directory)), self.files.finished()), self._left, self.whole
        )

    @property
    def _left(self) -> float:
        return self.whole - (time.monotonic() - self.began)

    def _run(self, entry: str) -> None:
        """Run a stage, and see to it that it is known how it ended."""
        directory = self.files.stage(entry)
        assert directory is not None
        stage = StageDir(directory)
        if stage.result_file.exists():  # of a time before the job was requeued
            self.files.finish(entry, self.name)
            return
        left, before, began = _left(stage), used_by(stage), time.monotonic()
        self.record.used = before
        self.number += 1
        self.record.state, self.record.entry = "busy", entry
        self.tasks.tell(self.number, entry)
        process, others_failed = self.starter.start(directory, self.number), 0.0
        busy = self.record.busy
        self._renew(now=True)
        while (status := process.poll()) is None:
            if any(self.tasks.answers(self.number)):
                others_failed = others_failed or time.monotonic()
                _end(process, others_failed)
            self._count(stage, busy - before)
            self._renew()
            time.sleep(POLL_S)
        self._end_others(entry)
        self._count(stage, busy - before)
        self.record.state, self.record.entry = "idle", None
        if stage.result_file.exists():
            self.record.stages = [*self.record.stages, [left, time.monotonic() - began]][-STAGES_KEPT:]
            self._renew(now=True)
            self.files.finish(entry, self.name)
        else:
            lost_sight = status == UNSEEN and process.pids != [None]  # as the warm parent was killed
            self._unfinished(entry, stage, 0 if lost_sight else status)

    def _count(self, stage: StageDir, offset: float) -> None:
        """Take over what a stage has used by now, which is what it is charged for."""
        self.record.used = max(self.record.used, used_by(stage))
        self.record.busy = self.record.used + offset

    def _unfinished(self, entry: str, stage: StageDir, status: int) -> None:
        """Put a stage back that was interrupted or runs elsewhere; of one that has died, say so."""
        self._renew(now=True)
        if status == pilot_stage.AT_WORK_ELSEWHERE:
            self.elsewhere[entry] = time.monotonic()
            self.files.give_back(entry, self.name)
        elif status and not self.asked_to_leave():
            ended = f"signal {-status}" if status < 0 else f"exit code {status}"
            with suppress(OSError), stage.log_file.open("a") as log:
                log.write(f"pilot {self.name}: the stage's process ended by {ended}\n")
            self.files.finish(entry, self.name)
        elif given_up(stage):
            self.files.finish(entry, self.name)
        else:
            note_requeue(stage, self.job_id)
            self.files.give_back(entry, self.name)

    def _end_others(self, entry: str) -> None:
        """Wait for the other tasks' parts of a stage.

        Raises:
            TimeoutError: they do not end.
        """
        self.tasks.tell(self.number, entry, over=True)
        deadline = time.monotonic() + OTHERS_S
        while len(self.tasks.answers(self.number)) < len(self.tasks.others):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the other tasks of pilot {self.name} do not answer")
            self._renew()
            time.sleep(POLL_S)

    def _renew(self, *, now: bool = False) -> None:
        """Replace the record, where the last one is old."""
        if not now and time.monotonic() - self.renewed_at < RENEWAL_S:
            return
        self.renewed_at = time.monotonic()
        self.renewals += 1
        self.record.held = self.held_before + time.monotonic() - self.began
        self.record.left = self._left
        with suppress(OSError):  # a full disk is reported by whatever fails for it
            self.files.write(self.name, self.record, self.renewals)

    def _leave(self) -> None:
        """Come back by SLURM's queue, where stages wait that no other pilot is for."""
        jobs = until_it_answers(lambda: squeue("--me"))
        own = jobs.get(self.job_id)
        if own is None or own.state not in ("RUNNING", UNREAD):
            return
        names = {
            job_name(self.files.record_file(pilot).with_suffix("")): pilot for pilot in self.files.pilots()
        }
        prefix = own.name.rpartition("-")[0]
        free = 0
        for job_id, job in jobs.items():
            if job_id != self.job_id and job.alive and prefix and job.name.rpartition("-")[0] == prefix:
                record = self.files.read(names[job.name]) if job.name in names else None
                free += job.state == "PENDING" or record is None or record.state == "idle"
        if len(self.files.work()) > free and not self.files.end_file.exists():
            until_it_answers(lambda: command("scontrol", "requeue", self.job_id))
            wait_for_the_end()
        self.record.state = "ended"
        self._renew(now=True)


def follow(files: PilotFiles, pilot: str, starter: Starter) -> None:
    """Be one of the other tasks: run its part of each stage that rank 0 names."""
    rank, tasks = identity()[0], Tasks(files, pilot)
    done, over_at = 0, 0.0
    process: WarmStage | None = None
    while True:
        task = tasks.told()
        if task["entry"] is None:
            return
        if process is None and task["number"] > done and not task["over"]:
            directory = files.stage(task["entry"])
            assert directory is not None
            process, done, over_at = starter.start(directory, task["number"]), task["number"], 0.0
        elif process is None and task["number"] > done:  # it was over before we saw it
            done = task["number"]
            tasks.answer(rank, done, 0)
        elif process is not None:
            if task["number"] == done and task["over"]:
                over_at = over_at or time.monotonic()
                _end(process, over_at)
            if (status := process.poll()) is not None:
                tasks.answer(rank, done, status)
                process = None
        time.sleep(POLL_S)


def _end(process: WarmStage, since: float) -> None:
    """Kill a process that waits for others of its stage; they have ended so long ago that it would have."""
    if time.monotonic() - since > OTHERS_WAIT_S:
        process.signal(signal.SIGKILL)


def _left(stage: StageDir) -> float:
    """Return what a stage has left to train, in steps or FLOPs."""
    own = stage.complete_checkpoints()
    done = int(own[-1].name.removeprefix("step_")) if own else 0
    try:
        return stage.read_spec().length.left(done, stage.flops(until=done))
    except DamagedFileError:  # its process will say so
        return 0


def used_by(stage: StageDir) -> float:
    """Return the device seconds that a stage has used so far, as it is charged for."""
    with suppress(DamagedFileError):
        result = stage.result()
        return result.gpu_seconds if result else float(stage.status().get("gpu_seconds", 0.0))
    return 0.0


def main() -> None:
    """Run a pilot's task."""
    home, name, entry_point, threads, idle_s, limit_s, early_s, *modules = sys.argv[1:]
    starter = Starter(entry_point, int(threads), modules)
    asked_to_leave = pilot_stage.noting_signals()
    if identity()[0]:
        follow(PilotFiles(Path(home)), name, starter)
        return
    times = {"idle_s": float(idle_s), "limit_s": float(limit_s), "early_s": float(early_s)}
    Pilot(Path(home), name, starter, **times, asked_to_leave=asked_to_leave).serve()


if __name__ == "__main__":
    main()
