"""What SLURM says of our jobs: one squeue for all of them, and one sacct for those it no longer lists."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError

log = logging.getLogger(__name__)

# States of a job that may still run, or run again.
ALIVE = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
)
JOB_FILE = "job.json"  # of a stage: the id of its job
JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")
TIMEOUT_S = 60.0  # of a call


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
        return self.state in ALIVE and not self.reason.replace("_", " ").startswith("launch failed")


class Queue:
    """The states of all jobs that we follow, at most `poll_s` seconds old.

    A controller that does not answer changes nothing: the last states stay. A job that neither squeue nor
    sacct knows is `GONE`.
    """

    def __init__(self, poll_s: float) -> None:
        self.poll_s = poll_s
        self._followed: set[str] = set()
        self._left: set[str] = set()  # of those, the ones that nobody asks about any more
        self._states: dict[str, JobState] = {}  # of those that we follow
        self._known: dict[str, JobState] = {}  # all of this user's
        self._looked_at = float("-inf")

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

    def named(self, name: str) -> str | None:
        """Return the id of a job of that name that is alive."""
        self._look()
        return next((job_id for job_id, job in self._known.items() if job.alive and job.name == name), None)

    def may_be(self, recorded: Any, name: str) -> bool:
        """Return whether a recorded id can be that of the job of that name: no other job has the id.

        A file of a stranger's could name any job of this user's, and what is followed may be cancelled.
        """
        if not isinstance(recorded, str) or not JOB_ID.fullmatch(recorded):
            return False
        self._look()
        return recorded not in self._known or self._known[recorded].name == name

    def _look(self) -> None:
        """Ask SLURM, where the last answer is too old."""
        if time.monotonic() - self._looked_at < self.poll_s:
            return
        self._looked_at = time.monotonic()
        try:
            self._known = squeue("--me")
            forgotten = self._followed - self._known.keys()
            past = sacct(forgotten) if forgotten else {}
        except (subprocess.SubprocessError, OSError) as error:
            log.warning("SLURM does not answer (%s); asking again in %.0f s", _words(error), self.poll_s)
            return
        self._states |= {
            job_id: self._known.get(job_id) or past.get(job_id) or JobState("GONE")
            for job_id in self._followed
        }
        for job_id in self._left:
            if self._states[job_id].state == "PENDING":
                cancel(job_id)
        self._followed -= {job_id for job_id in self._left if not self._states[job_id].alive}
        self._left &= self._followed


def job_name(stage: Path) -> str:
    """Return the name of a stage's job, which no other stage has, by the stage's directory."""
    return f"llmzero-{hashlib.sha1(str(stage.parent.resolve()).encode()).hexdigest()[:10]}-{stage.name}"


def jobs_of(stages: Sequence[Path]) -> dict[str, tuple[str, JobState]]:
    """Return id and state of the stages' jobs that are alive, by the stage's name; none without a SLURM.

    Raises:
        UserError: SLURM is installed and does not answer.
    """
    if not stages or shutil.which("squeue") is None:
        return {}
    names = {job_name(stage): stage.name for stage in stages}
    try:
        jobs = squeue("--me")
    except (subprocess.SubprocessError, OSError) as error:
        raise UserError(
            f"SLURM does not tell the jobs of this search ({_words(error)}); "
            "try again once `squeue --me` works"
        ) from error
    return {names[job.name]: (job_id, job) for job_id, job in jobs.items() if job.alive and job.name in names}


def squeue(*selection: str) -> dict[str, JobState]:
    """Return jobs by id, the ended ones too that the controller remembers (MinJobAge)."""
    lines = _lines("squeue", "--noheader", "--states=all", "--format=%A|%T|%j|%r", *selection)
    return {
        job_id: JobState(state, name, reason)
        for job_id, state, name, reason in (line.split("|", 3) for line in lines)
    }


def sacct(job_ids: set[str]) -> dict[str, JobState]:
    """Return jobs by id from the accounts; nothing where the cluster keeps none."""
    try:
        lines = _lines(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--format=JobIDRaw,State",
            f"--jobs={','.join(sorted(job_ids))}",
        )
    except subprocess.CalledProcessError:
        return {}
    return {job_id: JobState(state.split()[0]) for job_id, state in (line.split("|", 1) for line in lines)}


def cancel(job_id: str) -> None:
    """End a job, or take it out of the queue; one that has ended by now is left as it is."""
    subprocess.run(["scancel", job_id], capture_output=True, check=False, timeout=TIMEOUT_S)


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return [line for line in done.stdout.splitlines() if line.strip()]


def _words(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip().splitlines()[0]
