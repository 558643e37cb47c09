"""What SLURM says of our jobs: one squeue for all of them, and one sacct for those it no longer lists."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.text import visible_line
from llmzero.runners.sbatch import NotNowError, RefusedError

log = logging.getLogger(__name__)

GONE = "GONE"  # the state of a job that SLURM does not tell of
# States of a job that runs no more. Any other counts as alive, unknown ones too: waiting for a job that has
# ended costs time, and replacing one that runs would put two of them into one directory.
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", GONE, "LAUNCH_FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "SPECIAL_EXIT", "TIMEOUT"),
)
UNREAD = "UNKNOWN"  # the state of a job whose line does not read
JOB_FILE = "job.json"  # of a stage: the id of its job
JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")
STATE = re.compile(r"[A-Z][A-Z_]+")  # sacct's may go on: CANCELLED by 0
TASKS = re.compile(r"([0-9]+)_\[([0-9,:-]+)(%[0-9]+)?\]")  # waiting tasks of an array, in one line
MOST_TASKS = 100_000  # of an array that are told apart
TIME = re.compile(r"(?:(?:([0-9]+)-)?([0-9]+):)?([0-9]+):([0-9]+)")  # days-hours:minutes:seconds
TIMEOUT_S = 60.0  # of a call
_SAID: set[str] = set()
# Variables that a user has set for their own eyes: they would leave out jobs or change what is printed.
HABITS = ("SQUEUE_", "SACCT_")


@dataclass(frozen=True)
class JobState:
    """A job's state in SLURM's words, its name, and why it waits."""

    state: str
    name: str = ""
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether it may still run, or run again.

        A job that a node could not start is held until somebody helps: it counts as dead.
        """
        return self.state not in ENDED and not self.reason.replace("_", " ").startswith("launch failed")


class Queue:
    """The states of all jobs that we follow, at most `poll_s` seconds old.

    A controller that does not answer changes nothing: the last states stay. A job that neither squeue nor
    sacct knows is `GONE`; so is one that squeue does not know where there is no sacct.
    """

    def __init__(self, poll_s: float) -> None:
        self.poll_s = poll_s
        self._followed: set[str] = set()
        self._left: set[str] = set()  # of those, the ones that nobody asks about any more
        self._states: dict[str, JobState] = {}  # of those that we follow
        self._known: dict[str, JobState] = {}  # all of this user's
        self._looked_at = float("-inf")
        self._answered = False
        self._tried: set[str] = set()  # names of jobs that were submitted, whatever came of it

    def follow(self, job_id: str) -> None:
        """Follow a submitted job; it counts as pending until SLURM tells its state."""
        self._followed.add(job_id)
        self._states[job_id] = self._known.get(job_id) or JobState("PENDING")

    def leave(self, job_id: str) -> None:
        """Follow a job no longer than to its end.

        What comes back into the queue, as after the failure of a node, is cancelled.
        """
        self._left.add(job_id)

    @property
    def alive(self) -> int:
        """How many of the jobs that we followed have not ended."""
        self._look()
        return sum(self._states[job_id].alive for job_id in self._followed)

    def state(self, job_id: str) -> JobState:
        """Return a followed job's state."""
        self._look()
        return self._states[job_id]

    def named(self, name: str, *, ended: bool = False) -> str | None:
        """Return the id of a job of that name that is alive; with `ended` of any, the alive ones first."""
        self._look()
        jobs = [(job.alive, job_id) for job_id, job in self._known.items() if job.name == name]
        alive, job_id = max(jobs, default=(False, None))
        return job_id if alive or ended else None

    def submitted(self, name: str, submit: Callable[[], str], *, ended: bool = False) -> str:
        """Return the id of the job of that name: the one that SLURM has, or the one that `submit` makes.

        A submission that failed may have succeeded all the same, and who submitted it may have been killed
        before noting the id. So SLURM is asked for the name before each submission, and after a failed one.

        Args:
            name: which no other job has.
            submit: as `sbatch.submit` does.
            ended: whether a job that has ended will do.

        Raises:
            NotNowError: SLURM does not answer, or refuses the job for a reason that passes.
            RefusedError: it refuses the job for good.
        """
        found = self.find(name, ended=ended, now=name in self._tried)
        if found is not None:
            return found
        self._tried.add(name)
        try:
            return submit()
        except (NotNowError, RefusedError) as error:
            found = self.find(name, ended=ended)
            if found is None:
                raise
            log.warning("sbatch: %s; but it has queued job %s", visible_line(str(error)), found)
            return found

    def beginning(self, prefix: str) -> dict[str, str]:
        """Return the ids of the jobs whose names begin so, by name, those that have ended too."""
        self._look()
        found = sorted((job.alive, job_id, job.name) for job_id, job in self._known.items())
        return {name: job_id for _, job_id, name in found if name.startswith(prefix)}

    def find(self, name: str, *, ended: bool = True, now: bool = True) -> str | None:
        """Return what `named` does, for certain; with `now` an earlier answer does not do.

        Raises:
            NotNowError: SLURM does not answer.
        """
        if now:
            self._looked_at = float("-inf")
        found = self.named(name, ended=ended)
        if not self._answered:
            raise NotNowError("SLURM does not tell whether that job is in the queue")
        return found

    def may_be(self, recorded: Any, name: str) -> bool:
        """Return whether a recorded id can be that of the job of that name: no other job has the id.

        `name` may be the first words of it, without the dash that follows them.

        A file of a stranger's could name any job of this user's, and what is followed may be cancelled.
        """
        if not isinstance(recorded, str) or not JOB_ID.fullmatch(recorded):
            return False
        self._look()
        known = self._known.get(recorded)
        return known is None or known.name == name or known.name.startswith(f"{name}-")

    def _look(self) -> None:
        """Ask SLURM, where the last answer is too old."""
        if time.monotonic() - self._looked_at < self.poll_s:
            return
        self._looked_at, self._answered = time.monotonic(), False
        try:
            self._known = squeue("--me")
        except FileNotFoundError as error:
            raise UserError("there is no SLURM on this machine: no squeue on the PATH") from error
        except (subprocess.SubprocessError, OSError) as error:
            log.warning("SLURM does not answer (%s); asking again in %.0f s", _words(error), self.poll_s)
            return
        self._answered = True
        forgotten = self._followed - self._known.keys()
        past = sacct(forgotten) if forgotten else {}
        self._states |= {
            job_id: self._known.get(job_id) or past.get(job_id) or JobState(GONE) for job_id in self._followed
        }
        for job_id in self._left:
            if self._states[job_id].state == "PENDING":
                cancel(job_id)
        self._followed -= {job_id for job_id in self._left if not self._states[job_id].alive}
        self._left &= self._followed


