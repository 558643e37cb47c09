#!/usr/bin/env python
"""Our GRPO step and sampler on a CPU, side by side with TRL's GRPOTrainer and transformers' generate.

Steps are compared as benchmarks/side_by_side.py does it, in two processes by turns. The same is done with the two samplers inside
one process. Ratios are theirs by ours, of medians: above 1 we are faster; peak memory is ours by theirs.

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

from benchmarks.side_by_side import (  # noqa: E402
    Setting,
    answer,
    compare_steps,
    model_directory,
    ratio,
    seconds,
    task_of,
    worker,
)

RESULTS = REPOSITORY / "benchmarks/results/trainer_cpu.json"
SETTINGS = {
    "nano": Setting(
        "nano", "nano", 64, 16, 32, 1e-4, 8, updates=4
    ),  # the batch that the strategies of nano searches end with
    "smollm2": Setting("smollm2", "full", 4, 8, 32, 1e-6, 3),
}


def main() -> None:
    """Measure everything and write it down."""
    found: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {},
        "ratios": {},
    }
    for name, setting in SETTINGS.items():
        answers, memory = compare_steps(setting)
        steps = seconds(answers)
        with worker("benchmarks.trainer_cpu:sampling", setting) as ask:
            sampled = ask("")
        found["settings"][name] = {
            **asdict(setting),
            "step_seconds": steps,
            "peak_memory_mib": memory,
            "sampling_seconds": sampled,
        }
        found["ratios"] |= {
            f"{name}_step": ratio(steps),
            f"{name}_sampling": ratio(sampled[str(setting.max_tokens)]),
        }
        found["ratios"][f"{name}_peak_memory"] = round(memory["ours"] / memory["theirs"], 2)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def sampling(setting: Setting) -> None:
    """Answer with the seconds that our sampler and transformers' generate take for the same prompts, by turns, at several lengths."""
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
    found: dict[str, dict[str, list[float]]] = {}
    for length in sorted({setting.max_tokens // 2, setting.max_tokens}):
        limits = {
            "max_new_tokens": length,
            "do_sample": True,
            "top_k": 0,
            "num_return_sequences": setting.group_size,
        }
        sides = found[str(length)] = {"ours": [], "theirs": []}
        for turn in range(setting.rounds + 1):
            spent = timed(partial(engine.generate, prompts, Sampling(length, 1.0, setting.group_size, turn)))
            with torch.no_grad():
                reference = timed(partial(model.generate, **batch, **limits))
            if turn:
                sides["ours"].append(spent)
                sides["theirs"].append(reference)
    answer(found)


class _Weights:
    """A model in one piece, as our sampler wants to see it."""

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
