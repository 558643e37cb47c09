"""TRL's GRPOTrainer as one of two sides that are compared."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from benchmarks.meter import Meter
from benchmarks.setting import Setting, model_directory, task_of
from benchmarks.worker import answer


def serve_steps(setting: Setting) -> None:
    """Take a GRPO step for every request."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from llmzero.grpo.policy import encode_prompts, load_tokenizer

    directory = model_directory(setting.model)
    task, tokenizer = task_of(setting), load_tokenizer(directory)
    examples = task.split("train")[: setting.prompts * (setting.rounds + 2)]
    prompts = [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, examples)]
    by_prompt = dict(zip(prompts, examples, strict=True))

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [
            task.reward(by_prompt[prompt], text).value
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            str(directory),
            reward,
            args=GRPOConfig(output_dir=folder, **config_arguments(setting)),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[_turns(setting.updates)],
        )
        trainer.train()


def config_arguments(setting: Setting) -> dict[str, Any]:
    """Return keyword arguments of TRL's GRPOConfig for a step that does the same as ours."""
    return {
        "per_device_train_batch_size": setting.prompts * setting.group_size // setting.updates,
        "steps_per_generation": setting.updates * setting.trl.get("gradient_accumulation_steps", 1),
        "num_generations": setting.group_size,
        "max_completion_length": setting.max_tokens,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "loss_type": "grpo",
        "temperature": 1.0,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "max_steps": setting.updates * (setting.rounds + 2),
        **setting.trl,
    }


def _turns(updates: int) -> Any:
    """Return a callback by which TRL's trainer serves requests: a batch with all its updates for each."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.meter = Meter(shares_gpu=True)
            answer(self.meter.stop())

        def on_step_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % updates == 0:
                sys.stdin.readline()
                self.meter.start()

        def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % updates == 0:
                answer(self.meter.stop())

    return Turns()
