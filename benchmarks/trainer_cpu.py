#!/usr/bin/env python
"""Compares our GRPO step and sampler on a CPU with TRL's GRPOTrainer and transformers' generate.

Steps are compared by benchmarks/side_by_side.py, in two processes in turn; the two samplers in turn inside
one process. Ratios are the median of theirs divided by the median of ours: above 1 we are faster. Peak memory
is ours divided by theirs.

Usage: python benchmarks/trainer_cpu.py   (six minutes; writes benchmarks/results/trainer_cpu.json)
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.setting import Setting, model_directory, task_of  # noqa: E402
from benchmarks.side_by_side import compare_steps, ratio, seconds  # noqa: E402
from benchmarks.worker import answer, worker  # noqa: E402

RESULTS = REPOSITORY / "benchmarks/results/trainer_cpu.json"
SETTINGS = {
    "nano": Setting(
        "nano", "nano", 64, 16, 32, 1e-4, 8, updates=4
    ),  # the batch of the last stages in good strategies of the nano model
    "smollm2": Setting("smollm2", "full", 4, 8, 32, 1e-6, 3),
}


def main() -> None:
    """Measure everything and write the results."""
    report: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {},
        "ratios": {},
    }
    for name, setting in SETTINGS.items():
        answers, memory = compare_steps(setting)
        steps = seconds(answers)
        with worker("benchmarks.trainer_cpu:sampling", setting) as ask:
            sampled = ask("")
        report["settings"][name] = {
            **asdict(setting),
            "step_seconds": steps,
            "peak_memory_mib": memory,
            "sampling_seconds": sampled,
        }
        report["ratios"] |= {
            f"{name}_step": ratio(steps),
            f"{name}_sampling": ratio(sampled[str(setting.max_tokens)]),
        }
        report["ratios"][f"{name}_peak_memory"] = round(memory["ours"] / memory["theirs"], 2)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def sampling(setting: Setting) -> None:
    """Answer with the seconds of our sampler and of transformers' generate for the same prompts."""
    import torch

    from llmzero.grpo.policy import encode_prompts, load_model, load_tokenizer
    from llmzero.rollout.base import Sampling
    from llmzero.rollout.settings import TorchEngineSettings
    from llmzero.rollout.torch_engine import TorchEngine

    directory = model_directory(setting.model)
    model, tokenizer = load_model(directory, "float32").eval(), load_tokenizer(directory)
    prompts = encode_prompts(tokenizer, task_of(setting).split("train")[: setting.prompts])
    engine = TorchEngine(TorchEngineSettings())
    engine.start(_Weights(model, tokenizer))
    tokenizer.padding_side = "left"
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    samplers: dict[str, dict[str, list[float]]] = {}
    for length in sorted({setting.max_tokens // 2, setting.max_tokens}):
        limits = {
            "max_new_tokens": length,
            "do_sample": True,
            "top_k": 0,
            "num_return_sequences": setting.group_size,
        }
        sides = samplers[str(length)] = {"ours": [], "theirs": []}
        for turn in range(setting.rounds + 1):
            spent = timed(partial(engine.generate, prompts, Sampling(length, 1.0, setting.group_size, turn)))
            with torch.no_grad():
                reference = timed(partial(model.generate, **batch, **limits))
            if turn:
                sides["ours"].append(spent)
                sides["theirs"].append(reference)
    answer(samplers)


class _Weights:
    """An unpartitioned model with the interface that our sampler expects."""

    partitioned = False

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.directory = model, ""
        self.eos_ids = [tokenizer.eos_token_id]

    def tensors(self) -> Any:
        return self.model.named_parameters()


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return round(time.perf_counter() - started, 4)


if __name__ == "__main__":
    main()
