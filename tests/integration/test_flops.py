"""The meter of compute against torch's own counter, on the passes that a trainer takes.

The counter knows no fused attention of a CPU, and would count a masked one in full. So attention is computed
here query by query, over the keys that it may see, in plain matrix products; these are counted like all
others, forward and backward.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from llmzero.core.compute import Work
from llmzero.grpo.batch import Sample
from llmzero.grpo.distributed import join
from llmzero.grpo.experience import work_of
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import LOSSES
from llmzero.grpo.nano import character_tokenizer
from llmzero.grpo.policy import Policy, deepspeed_engine, with_adapter
from llmzero.grpo.settings import AlgorithmSettings, LoraSettings, NanoRecipe, TrainerSettings
from llmzero.grpo.update import Updater
from llmzero.planning.architecture import Architecture
from llmzero.rollout.base import Sampling
from llmzero.rollout.settings import TorchEngineSettings
from llmzero.rollout.slots import SlotCache
from llmzero.rollout.torch_engine import TorchEngine
from llmzero.tasks.base import Reward
from tests.conftest import REPOSITORY

TOLERANCE, EXACT = 0.05, 0.005
ALPHABET = "0123456789+-*/()=:, "
SMOLLM2 = yaml.safe_load((REPOSITORY / "conf/model/smollm2_135m.yaml").read_text())["architecture"]
ARCHITECTURES = {
    "nano": Architecture.from_config(asdict(NanoRecipe().architecture(len(ALPHABET)))),
    "smollm2": Architecture.from_config(SMOLLM2),
}
# What the counter does not know, and counts as nothing: the product that is added to the head's gradient.
IN_PLACE = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1]}
LORA = LoraSettings(rank=8)
HPARAMS: dict[str, Any] = {
    "kl_coef": 0.0,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "entropy_coef": 0.0,
    "epochs": 1,
    "minibatches": 1,
    "temperature": 1.0,
    "max_completion_length": 512,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "adam_beta2": 0.99,
    "learning_rate": 1e-6,
}
# Lengths of prompts and of their completions. Only "uneven" ones are padded, which the formula leaves out.
GROUPS = {
    "short": [(12, [10, 10, 10, 10]), (12, [10, 1, 10, 1])],
    "uneven": [(12, [20, 18, 19, 20]), (11, [18, 1, 20, 19])],
    "long": [(24, [300, 300])],
    "one long": [(24, [160])],
}
# What a trainer computes besides its first epoch, and over how many epochs.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "plain": ({}, {}, False),
    "reference": ({"kl_coef": 0.1}, {}, False),
    "epochs, reference, old": (
        {"kl_coef": 0.1, "epochs": 2, "minibatches": 2},
        {"correction": "truncate"},
        False,
    ),
    "adapter": ({}, {}, True),
    "adapter, epochs, reference, old": (
        {"kl_coef": 0.1, "epochs": 2},
        {"correction": "truncate"},
        True,
    ),
}


def over_visible(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float | None) -> Tensor:
    """Attend (R, H, T, D) to keys and values (R, H, K, D), each query to what it sees of them (R, T, K)."""
    if len(visible) > 1 and not (visible == visible[:1]).all():
        alone = [slice(r, r + 1) for r in range(len(query))]
        return torch.cat([over_visible(query[r], key[r], value[r], visible[r], scale) for r in alone])
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    out = []
    for t in range(query.shape[2]):
        seen = visible[0, t].nonzero()[:, 0]
        scores = query[:, :, t : t + 1] @ key[:, :, seen].mT * (scale or query.shape[3] ** -0.5)
        out.append(scores.softmax(-1) @ value[:, :, seen])
    return torch.cat(out, 2)


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """Stand in for torch's `scaled_dot_product_attention`."""
    shape = (len(query), query.shape[2], key.shape[2])
    visible = torch.ones(shape, dtype=torch.bool)
    visible = visible.tril() if is_causal else visible
    if attn_mask is not None:
        visible = (attn_mask[:, 0] > -torch.inf).expand(shape)
    return over_visible(query, key, value, visible, scale)


