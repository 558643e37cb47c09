"""A stage that notes when its parts are done: the entry point of `benchmarks/stage_start.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmzero.grpo import main
from llmzero.grpo.experience import Collector
from llmzero.grpo.main import prepare_stages
from llmzero.grpo.trainer import Trainer

__all__ = ["prepare_stages", "run"]
# What ends a part of the start, in order: owner, function, name of the part.
PARTS: tuple[tuple[Any, str, str], ...] = (
    (main, "_position", "spec and task"),
    (main, "load_model", "model"),
    (main, "deepspeed_engine", "optimizer engine"),
    (main, "_look_ahead", "preflight"),
    (main, "_engine", "sampling engine"),
    (Collector, "collect", "first rollouts"),
    (Trainer, "train_step", "first update"),
)


def run(directory: str) -> None:
    """Run the stage; write the clock's time at the first end of each part to `parts.json`."""
    marks = {"process and imports": time.time()}
    for owner, name, part in PARTS:
        setattr(owner, name, _noting(getattr(owner, name), part, marks))
    main.run_stage(directory)
    (Path(directory) / "parts.json").write_text(json.dumps(marks))


def _noting(function: Callable[..., Any], part: str, marks: dict[str, float]) -> Callable[..., Any]:
    def noted(*arguments: Any, **keywords: Any) -> Any:
        if part == "first rollouts":
            marks.setdefault("reference and step", time.time())
        value = function(*arguments, **keywords)
        marks.setdefault(part, time.time())
        return value

    return noted
