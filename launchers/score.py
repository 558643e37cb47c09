#!/usr/bin/env python
"""Reward completions of a file, to try out a reward or score other systems: prints id, reward, parts."""

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
    """Reward every completion; an example may have any number of them."""
    task = make(config.task, "task")
    problems = {example.id: example for example in task.split(config.split)}
    examples, completions = [], []
    for location, record in read_lines("completions", Path(config.completions).expanduser()):
        identity, completion = record.get("id"), record.get("completion")
        if not isinstance(identity, str) or not isinstance(completion, str):
            raise UserError(f'{location}: must be an object {{"id": ..., "completion": ...}} of two texts')
        if identity not in problems:
            raise UserError(
                f"{location}: id {identity!r} is not in split {config.split}, "
                "which launchers/inspect_task.py prints"
            )
        examples.append(problems[identity])
        completions.append(completion)
    rewards = rewards_of(task, examples, completions)
    for example, reward in zip(examples, rewards, strict=True):
        print(json.dumps({"id": example.id, "reward": reward.value, "parts": reward.parts}))


if __name__ == "__main__":
    launch("score", ScoreConfig, run)
