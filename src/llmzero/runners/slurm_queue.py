"""What SLURM says of our jobs: one call of squeue for all of them, and one of sacct for those that it has forgotten."""

from __future__ import annotations

import logging
import subprocess
import time
from dataclasses import dataclass

log = logging.getLogger(__name__)

# States of a job that may still run, or run again.
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "SIGNALING", "STAGE_OUT")
TIMEOUT_S = 60.0  # of a call


@dataclass(frozen=True)
class JobState:
    """A job's state in SLURM's words, its name, and why it waits."""

    state: str
    name: str = ""
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether it may still run, or run again."""
        return self.state in ALIVE


class Queue:
    """The states of all jobs that we follow, at most `poll_s` seconds old.

    A controller that does not answer changes nothing: the last states stay. A job that neither squeue nor sacct knows is `GONE`.
    """

    def __init__(self, poll_s: float) -> None:
        self.poll_s = poll_s
        self._followed: set[str] = set()
        self._states: dict[str, JobState] = {}
        self._read_at = float("-inf")

    def follow(self, job_id: str) -> None:
        """Take up a job that was just submitted, or that an earlier driver submitted."""
        self._followed.add(job_id)
        self._states.setdefault(job_id, JobState("PENDING"))

    def forget(self, job_id: str) -> None:
        """Ask no more about a job."""
        self._followed.discard(job_id)

    def state(self, job_id: str) -> JobState:
        """Return a followed job's state."""
        if time.monotonic() - self._read_at >= self.poll_s:
            self.refresh()
        return self._states[job_id]

    def named(self, name: str) -> str | None:
        """Return the id of a job of that name that is alive, as SLURM knows it now."""
        return next((job_id for job_id, job in squeue(f"--name={name}").items() if job.alive), None)

    def refresh(self) -> None:
        """Ask SLURM."""
        self._read_at = time.monotonic()
        if not self._followed:
            return
        try:
            known = squeue("--me")
            forgotten = self._followed - known.keys()
            past = sacct(forgotten) if forgotten else {}
        except (subprocess.SubprocessError, OSError) as error:
            log.warning("SLURM does not answer (%s); asking again in %.0f s", _words(error), self.poll_s)
            return
        self._states |= {job_id: known.get(job_id) or past.get(job_id) or JobState("GONE") for job_id in self._followed}


def squeue(*selection: str) -> dict[str, JobState]:
    """Return jobs by id, the ended ones too that the controller remembers (MinJobAge)."""
    lines = _lines("squeue", "--noheader", "--states=all", "--format=%A|%T|%j|%r", *selection)
    return {job_id: JobState(state, name, reason) for job_id, state, name, reason in (line.split("|", 3) for line in lines)}


def sacct(job_ids: set[str]) -> dict[str, JobState]:
    """Return jobs by id from the accounts; nothing where the cluster keeps none."""
    try:
        lines = _lines("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobIDRaw,State", f"--jobs={','.join(sorted(job_ids))}")
    except subprocess.CalledProcessError:
        return {}
    return {job_id: JobState(state.split()[0]) for job_id, state in (line.split("|", 1) for line in lines)}


def cancel(job_id: str) -> None:
    """End a job, or take it out of the queue."""
    _lines("scancel", job_id)


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return [line for line in done.stdout.splitlines() if line.strip()]


def _words(error: Exception) -> str:
    return str(getattr(error, "stderr", None) or error).strip().splitlines()[0]