def attention_over_slots(
    _module: None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    slots: SlotCache,
    scaling: float,
) -> tuple[Tensor, None]:
    """Stand in for the engine's attention of a new token to its row."""
    assert slots.hidden is not None
    return over_visible(query, key, value, ~slots.hidden[:, None], scaling).transpose(1, 2), None


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    with (
        patch("llmzero.grpo.packing.scaled_dot_product_attention", plain_attention),
        patch("llmzero.rollout.slots.scaled_dot_product_attention", plain_attention),
        patch("llmzero.rollout.decoder.attention_over_slots", attention_over_slots),
        FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter,
    ):
        yield counter


def built(name: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**vars(ARCHITECTURES[name]), eos_token_id=1, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@cache
def policy_of(name: str, lora: bool) -> Policy:
    """Return a policy with random weights."""
    join(60.0)
    trainer = TrainerSettings(lora=LORA) if lora else TrainerSettings()
    model = with_adapter(built(name), LORA, Path("nowhere")) if lora else built(name)
    return Policy(deepspeed_engine(model, HPARAMS, trainer), character_tokenizer(ALPHABET), "")


def samples_of(groups: list[tuple[int, list[int]]]) -> list[list[Sample]]:
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, 20) for _ in range(count)]

    def sample(prompt: list[int], length: int) -> Sample:
        return Sample(prompt, tokens(length), [-3.0] * length, "stop", Reward(0.0, {}), 0.0, rng.gauss(0, 1))

    return [
        [sample(prompt, length) for length in lengths]
        for prompt, lengths in ((tokens(prompt), lengths) for prompt, lengths in groups)
    ]


@pytest.mark.parametrize(
    ("name", "lengths", "case"),
    [
        *(
            ("nano", lengths, case)
            for lengths in ("short", "uneven", "long")
            for case in CASES
            if (lengths, case) != ("long", "adapter")
        ),
        ("smollm2", "short", "epochs, reference, old"),
        ("smollm2", "uneven", "plain"),
        ("smollm2", "one long", "plain"),
        ("smollm2", "short", "adapter, epochs, reference, old"),
    ],
)
def test_scoring_and_updates_cost_what_the_counter_counts(name: str, lengths: str, case: str) -> None:
    of_hparams, of_algorithm, lora = CASES[case]
    hparams, algorithm = HPARAMS | of_hparams, AlgorithmSettings(**of_algorithm)
    policy, world = policy_of(name, lora), join(60.0)
    with_reference = hparams["kl_coef"] > 0 and not lora
    reference = LogprobModel(built(name).eval().requires_grad_(False)) if with_reference else None
    loss = LOSSES[algorithm.loss]
    updater = Updater(policy, world, hparams, algorithm, loss, TrainerSettings(), reference)
    groups = samples_of(GROUPS[lengths])
    samples = [sample for group in groups for sample in group]
    with counting() as counter:
        updater.fill(samples)
        updater.update(samples, data_seed=0, global_step=0, learning_rate=1e-6)
    counted, formula = counter.get_total_flops(), updater.flops(work_of(groups))
    print(f"{name:8} {lengths:6} {case:32} formula / counted {formula / counted:.4f}")
    assert formula == pytest.approx(counted, rel=TOLERANCE if lora or lengths == "uneven" else EXACT)


@pytest.mark.parametrize(
    ("name", "prompt", "longest", "n"),
    [("nano", 12, 10, 4), ("nano", 24, 300, 2), ("smollm2", 12, 10, 4)],
)
def test_sampling_costs_what_the_counter_counts(name: str, prompt: int, longest: int, n: int) -> None:
    policy = policy_of(name, lora=False)
    engine = TorchEngine(TorchEngineSettings())
    with patch.object(policy, "eos_ids", [-1]):  # completions end at the limit
        engine.start(policy)
    prompts = [[3 + (i + k) % 17 for i in range(prompt)] for k in range(2)]
    with counting() as counter:
        rollouts = engine.generate(prompts, Sampling(longest, 1.0, n, 0))
    lengths = [len(completion) for completion in rollouts.completions]
    work = Work.of((prompt, lengths[i : i + n]) for i in range(0, len(lengths), n))
    formula, counted = policy.arithmetic.forward(work), counter.get_total_flops()
    print(f"{name:8} sampling up to {longest:4}   formula / counted {formula / counted:.4f}")
    assert set(lengths) == {longest}
    assert formula == pytest.approx(counted, rel=TOLERANCE)
