#!/usr/bin/env python
"""Print examples of a task: id, prompt, answer and details."""

from __future__ import annotations

import json

from rich.panel import Panel
from rich.text import Text

from llmzero.cli import launch
from llmzero.config import InspectTaskConfig
from llmzero.core.parts import make
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible, visible_line


def run(config: InspectTaskConfig) -> None:
    """Print the first `n` examples of a split."""
    split = make(config.task, "task").split(config.split)
    examples = split[: config.n]
    console = Terminal(soft_wrap=False)
    for example in examples:
        if config.json:
            print(json.dumps(vars(example), ensure_ascii=False, default=str))
        else:
            details = "".join(f"\n{name}: {value}" for name, value in example.meta.items())
            text = Text(visible(f"{example.prompt}\n\nanswer: {example.answer}{details}"))
            console.print(Panel(text, title=Text(visible_line(example.id)), title_align="left"))
    if not config.json:
        console.print(f"{len(examples)} of the {len(split)} problems of split {config.split}")


if __name__ == "__main__":
    launch("inspect_task", InspectTaskConfig, run)
