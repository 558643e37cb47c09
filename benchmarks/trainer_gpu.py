#!/usr/bin/env python
"""Our GRPO step on one GPU beside TRL's, and our update alone beside prime-rl's published figure.

`step`: whole steps with colocated vLLM in bfloat16, compared as benchmarks/side_by_side.py does it: two processes share the GPU and
take steps by turns, each with a small share for its vLLM; by calculation both fit into 80 GB. TRL holds weights and optimizer in
bfloat16 alone, as it does by default for such a checkpoint; we keep float32 master weights. Neither corrects for the sampler's mismatch.
Phases, shares and tokens a second are ours.

`trainer`: updates on two made-up completions that fill 16,384 tokens each, one a micro-batch, with activations recomputed, as prime-rl
does in its benchmark. MFU counts 6 N + 12 L H d T floating-point operations a token, as torchtitan does: N parameters, without those of
an input embedding that is not the output layer too; L layers, H heads of d dimensions, T tokens a sequence; no discount for the causal
mask, nothing for recomputation. prime-rl's 11.1 % takes the hidden size for H d, half of it for this model; by our count it is 17.9 %.

The model is Qwen3-0.6B with weights at random, so nothing is downloaded; rewards are drawn by lot, so gradients are not 0.
Memory is what the GPU holds, CUDA's context included.

Usage: python benchmarks/trainer_gpu.py           (some minutes; writes benchmarks/results/trainer_gpu.json)
       python benchmarks/trainer_gpu.py --smoke   (half a minute on a CPU; tiny, and writes nothing)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.side_by_side import (  # noqa: E402
    Answer,
    Setting,
    compare_steps,
    model_directory,
    our_trainer,
    own_memory,
    ratio,
    seconds,
    serve,
    worker,
)
from llmzero.grpo.batch import Sample  # noqa: E402
from llmzero.planning.architecture import Architecture  # noqa: E402
from llmzero.tasks.base import Example, Reward  # noqa: E402
from llmzero.tasks.countdown import Countdown  # noqa: E402

RESULTS = REPOSITORY / "benchmarks/results/trainer_gpu.json"
NO_GPU = 2  # exit status
PHASES = ("generation", "reward", "logprobs", "update", "handover")
PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
}  # dense bfloat16; the first that fits
PUBLISHED = 11_900.0  # tokens a second of prime-rl's update on one H100
LOT = "benchmarks.trainer_gpu.Lottery"

ON_GPU = ("model=qwen3_0_6b", "hardware=one_80gb")
TRL_ON_GPU = {
    "bf16": True,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 16,
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": 0.2,
    "vllm_max_model_length": 2048,
    "vllm_importance_sampling_correction": False,
}
SHARED = (
    "trainer.micro_batch_tokens=8704",
    "rollout.gpu_memory_utilization=0.2",
    "rollout.max_model_len=2048",
)  # 8 rows, as TRL's
ALONE = ("rollout=torch", "trainer.activation_checkpointing=true")
SETTINGS = {
    "step": Setting("qwen3_0_6b", "nano", 16, 8, 1024, 2e-6, 4, (*ON_GPU, *SHARED), TRL_ON_GPU, LOT),
    "trainer": Setting(
        "qwen3_0_6b", "nano", 2, 1, 16_000, 2e-6, 5, (*ON_GPU, *ALONE, "trainer.micro_batch_tokens=16384")
    ),
}
SMOKE = {
    "step": Setting("qwen3_small", "nano", 4, 2, 8, 1e-4, 1, task=LOT),
    "trainer": Setting(
        "qwen3_small", "nano", 2, 1, 48, 1e-4, 2, ("model=hf", *ALONE, "trainer.micro_batch_tokens=64")
    ),
}


class Lottery(Countdown):
    """Countdown with rewards at random: a model with weights at random never writes an expression."""

    def reward(self, example: Example, completion: str) -> Reward:
        """Draw a reward."""
        value = random.random()
        return Reward(value, {"format": value, "correct": value})


def main() -> None:
    """Measure both and write it down; without a GPU say so and end with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--smoke", action="store_true", help="run the same code on a CPU with a tiny model, and write nothing"
    )
    smoke = parser.parse_args().smoke
    if smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if not smoke and not torch.cuda.is_available():
        print("benchmarks/trainer_gpu.py needs a GPU; --smoke runs the same code on a CPU", file=sys.stderr)
        sys.exit(NO_GPU)
    settings = SMOKE if smoke else SETTINGS
    found = {
        "machine": machine(),
        "step": step_report(settings["step"]),
        "trainer": update_report(settings["trainer"]),
    }
    if not smoke:
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def device() -> str | None:
    """Return the GPU's name; None on a CPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides our own code."""
    vllm = packages_distributions()["vllm"][0]  # its builds have names of their own
    versions = {name: version(name) for name in ("torch", "transformers", "deepspeed", "trl", vllm)}
    return {"gpu": device(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


# --- whole steps ---


def step_report(setting: Setting) -> dict[str, Any]:
    """Compare whole steps with TRL's; medians over ours."""
    answers, memory = compare_steps(setting)
    ours, spent = answers["ours"], seconds(answers)
    return {
        **asdict(setting),
        "step_seconds": spent,
        "ratio": ratio(spent),
        "tokens_per_second": rate(ours, "prompt_tokens", "completion_tokens"),
        "completion_tokens_per_second": rate(ours, "completion_tokens"),
        "generation_share": median(answer["seconds_generation"] / answer["seconds"] for answer in ours),
        "phase_seconds": {phase: median(answer[f"seconds_{phase}"] for answer in ours) for phase in PHASES},
        "peak_memory_mib": memory,
        "mismatch_kl": median(answer["mismatch_kl"] for answer in ours),
    }


def rate(answers: Sequence[Answer], *counts: str) -> float:
    """Return the median over steps of these counts by the step's seconds."""
    return float(median(sum(answer[name] for name in counts) / answer["seconds"] for answer in answers))


# --- the update alone ---


def update_report(setting: Setting) -> dict[str, Any]:
    """Measure updates of full sequences; MFU is null where the device's peak is unknown."""
    with worker("benchmarks.trainer_gpu:update", setting) as ask:
        answers = [ask(""), *(ask("step") for _ in range(setting.rounds + 1))]
    timed = answers[2:]  # without getting ready, and without the first update
    tokens_per_second = rate(timed, "tokens")
    architecture = Architecture.from_config(
        json.loads((model_directory(setting.model) / "config.json").read_text())
    )
    flops = flops_per_token(architecture, timed[0]["sequence"])
    name = device() or ""
    peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)
    return {
        "model": setting.model,
        "overrides": setting.overrides,
        "rounds": setting.rounds,
        "sequence": timed[0]["sequence"],
        "tokens": timed[0]["tokens"],
        "update_seconds": [answer["seconds"] for answer in timed],
        "tokens_per_second": tokens_per_second,
        "flops_per_token": flops,
        "peak_tflops": peak,
        "mfu": tokens_per_second * flops / (peak * 1e12) if peak else None,
        "peak_memory_mib": own_memory(("ours", answer) for answer in answers)["ours"],
        "published_tokens_per_second": PUBLISHED,
        "ratio_to_published": tokens_per_second / PUBLISHED,
    }


def flops_per_token(architecture: Architecture, length: int) -> int:
    """Return 6 N + 12 L H d T for sequences of T = `length` tokens: forward and backward."""
    multiplied = architecture.parameters - (0 if architecture.tie_word_embeddings else architecture.embedding)
    return 6 * multiplied + 12 * architecture.num_hidden_layers * architecture.query_width * length


def update(setting: Setting) -> None:
    """Take updates on the same made-up completions at every request."""
    with our_trainer(setting) as trainer:
        sequence = trainer.settings.micro_batch_tokens
        samples = made_up(setting, sequence, trainer.policy.model.config.vocab_size)
        counts = {"sequence": sequence, "tokens": sum(sample.length for sample in samples)}
        step = partial(trainer.updater.update, samples, 0, 0, setting.learning_rate)
        serve(step, lambda _: counts, shares_gpu=False)


def made_up(setting: Setting, sequence: int, vocabulary: int) -> list[Sample]:
    """Return completions of random tokens that fill `sequence` tokens with their prompts; advantages alternate."""
    rng = random.Random(0)
    sampled = [-math.log(vocabulary)] * setting.max_tokens
    samples = []
    for i in range(setting.prompts * setting.group_size):
        tokens = [rng.randrange(vocabulary) for _ in range(sequence)]
        prompt, completion = tokens[: -setting.max_tokens], tokens[-setting.max_tokens :]
        samples.append(
            Sample(prompt, completion, sampled, "length", Reward(0.0, {}), 0.0, advantage=(-1.0) ** i)
        )
    return samples


if __name__ == "__main__":
    main()
