"""An entry point that imports what the trainer imports, and writes down what that has made of its process."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import torch

from llmzero.core.stage import StageDir, StageResult
from llmzero.grpo.accelerator import deepspeed
from llmzero.grpo.main import run_stage

__all__ = ["run_stage"]


def run(directory: str) -> None:
    """Write `facts.json`, and end well."""
    facts = {
        "environment": dict(os.environ),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "accelerator": deepspeed.get_accelerator().device_name(),
        "product": (torch.ones(64, 64) @ torch.full((64, 64), 0.1)).sum().item(),
    }
    drawn = [random.random(), float(np.random.random()), torch.rand(1).item()]
    Path(directory, "facts.json").write_text(json.dumps(facts))
    Path(directory, "drawn.json").write_text(json.dumps(drawn))
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))
