"""Where a stage's base weights come from: the nano model's warm start, or any Hugging Face model."""

from __future__ import annotations

from pathlib import Path

from llmzero.grpo import nano
from llmzero.grpo.settings import HfModelSettings, NanoModelSettings
from llmzero.tasks.base import Task


class NanoModel:
    """A 0.9 M parameter character-level Qwen3, warm-started on the task's demonstrations and cached by its
    recipe.
    """

    def __init__(self, settings: NanoModelSettings) -> None:
        self.settings = settings

    def base_checkpoint(self, task: Task, progress: nano.Progress) -> str:
        """Return the base model's directory, making it where the cache has none."""
        cache_dir = Path(self.settings.cache_dir).expanduser()
        return str(nano.base_checkpoint(self.settings.recipe, task, cache_dir, progress))


class HfModel:
    """Any causal language model: a hub id or a directory. Its architecture and profiles are read before a
    stage begins, not here.
    """

    def __init__(self, settings: HfModelSettings) -> None:
        self.settings = settings

    def base_checkpoint(self, task: Task, progress: nano.Progress) -> str:
        """Return the path or hub id as it is."""
        return self.settings.path
