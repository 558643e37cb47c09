#!/usr/bin/env python
"""Print examples of a task: id, prompt, answer and what else is known of them."""

from __future__ import annotations

import json

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from llmzero.cli import launch
from llmzero.config import InspectTaskConfig
from llmzero.core.parts import make
from llmzero.tasks.base import Example


def run(config: InspectTaskConfig) -> None:
    """Print the first `n` examples of a split."""
    examples = make(config.task, "task").split(config.split)[: config.n]
    console = Console()
    for example in examples:
        if config.json:
            print(json.dumps(vars(example), ensure_ascii=False, default=str))
        else:
            console.print(_panel(example))


def _panel(example: Example) -> Panel:
    meta = "".join(f"\n{name}: {value}" for name, value in example.meta.items())
    return Panel(
        Text(f"{example.prompt}\n\nanswer: {example.answer}{meta}"), title=example.id, title_align="left"
    )


if __name__ == "__main__":
    launch("inspect_task", InspectTaskConfig, run)
