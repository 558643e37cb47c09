#!/usr/bin/env python
"""Reward completions of a file, for trying a reward out or scoring other systems: prints {"id", "reward", "parts"} a line."""

from __future__ import annotations

import json
from pathlib import Path

from llmzero.cli import launch
from llmzero.config import ScoreConfig
from llmzero.core.documents import read_lines
from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.tasks.base import rewards_of


def run(config: ScoreConfig) -> None:
    """Reward every completion, in any number for an example."""
    task = make(config.task, "task")
    examples = {example.id: example for example in task.split(config.split)}
    lines = _read(Path(config.completions).expanduser())
    for place, line in lines:
        if line["id"] not in examples:
            raise UserError(
                f"{place}: id {line['id']!r} is not in split {config.split}, which launchers/inspect_task.py prints"
            )
    answered = [examples[line["id"]] for _, line in lines]
    for example, reward in zip(
        answered, rewards_of(task, answered, [line["completion"] for _, line in lines]), strict=True
    ):
        print(json.dumps({"id": example.id, "reward": reward.value, "parts": reward.parts}))


def _read(file: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the lines, each with its place for messages."""
    found = list(read_lines("completions", file))
    for place, line in found:
        if not isinstance(line.get("id"), str) or not isinstance(line.get("completion"), str):
            raise UserError(f'{place}: must be an object {{"id": ..., "completion": ...}} of two texts')
    return found


if __name__ == "__main__":
    launch("score", ScoreConfig, run)
