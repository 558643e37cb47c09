"""Bounds of task settings, and what reading them imports."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.core.parts import make

TARGETS = {
    "countdown": "countdown.Countdown",
    "metro": "metro.Metro",
    "tower": "tower.Tower",
    "math": "mathematics.mathematics",
    "chem": "chemistry.chemistry",
    "ssmr": "music.sheet_music",
    "jsonl": "jsonl.JsonLines",
    "reasoning_gym": "reasoning.ReasoningGym",
}
WRONG: list[tuple[list[str], str, Any, str]] = [
    (list(TARGETS), "train_size", 0, "at least 1"),
    (list(TARGETS), "val_size", 1, "at least 2"),
    (list(TARGETS), "test_size", 1, "at least 2"),
    (["countdown", "math", "chem", "ssmr"], "difficulty", "hard", "one of full, nano"),
    (["math"], "source", "published", "one of generated, gsm8k, math"),
    (["chem", "ssmr"], "source", "gsm8k", "one of generated, published"),
    (["math", "jsonl", "reasoning_gym"], "workers", 0, "at least 1"),
    (["jsonl", "reasoning_gym"], "timeout_s", -1.0, "at least 0"),
    (["jsonl", "reasoning_gym"], "timeout_s", float("nan"), "a number, at least 0"),
]


PUBLISHED = {"math": "gsm8k", "chem": "published", "ssmr": "published"}


@pytest.mark.parametrize(
    ("task", "key"),
    [
        *((task, key) for task in PUBLISHED for key in ("source", "path")),
        *(("math", "subset"), ("ssmr", "subset")),
    ],
)
def test_a_data_set_that_would_go_unread_is_refused(task: str, key: str) -> None:
    source = {"source": PUBLISHED[task]} if key == "source" else {key: "here", "difficulty": "full"}
    said = "at task.difficulty=nano" if key == "source" else f"task.{key}=here: is of a published data set"
    with pytest.raises(UserError, match=said):
        make({"_target_": f"llmzero.tasks.{TARGETS[task]}", **source}, "task")


@pytest.mark.parametrize(
    ("task", "key", "value", "bounds"),
    [(task, key, value, bounds) for tasks, key, value, bounds in WRONG for task in tasks],
)
def test_values_out_of_range_are_refused(task: str, key: str, value: Any, bounds: str) -> None:
    needed = {"jsonl": {"path": "x"}, "reasoning_gym": {"dataset": "leg_counting"}}.get(task, {})
    with pytest.raises(UserError, match=rf"task\.{key}={value}: must be {bounds}"):
        make({"_target_": f"llmzero.tasks.{TARGETS[task]}", **needed, key: value}, "task")


def test_settings_of_all_tasks_are_read_without_the_libraries_that_the_tasks_need() -> None:
    modules = ", ".join(f"llmzero.tasks.{target.partition('.')[0]}" for target in TARGETS.values())
    heavy = ("torch", "rdkit", "music21", "datasets", "math_verify", "reasoning_gym", "jinja2", "sympy")
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
