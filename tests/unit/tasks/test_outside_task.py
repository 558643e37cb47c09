"""Tasks of other packages take whatever keywords they like, those that ours use with another meaning too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmzero.cli import composed
from llmzero.config import InspectTaskConfig
from llmzero.core.parts import make

OUTSIDE = """
class Task:
    metric = "correct"

    def __init__(self, difficulty, source, seed, name, workers=None, **others):
        own = {"difficulty": difficulty, "source": source, "seed": seed, "name": name, "workers": workers}
        self.values = own | others
"""
KEYWORDS: dict[str, Any] = {
    "difficulty": "hard",  # none of our levels
    "source": ["a.txt", "b.txt"],
    "seed": "of the day",
    "name": "theirs",
    "workers": 0,
    "settings": {"depth": 2},
}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_task.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_keywords_of_an_outside_task_reach_it_unchanged() -> None:
    task = make({"_target_": "outside_task.Task", **KEYWORDS}, "task")
    assert task.values == KEYWORDS


def test_a_launcher_takes_an_outside_task_with_any_keywords() -> None:
    overrides = [f"+task.{name}={str(value).replace(chr(39), '')}" for name, value in KEYWORDS.items()]
    config = composed(
        "inspect_task", InspectTaskConfig, ["task=none", "task._target_=outside_task.Task", *overrides]
    )
    assert make(config.task, "task").values == KEYWORDS
