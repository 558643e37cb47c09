"""Entry points of stages that write down what they were given, and train nothing."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

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
