"""Fixed updates of a tiny model: `torchrun ... sharding_worker.py FILE ZERO_STAGE...`; rank 0 writes what
came of them.
"""

from __future__ import annotations

import random
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmzero.grpo import policy as policies
from llmzero.grpo.batch import Sample
from llmzero.grpo.distributed import World, join
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import LOSSES
from llmzero.grpo.nano import character_tokenizer
from llmzero.grpo.policy import Policy, deepspeed_engine
from llmzero.grpo.settings import AlgorithmSettings, TrainerSettings
from llmzero.grpo.update import Updater
from llmzero.tasks.base import Reward

LEARNING_RATE = {"sgd": 0.1, "adamw": 1e-3}
BUDGET = 12  # tokens of a micro-batch
HPARAMS: dict[str, Any] = {
    "kl_coef": 0.2,
    "clip_low": 0.2,
    "clip_high": 0.3,
    "entropy_coef": 0.01,
    "epochs": 1,
    "minibatches": 1,
    "temperature": 0.9,
    "max_completion_length": 12,
    "max_grad_norm": 1e9,
    "weight_decay": 0.0,
    "adam_beta2": 0.99,
    "learning_rate": 0.0,  # every update sets its own
}
ALGORITHM = AlgorithmSettings(dual_clip=3.0)
TRAINER = TrainerSettings(micro_batch_tokens=BUDGET, max_skipped_updates=0)
# Lengths of prompt and completion. Two processes need 2 and 3 micro-batches for the first; the second has one
# sample a minibatch or two, so that a process has at times none.
SHAPES = {
    "uneven": [(3, 12), (2, 9), (4, 5), (1, 4), (2, 2), (1, 3), (2, 1)],
    "few": [(2, 6), (4, 3), (1, 2)],
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "uneven": ({}, {}),
    "few": ({"minibatches": 2}, {"loss": "dapo", "correction": "truncate", "correction_level": "sequence"}),
}


def tiny_model(seed: int) -> Any:
    torch.manual_seed(seed)
    tokenizer = character_tokenizer("0123456789")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def samples_of(shapes: list[tuple[int, int]]) -> list[Sample]:
    """Completions with advantages of both signs; the fifth does not count. Prompts of one length are the
    same.
    """
    rng = random.Random(3)
    return [
        Sample(
            prompt=[3 + i % 10 for i in range(p)],
            completion=[rng.randrange(3, 13) for _ in range(c)],
            sampled=[rng.uniform(-3.2, -2) for _ in range(c)],
            finish="stop",
            reward=Reward(0.0, {}),
            shaped_reward=0.0,
            advantage=(-1) ** i * rng.uniform(0.5, 2),
            counts=i != 4,
        )
        for i, (p, c) in enumerate(shapes)
    ]


def updated(world: World, zero: int, optimizer: str) -> dict[str, Any]:
    """Take the updates of all variants one after another; return weights, metrics and scored samples after
    each.
    """
    hparams = HPARAMS | ({"max_grad_norm": 0.05, "weight_decay": 0.1} if optimizer == "adamw" else {})
    trainer = replace(TRAINER, zero_stage=zero)
    policy = Policy(deepspeed_engine(tiny_model(0), hparams, trainer), character_tokenizer("0123456789"), "")
    reference = LogprobModel(tiny_model(1)).eval()
    found: dict[str, Any] = {"before": weights(policy)}
    for name, (of_hparams, of_algorithm) in VARIANTS.items():
        algorithm = replace(ALGORITHM, **of_algorithm)
        loss = LOSSES[algorithm.loss]
        updater = Updater(policy, world, hparams | of_hparams, algorithm, loss, trainer, reference)
        samples = samples_of(SHAPES[name])
        updater.fill(samples)
        filled = deepcopy(samples)
        metrics, updates = updater.update(
            samples, data_seed=7, global_step=0, learning_rate=LEARNING_RATE[optimizer]
        )
        found[name] = {"weights": weights(policy), "metrics": metrics, "updates": updates, "samples": filled}
    policy.engine.destroy()
    return found


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in policy.tensors()}


def plain_descent(
    parameters: Any, hparams: dict[str, Any], trainer: TrainerSettings
) -> torch.optim.Optimizer:
    """An optimizer whose step is the gradient itself: AdamW's first step hardly depends on a gradient's
    length.
    """
    return torch.optim.SGD(parameters, lr=LEARNING_RATE["sgd"])


def main(file: Path, stages: list[int]) -> None:
    world = join(60)
    adamw = policies._adamw
    found: dict[str, Any] = {"size": world.size}
    for optimizer, make in (("sgd", plain_descent), ("adamw", adamw)):
        policies._adamw = make
        for zero in stages:
            found[f"{optimizer}-{zero}"] = updated(world, zero, optimizer)
    if world.leads:
        torch.save(found, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(stage) for stage in sys.argv[2:]])
