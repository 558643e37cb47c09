"""Entry points of stages that write down what they were given, and train nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmzero.core.stage import StageDir, StageResult


def environment(directory: str, **_: Any) -> None:
    """Write the environment into `environment.json`."""
    Path(directory, "environment.json").write_text(json.dumps(dict(os.environ)))
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))
