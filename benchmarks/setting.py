"""What two trainers that are compared have in common: model, task, batch, learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ON_CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "float32"},
}


@dataclass(frozen=True)
class Setting:
    """What both trainers do.

    Attributes:
        model: `nano`, `smollm2`, or `qwen3_0_6b` and `qwen3_small` with random weights.
        difficulty: of the task.
        prompts: prompts of a step.
        group_size: completions of a prompt.
        max_tokens: length limit of a completion.
        learning_rate: constant.
        rounds: steps that are timed; one more comes first, untimed.
        overrides: Hydra overrides of our stage.
        trl: keyword arguments of TRL's GRPOConfig.
        task: import path of the task's class.
        updates: optimizer steps on each batch of completions.
    """

    model: str
    difficulty: Literal["nano", "full"]
    prompts: int
    group_size: int
    max_tokens: int
    learning_rate: float
    rounds: int
    overrides: Sequence[str] = ("model=hf",)
    trl: Mapping[str, Any] = field(default_factory=lambda: ON_CPU)
    task: str = "llmzero.tasks.countdown.Countdown"
    updates: int = 1


def model_directory(name: str) -> Path:
    """Return the Hugging Face directory of a setting's model; it is made where the cache has none."""
    if name == "smollm2":
        from benchmarks.smollm2 import smollm2_directory

        return smollm2_directory()
    if name == "nano":
        from llmzero.cli import composed
        from llmzero.config import TrainConfig
        from llmzero.core.parts import make

        config = composed("train", TrainConfig)
        model, task = make(config.model, "model"), make(config.task, "task")
        return Path(model.base_checkpoint(task, lambda phase, progress: None))
    from benchmarks.random_qwen3 import random_qwen3_directory

    return random_qwen3_directory(small=name == "qwen3_small")


def task_of(setting: Setting) -> Any:
    """Return the task of a setting."""
    from llmzero.core.parts import make

    return make({"_target_": setting.task, "difficulty": setting.difficulty}, "task")
