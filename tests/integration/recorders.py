"""Entry points of stages that write down what they were given, and train nothing."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmzero.core.files import write_json
from llmzero.core.stage import StageDir, StageResult


def environment(directory: str, **_: Any) -> None:
    """Write the environment into `environment.json`."""
    Path(directory, "environment.json").write_text(json.dumps(dict(os.environ)))
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def work(directory: str, **_: Any) -> None:
    """Note each start in `starts.txt`, be at work for some seconds, and end."""
    with Path(directory, "starts.txt").open("a") as starts:
        starts.write(f"{os.environ.get('SLURM_JOB_ID')}\n")
    time.sleep(4.0)
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def tell_keys(directory: str) -> None:
    """Say a key of the environment, as a stage does that quotes its server, and fail with it."""
    stage = StageDir(Path(directory))
    print("printed", os.environ["SERVER_KEY"], flush=True)
    logging.getLogger("a").warning("logged %s", os.environ["SERVER_KEY"])
    stage.write_result(stage.failure(f"the server said {os.environ['SERVER_KEY']}", 0.0, 0.0))


def walk(directory: str, *, interrupted: Callable[[], bool]) -> None:
    """Take the steps of the stage, a tenth of a second each, with a checkpoint after each; leave when asked.

    Each start goes into `starts.txt`: job, rank, first step.
    """
    stage, rank = StageDir(Path(directory)), os.environ.get("SLURM_PROCID", "0")
    steps, done = stage.read_spec().steps, len(stage.complete_checkpoints())
    with (stage.path / "starts.txt").open("a") as starts:
        starts.write(f"{os.environ.get('SLURM_JOB_ID')} {rank} {done}\n")
    earlier, began = float(stage.status().get("seconds", 0.0)), time.time()
    while done < steps and not interrupted() and not stage.stop_file.exists():
        time.sleep(0.1)
        done += 1
        if rank == "0":
            stage.checkpoint(done).mkdir(parents=True)
            (stage.checkpoint(done) / "COMPLETE").touch()
            used = earlier + time.time() - began
            heartbeat = {"phase": "walk", "progress": done / steps, "pid": os.getpid()}
            write_json(stage.status_file, {**heartbeat, "seconds": used, "gpu_seconds": used})
    if rank == "0" and (done == steps or stage.stop_file.exists()):
        used = earlier + time.time() - began
        stage.write_result(StageResult("completed", [], None, None, None, used, used))