def job_name(stage: Path) -> str:
    """Return the name of a stage's job, which no other stage has, by the stage's directory."""
    return f"{name_within(stage.parent)}-{stage.name}"


def name_within(folder: Path) -> str:
    """Return the first words of the names of all jobs of a folder, which no other folder's have."""
    return f"llmzero-{hashlib.sha1(str(folder.resolve()).encode()).hexdigest()[:10]}"


def jobs_of(stages: Sequence[Path]) -> dict[str, tuple[str, JobState]]:
    """Return id and state of the stages' jobs that are alive, by the stage's name; none without a SLURM.

    Raises:
        UserError: SLURM is installed and does not answer.
    """
    names = {job_name(stage): stage.name for stage in stages}
    jobs = jobs_alive() if stages else {}
    return {names[name]: job for name, job in jobs.items() if name in names}


def jobs_alive() -> dict[str, tuple[str, JobState]]:
    """Return id and state of all jobs of this user that are alive, by name; none without a SLURM.

    Raises:
        UserError: SLURM is installed and does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    try:
        jobs = squeue("--me")
    except (subprocess.SubprocessError, OSError) as error:
        raise UserError(
            f"SLURM does not tell the jobs of this search ({_words(error)}); "
            "try again once `squeue --me` works"
        ) from error
    return {job.name: (job_id, job) for job_id, job in jobs.items() if job.alive}


def squeue(*selection: str) -> dict[str, JobState]:
    """Return jobs by id, the ended ones too that the controller remembers (MinJobAge).

    Raises:
        OSError, subprocess.SubprocessError: it does not answer, or there is none.
    """
    return _jobs("squeue", "--noheader", "--states=all", "--format=%i|%T|%j|%r", *selection)


def sacct(job_ids: set[str]) -> dict[str, JobState]:
    """Return jobs by id from the accounts; nothing where the cluster keeps none, or they do not answer.

    How a job ended is all that they add: what the controller does not list has ended.
    """
    options = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State")
    try:
        return _jobs("sacct", *options, f"--jobs={','.join(sorted(job_ids))}")
    except (subprocess.SubprocessError, OSError) as error:
        _say_once(f"sacct: {_words(error)}; how jobs ended is told by their files alone")
        return {}


def time_left(job_id: str) -> float | None:
    """Return the seconds until a running job's time limit; None where SLURM tells of none."""
    return _seconds("%L", job_id)


