"""What a stage's job runs: the stage, and requeueing itself where it is ended early."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from llmzero.core.files import append_jsonl, read_jsonl
from llmzero.core.processes import identity, interruptible
from llmzero.core.stage import StageDir
from llmzero.runners.entry import function_of, limit_threads, log_to

IDLE_REQUEUES = 5  # jobs in a row that end without a new checkpoint
# Of a stage: when its job was put back into the queue, and from where the next one goes on.
REQUEUES = "requeues.jsonl"
LAST_SECONDS = 600  # that a job waits to be ended after it was put back


def run_job(directory: str, entry_point: str, threads: int) -> None:
    """Run `entry_point(directory, interrupted=...)` in a job; requeue the job where a signal ends it early.

    SLURM sees to it that a job runs once at a time, so there is no lock. A job may come back after it has
    left its result, where its node failed just then: there is nothing to do for it.
    """
    stage = StageDir(Path(directory))
    if stage.result_file.exists():
        return
    log_to(stage)
    limit_threads(threads)
    with interruptible() as interrupted:
        function_of(entry_point)(directory, interrupted=interrupted)
        rank, _, _ = identity()
        if rank == 0 and not stage.result_file.exists():
            requeue(stage)
        elif interrupted():
            _wait_for_the_end()


def requeue(stage: StageDir) -> None:
    """Put this job back into the queue, to go on in the same directory; one that was cancelled just ends."""
    job_id = os.environ["SLURM_JOB_ID"]
    own = stage.complete_checkpoints()
    reached = own[-1].name if own else "none"
    before = [line["checkpoint"] for line in read_jsonl(stage.path / REQUEUES)]
    if len(before) >= IDLE_REQUEUES and set(before[-IDLE_REQUEUES:]) == {reached}:
        status = stage.status()
        error = (
            f"{IDLE_REQUEUES + 1} jobs in a row ended before a new checkpoint; "
            "give stages more time (runner.timeout_min)"
        )
        stage.write_result(stage.failure(error, status.get("seconds", 0.0), status.get("gpu_seconds", 0.0)))
        return
    listed = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job_id}", "--format=%T"],
        capture_output=True,
        text=True,
        check=True,
    )
    if listed.stdout.split() != ["RUNNING"]:
        return
    append_jsonl(stage.path / REQUEUES, [{"job_id": job_id, "time": time.time(), "checkpoint": reached}])
    subprocess.run(["scontrol", "requeue", job_id], check=True)
    _wait_for_the_end()


def _wait_for_the_end() -> None:
    """Sleep until SLURM ends this job: one that ends by itself counts as completed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(LAST_SECONDS)
