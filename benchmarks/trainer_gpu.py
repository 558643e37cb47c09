#!/usr/bin/env python
"""Compares our GRPO step on one GPU with TRL's, and our update alone with prime-rl's published figure.

`step`: whole steps with colocated vLLM in bfloat16, compared by benchmarks/side_by_side.py. Two processes
share the GPU and take steps in turn, each with a small share of memory for its vLLM; by calculation both fit
into 80 GB. TRL holds weights and optimizer in bfloat16 alone, as it does by default for such a checkpoint; we
hold float32 master weights. Neither corrects for the mismatch between sampler and trainer. Phases, shares and
tokens a second are ours.

`trainer`: updates on two completions of random tokens that fill 16,384 tokens each, one a micro-batch, with
activation recomputation, as in prime-rl's benchmark. MFU counts 6 N + 12 L H d T floating-point operations a
token, as torchtitan does: N parameters, without an input embedding that is not the output layer as well; L
layers, H heads of d dimensions, T tokens a sequence; no discount for the causal mask, nothing for
recomputation. prime-rl's 11.1 % takes the hidden size for H d, which is half of it for this model; by our
count it is 17.9 %.

The model is Qwen3-0.6B with random weights, so nothing is downloaded. Rewards are random, so that gradients
are not 0. Memory is that of the GPU, CUDA's context included.

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

from benchmarks.our_trainer import our_trainer  # noqa: E402
from benchmarks.setting import Setting, model_directory  # noqa: E402
from benchmarks.side_by_side import compare_steps, own_memory, ratio, seconds  # noqa: E402
from benchmarks.worker import Answer, serve, worker  # noqa: E402
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
RANDOM_REWARDS = "benchmarks.trainer_gpu.RandomRewards"

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
    "step": Setting(
        "qwen3_0_6b", "nano", 16, 8, 1024, 2e-6, 4, (*ON_GPU, *SHARED), TRL_ON_GPU, RANDOM_REWARDS
    ),
    "trainer": Setting(
        "qwen3_0_6b", "nano", 2, 1, 16_000, 2e-6, 5, (*ON_GPU, *ALONE, "trainer.micro_batch_tokens=16384")
    ),
}
SMOKE = {
    "step": Setting("qwen3_small", "nano", 4, 2, 8, 1e-4, 1, task=RANDOM_REWARDS),
    "trainer": Setting(
        "qwen3_small", "nano", 2, 1, 48, 1e-4, 2, ("model=hf", *ALONE, "trainer.micro_batch_tokens=64")
    ),
}


class RandomRewards(Countdown):
    """Countdown with random rewards: a model with random weights never writes an expression."""

    def reward(self, example: Example, completion: str) -> Reward:
        """Return a random reward."""
        value = random.random()
        return Reward(value, {"format": value, "correct": value})


def main() -> None:
    """Measure both and write the results; exit with status 2 where there is no GPU."""
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
    report = {
        "machine": machine(),
        "step": step_report(settings["step"]),
        "trainer": update_report(settings["trainer"]),
    }
    if not smoke:
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def device() -> str | None:
    """Return the GPU's name; None on a CPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def machine() -> dict[str, Any]:
    """Return the hardware and the versions that the figures depend on."""
    vllm = packages_distributions()["vllm"][0]  # its builds have names of their own
    versions = {name: version(name) for name in ("torch", "transformers", "deepspeed", "trl", vllm)}
    return {"gpu": device(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


# --- whole steps ---


def step_report(setting: Setting) -> dict[str, Any]:
    """Compare whole steps with TRL's; return medians over our steps."""
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
    """Return the median over steps of the sum of these counts divided by the step's seconds."""
    return float(median(sum(answer[name] for name in counts) / answer["seconds"] for answer in answers))


# --- the update alone ---


def update_report(setting: Setting) -> dict[str, Any]:
    """Measure updates of full sequences; MFU is null where the device's peak is unknown."""
    with worker("benchmarks.trainer_gpu:update", setting) as ask:
        answers = [ask(""), *(ask("step") for _ in range(setting.rounds + 1))]
    timed = answers[2:]  # without the start, and without the first update
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
    """Take an update on the same random completions for every request."""
    with our_trainer(setting) as trainer:
        sequence = trainer.settings.micro_batch_tokens
        samples = random_samples(setting, sequence, trainer.policy.model.config.vocab_size)
        counts = {"sequence": sequence, "tokens": sum(sample.length for sample in samples)}
        step = partial(trainer.updater.update, samples, 0, 0, setting.learning_rate)
        serve(step, lambda _: counts, shares_gpu=False)


def random_samples(setting: Setting, sequence: int, vocabulary: int) -> list[Sample]:
    """Return random completions with alternating advantages, each `sequence` tokens long with its prompt."""
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
