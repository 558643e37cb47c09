from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmzero.grpo.advantages import group_advantages
from llmzero.grpo.batch import Sample, collate, micro_batches
from llmzero.grpo.loss import clipped_surrogate, grpo_loss, k3_divergence, token_logprobs

CPU = torch.device("cpu")
COEFFICIENTS = {"clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.05, "entropy_coef": 0.01}


def batch(rows: int = 6, width: int = 5, vocabulary: int = 11) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = {"dtype": torch.float64, "generator": generator}
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    return {
        "logits": torch.randn(rows, width, vocabulary, **draw),
        "tokens": torch.randint(vocabulary, (rows, width), generator=generator),
        "old": -1.5 - torch.rand(rows, width, **draw),
        "reference": -1.5 - torch.rand(rows, width, **draw),
        "advantages": torch.randn(rows, **draw),
        "mask": (torch.arange(width) < lengths[:, None]).double(),
    }


def loss_of(b: dict[str, Tensor], rows: slice, total: float) -> Tensor:
    logprobs, entropy = token_logprobs(b["logits"][rows], b["tokens"][rows], 1.0)
    names = ("old", "reference", "advantages", "mask")
    return grpo_loss(logprobs=logprobs, entropy=entropy, total_tokens=total, **{n: b[n][rows] for n in names}, **COEFFICIENTS).loss


def slow_loss(b: dict[str, Tensor]) -> float:
    """The same loss, token by token, as the papers write it."""
    total, tokens = 0.0, 0
    for i in range(len(b["tokens"])):
        for t in range(b["tokens"].shape[1]):
            if not b["mask"][i, t]:
                continue
            p = torch.softmax(b["logits"][i, t].float(), -1)
            logprob = math.log(p[b["tokens"][i, t]])
            ratio, advantage = math.exp(logprob - b["old"][i, t]), float(b["advantages"][i])
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
            log_r = float(b["reference"][i, t]) - logprob
            kl = math.exp(log_r) - log_r - 1
            entropy = -float((p * p.log()).sum())
            total += surrogate - 0.05 * kl + 0.01 * entropy
            tokens += 1
    return -total / tokens


def test_the_loss_is_the_papers() -> None:
    b = batch()
    assert float(loss_of(b, slice(None), float(b["mask"].sum()))) == pytest.approx(slow_loss(b), rel=1e-5)


@pytest.mark.parametrize("cuts", [[6], [3, 3], [1, 2, 3], [1] * 6])
def test_the_gradient_does_not_depend_on_how_the_minibatch_is_cut(cuts: list[int]) -> None:
    whole = batch()
    whole["logits"].requires_grad_()
    total = float(whole["mask"].sum())
    loss_of(whole, slice(None), total).backward()
    cut = batch()
    cut["logits"].requires_grad_()
    start = 0
    for rows in cuts:
        loss_of(cut, slice(start, start + rows), total).backward()
        start += rows
    torch.testing.assert_close(whole["logits"].grad, cut["logits"].grad, rtol=1e-5, atol=1e-9)


def test_clipping_stops_the_gradient_on_the_side_it_names() -> None:
    logprobs = torch.tensor([[0.5, -0.5], [0.5, -0.5]], requires_grad=True)
    surrogate, low, high = clipped_surrogate(logprobs, torch.zeros(2, 2), torch.tensor([1.0, -1.0]), 0.2, 0.28)
    assert high.tolist() == [[1, 0], [0, 0]]
    assert low.tolist() == [[0, 0], [0, 1]]
    surrogate.sum().backward()
    assert logprobs.grad is not None
    assert (logprobs.grad == 0).tolist() == [[True, False], [False, True]]


def test_k3_is_zero_at_equality_and_positive_elsewhere() -> None:
    p = torch.linspace(-5, 0, 50)
    assert float(k3_divergence(p, p).abs().max()) == 0
    assert bool((k3_divergence(p, p + 0.3) > 0).all())
    assert bool((k3_divergence(p, p - 0.3) > 0).all())


def test_advantages_are_relative_to_the_group() -> None:
    rewards = torch.tensor([1.0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5])
    advantages = group_advantages(rewards, 4)
    assert advantages[4:].tolist() == [0, 0, 0, 0]
    assert float(advantages[:4].mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages[0]) == pytest.approx(0.75 / (math.sqrt(0.1875) + 1e-4), rel=1e-5)


def test_micro_batches_hold_every_sample_once_within_the_budget() -> None:
    samples = [Sample([1] * p, [2] * c, [0.0] * c, 0.0) for p, c in [(3, 4), (5, 9), (2, 1), (4, 4), (6, 2), (1, 1)]]
    chunks = list(micro_batches(samples, max_tokens=20))
    assert sorted(id(s) for chunk in chunks for s in chunk) == sorted(map(id, samples))
    assert all(len(chunk) == 1 or max(s.length for s in chunk) * len(chunk) <= 20 for chunk in chunks)


def test_collate_pads_prompts_left_and_completions_right() -> None:
    a, b = Sample([5, 6], [7], [-0.1], 1.0, [-0.2]), Sample([8], [9, 10], [-0.3, -0.4], -1.0, [-0.5, -0.6])
    batch = collate([a, b], pad_id=0, device=CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 0], [0, 8, 9, 10]]
    assert batch.attention.tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert batch.mask.tolist() == [[1, 0], [1, 1]]
    assert batch.reference is not None
    assert batch.reference[1].tolist() == pytest.approx([-0.5, -0.6])