def time_used(job_id: str) -> float:
    """Return for how many seconds a job has run since it started last; 0 where SLURM does not tell."""
    return _seconds("%M", job_id) or 0.0


def _seconds(field: str, job_id: str) -> float | None:
    try:
        [text] = _printed("squeue", "--noheader", f"--format={field}", f"--jobs={job_id}")
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
    match = TIME.fullmatch(text.strip())
    if match is None:  # UNLIMITED, or nothing that we know
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 60.0 * (60 * (24 * days + hours) + minutes) + seconds


def held_seconds(job_ids: Collection[str]) -> dict[str, float]:
    """Return how long jobs have run, all their times together, by id; nothing where no accounts tell."""
    options = ("--noheader", "--parsable2", "--allocations", "--duplicates", "--format=JobID,ElapsedRaw")
    held: dict[str, float] = {}
    with suppress(subprocess.SubprocessError, OSError):
        for line in _printed("sacct", *options, f"--jobs={','.join(sorted(job_ids))}"):
            job_id, _, seconds = line.strip().partition("|")
            if JOB_ID.fullmatch(job_id) and seconds.isdigit():
                held[job_id] = held.get(job_id, 0.0) + int(seconds)
    return held


def cancel(job_id: str) -> None:
    """End a job, or take it out of the queue; one that has ended by now is left as it is."""
    try:
        subprocess.run(["scancel", job_id], capture_output=True, check=False, timeout=TIMEOUT_S)
    except (subprocess.SubprocessError, OSError) as error:
        log.warning("job %s could not be cancelled: %s", job_id, _words(error))


def _jobs(*command: str) -> dict[str, JobState]:
    """Return the jobs that a command lists, a line each: id|state|name|reason, or without the last two.

    Lines that do not read are left out. One of which the id alone reads is of a job that SLURM knows.
    """
    jobs: dict[str, JobState] = {}
    for line in _printed(*command):
        job_id, state, name, reason = (*line.strip().split("|", 3), "", "", "")[:4]
        ids, words = _ids(job_id), STATE.match(state)
        if not (ids and words) and not line.startswith("CLUSTER:"):  # as squeue begins with SLURM_CLUSTERS
            words_of_it = visible_line(line)[:200]
            _say_once(f"{command[0]}: cannot read the line {words_of_it!r}; such lines are left out")
        job = JobState(words[0], name, reason) if words else JobState(UNREAD)
        jobs.update({each: job for each in ids if words or each not in jobs})
    return jobs


def _printed(*command: str) -> list[str]:
    """Return the lines that a command prints.

    Raises:
        OSError, subprocess.SubprocessError: it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(HABITS)}
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=TIMEOUT_S,
        env={**environment, "SLURM_BITSTR_LEN": "0"},  # else squeue cuts the list of an array's tasks
    )
    return [line for line in done.stdout.split("\n") if line.strip()]


def _ids(text: str) -> list[str]:
    """Return the ids that a line is about: one, or those of an array's tasks; none of a step (1.batch)."""
    if JOB_ID.fullmatch(text):
        return [text]
    if (tasks := TASKS.fullmatch(text)) is None:
        return []
    numbers: list[int] = []
    with suppress(ValueError):  # no list of tasks after all
        for part in tasks[2].split(","):
            span, _, step = part.partition(":")
            first, _, last = span.partition("-")
            end = min(int(last or first), int(first) + MOST_TASKS - len(numbers))
            numbers += range(int(first), end + 1, int(step or 1))
    return [f"{tasks[1]}_{number}" for number in numbers]


def _say_once(message: str) -> None:
    """Warn of it, unless it was said before; what differs in its numbers alone, as in the time, was."""
    kind = re.sub(r"[0-9]+", "0", message)
    if kind not in _SAID:
        _SAID.add(kind)
        log.warning("%s", message)


def _words(error: Exception) -> str:
    return (str(getattr(error, "stderr", None) or error).strip() or type(error).__name__).splitlines()[0]
