"""Where a stage's base weights come from: the nano model's warm start, or any Hugging Face model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmzero.grpo import nano
from llmzero.tasks.base import Task


@dataclass
class NanoModel:
    """A 0.9 M parameter character-level Qwen3, warm-started on the task's demonstrations and cached by its recipe."""

    recipe: dict[str, Any]
    cache_dir: str
    difficulty: str = "nano"
    hparams: dict[str, Any] = field(default_factory=dict)

    def base_checkpoint(self, task: Task, progress: nano.Progress) -> str:
        """Return the base model's directory, making it where the cache has none."""
        recipe = nano.NanoRecipe(**self.recipe)
        return str(nano.base_checkpoint(recipe, task, Path(self.cache_dir).expanduser(), progress))


@dataclass
class HfModel:
    """Any causal language model: a hub id or a directory. Its architecture and profiles are read before a stage begins, not here."""

    path: str
    difficulty: str = "full"
    architecture: dict[str, Any] | None = None
    profiles: dict[str, Any] = field(default_factory=dict)
    hparams: dict[str, Any] = field(default_factory=dict)

    def base_checkpoint(self, task: Task, progress: nano.Progress) -> str:
        """Return the path or hub id as it is."""
        return self.path
