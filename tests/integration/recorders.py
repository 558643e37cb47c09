"""Entry points of stages that write down what they were given, and train nothing."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from llmzero.core.stage import StageDir, StageResult


def environment(directory: str, **_: Any) -> None:
    """Write the environment into `environment.json`."""
    Path(directory, "environment.json").write_text(json.dumps(dict(os.environ)))
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def tell_keys(directory: str) -> None:
    """Say a key of the environment, as a stage does that quotes its server, and fail with it."""
    stage = StageDir(Path(directory))
    print("printed", os.environ["SERVER_KEY"], flush=True)
    logging.getLogger("a").warning("logged %s", os.environ["SERVER_KEY"])
    stage.write_result(stage.failure(f"the server said {os.environ['SERVER_KEY']}", 0.0, 0.0))
