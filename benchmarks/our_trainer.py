"""Our trainer as one of two sides that are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.setting import Setting, model_directory
from benchmarks.worker import Answer, serve

if TYPE_CHECKING:
    from llmzero.grpo.trainer import Trainer


def serve_steps(setting: Setting) -> None:
    """Take a GRPO step for every request."""
    with our_trainer(setting) as trainer:
        serve(trainer.train_step, partial(_details, trainer), shares_gpu=True)


@contextmanager
def our_trainer(setting: Setting) -> Iterator[Trainer]:
    """Yield our trainer, ready for its first step."""
    from llmzero.cli import composed
    from llmzero.config import TrainConfig
    from llmzero.core.stage import StageDir, StageSpec
    from llmzero.grpo.distributed import join
    from llmzero.grpo.heartbeat import Heartbeat
    from llmzero.grpo.main import prepared
    from llmzero.grpo.phases import Phases

    overrides = [
        *setting.overrides,
        f"model.path={model_directory(setting.model)}",
        f"task._target_={setting.task}",
        f"task.difficulty={setting.difficulty}",
        "trainer.validation_every=1000000",
    ]
    config = composed("train", TrainConfig, overrides)
    hparams = config.catalogue.defaults() | {
        "prompts_per_step": setting.prompts,
        "group_size": setting.group_size,
        "max_completion_length": setting.max_tokens,
        "learning_rate": setting.learning_rate,
        "kl_coef": 0.0,
        "epochs": 1,
        "minibatches": setting.updates,
        "temperature": 1.0,
        "warmup_steps": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        spec = StageSpec("bench", None, 1, Path(folder), None, hparams, 10**6, 0, config.stage_groups)
        stage = StageDir(Path(folder))
        stage.write_spec(spec)
        with prepared(spec, stage, join(600.0), Heartbeat(stage), Phases(), lambda: False) as trainer:
            yield trainer


def _details(trainer: Trainer, metrics: dict[str, float]) -> Answer:
    """Return a step's metrics, the seconds of its phases, and its numbers of tokens."""
    from llmzero.grpo.policy import encode_prompts

    prompts, group = trainer.hparams["prompts_per_step"], trainer.hparams["group_size"]
    examples = trainer.collector.data.take(trainer.position.prompts_seen - prompts, prompts)
    prompt_tokens = group * sum(map(len, encode_prompts(trainer.policy.tokenizer, examples)))
    completion_tokens = round(metrics["completion_length_mean"] * prompts * group)
    return {
        **metrics,
        **trainer.phases.take(),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
    }
