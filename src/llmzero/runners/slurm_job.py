"""What a stage's job runs: the stage, and requeueing itself where it is ended early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import append_jsonl, read_jsonl
from llmzero.core.processes import identity, interruptible
from llmzero.core.stage import StageDir
from llmzero.runners.entry import function_of, log_to, thread_limits
from llmzero.runners.slurm_queue import TIMEOUT_S, UNREAD, squeue
from llmzero.tree.lease import Lease, read_lease

T = TypeVar("T")

IDLE_REQUEUES = 5  # jobs in a row that end without a new checkpoint
# Of a stage: when its job was put back into the queue, and from where the next one goes on.
REQUEUES = "requeues.jsonl"
LEASE = "stage.lease"  # names the process of the job that works on the stage
TRIES, PAUSE_S = 5, 10.0  # for a controller that does not answer; a signal leaves two minutes
LAST_SECONDS = 600  # that a job waits to be ended after it was put back


def run_job(directory: str, entry_point: str, threads: int) -> None:
    """Run `entry_point(directory, interrupted=...)` in a job; requeue the job where a signal ends it early.

    SLURM sees to it that a job runs once at a time. A lease keeps out a second job of this stage, which there
    may be where sbatch queued one without saying so. A job may come back after it has left its result, where
    its node failed just then: there is nothing to do for it.
    """
    stage = StageDir(Path(directory))
    if stage.result_file.exists():
        return
    log_to(stage)
    os.environ.update(thread_limits(threads))
    rank, processes, _ = identity()
    with interruptible() as interrupted, stage_lease(stage) if rank == 0 else nullcontext(True) as ours:
        if not ours:
            if processes > 1:  # the others wait for this one
                command("scancel", os.environ["SLURM_JOB_ID"])
            return
        if stage.result_file.exists():  # of the job that had the lease
            return
        function_of(entry_point)(directory, interrupted=interrupted)
        if rank == 0 and not stage.result_file.exists():
            requeue(stage)
        elif interrupted():
            wait_for_the_end()


@contextmanager
def stage_lease(stage: StageDir) -> Iterator[bool]:
    """Hold the stage's lease; yield whether this job alone works in the directory."""
    file = stage.path / LEASE
    with ExitStack() as stack:
        try:
            _discard_damaged(file)
            stack.enter_context(Lease(file).held())
        except UserError:
            other = read_lease(file) or {}
            where = f"process {other.get('pid')} on {other.get('host')}"
            print(f"job {os.environ.get('SLURM_JOB_ID')} ends: {where} works on this stage", flush=True)
            yield False
        else:
            yield True


def _discard_damaged(file: Path) -> None:
    """Delete a lease that does not read: no job has written it, as they write it whole."""
    try:
        read_lease(file)
    except DamagedFileError:
        file.unlink()


def requeue(stage: StageDir) -> None:
    """Put this job back into the queue, to go on in the same directory; one that was cancelled just ends."""
    job_id = os.environ["SLURM_JOB_ID"]
    if given_up(stage):
        return
    job = until_it_answers(lambda: squeue(f"--jobs={job_id}")).get(job_id)
    if job is None or job.state not in ("RUNNING", UNREAD):
        return
    note_requeue(stage, job_id)
    until_it_answers(lambda: command("scontrol", "requeue", job_id))
    wait_for_the_end()


def given_up(stage: StageDir) -> bool:
    """Return whether a stage gets nowhere, as jobs in a row ended before a checkpoint: it fails then."""
    before = [line["checkpoint"] for line in read_jsonl(stage.path / REQUEUES)]
    if len(before) < IDLE_REQUEUES or set(before[-IDLE_REQUEUES:]) != {_reached(stage)}:
        return False
    status = stage.status()
    error = (
        f"{IDLE_REQUEUES + 1} jobs in a row ended before a new checkpoint; "
        "give stages more time (runner.timeout_min)"
    )
    stage.write_result(stage.failure(error, status.get("seconds", 0.0), status.get("gpu_seconds", 0.0)))
    return True


def note_requeue(stage: StageDir, job_id: str) -> None:
    """Note that a stage goes on in another job, and from where."""
    line = {"job_id": job_id, "time": time.time(), "checkpoint": _reached(stage)}
    append_jsonl(stage.path / REQUEUES, [line])


def _reached(stage: StageDir) -> str:
    own = stage.complete_checkpoints()
    return own[-1].name if own else "none"


def command(*words: str) -> None:
    """Run a command of SLURM's.

    Raises:
        OSError, subprocess.SubprocessError: it fails.
    """
    subprocess.run(words, check=True, timeout=TIMEOUT_S)


def until_it_answers(ask: Callable[[], T]) -> T:
    """Return what SLURM says, asking a busy controller again while there is time before the job is ended."""
    for _ in range(TRIES - 1):
        with suppress(subprocess.SubprocessError, OSError):
            return ask()
        time.sleep(PAUSE_S)
    return ask()


def wait_for_the_end() -> None:
    """Sleep until SLURM ends this job: one that ends by itself counts as completed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(LAST_SECONDS)


if __name__ == "__main__":
    run_job(sys.argv[1], sys.argv[2], int(sys.argv[3]))
