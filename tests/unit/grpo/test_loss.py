"""The loss against the papers' equations written out token by token, and its independence of how a batch is
cut up.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmzero.grpo.batch import MicroBatch, Sample, collate, shared_out
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import (
    LOSSES,
    LossSettings,
    Totals,
    clipped_shares,
    grpo_loss,
    kl_divergence,
    mismatch_metrics,
    sampler_correction,
)
from llmzero.tasks.base import Reward

CPU = torch.device("cpu")
ESTIMATORS = ("k1", "k2", "k3")
LENGTHS = [5, 1, 3, 4, 2, 5, 0]  # the last completion does not count
WIDTH, VOCABULARY, MAX_LENGTH, TOKENS_PER_UPDATE = 5, 6, 9, 17.5
CLIP_LOW, CLIP_HIGH = 0.2, 0.28


def draw(seed: int = 0, spread: float = 0.6) -> dict[str, Tensor]:
    """Completions whose ratios lie on both sides of both bounds."""
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"dtype": torch.float64, "generator": generator}
    rows = len(LENGTHS)
    logits = torch.randn(rows, WIDTH, VOCABULARY, **options)
    tokens = torch.randint(VOCABULARY, (rows, WIDTH), generator=generator)
    logprobs = torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]
    shift = spread * torch.randn(2, rows, WIDTH, **options)
    return {
        "logits": logits,
        "tokens": tokens,
        "old": logprobs + shift[0],
        "reference": logprobs + shift[1],
        "correction": 0.5 + torch.rand(rows, WIDTH, **options),
        "advantages": torch.tensor([1.0, -1.5, 0.7, -0.3, 0.4, -1.0, 2.0], dtype=torch.float64),
        "mask": (torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]).double(),
    }


def totals_of(mask: Tensor) -> Totals:
    return Totals(int((mask.sum(1) > 0).sum()), int(mask.sum()), TOKENS_PER_UPDATE, MAX_LENGTH)


def settings_of(loss: str, **changes: Any) -> LossSettings:
    low, high = (0.1, 0.12) if loss == "gspo" else (CLIP_LOW, CLIP_HIGH)
    return replace(LossSettings(LOSSES[loss], low, high), **changes)


def surrogate(ratio: Tensor, logprobs: Tensor, advantages: Tensor, loss: str, **changes: Any) -> Tensor:
    return LOSSES[loss].surrogate(ratio, logprobs, advantages, settings_of(loss, **changes))


def fast_loss(b: dict[str, Tensor], logits: Tensor, chosen: LossSettings, corrected: bool) -> Tensor:
    log_p = torch.log_softmax(logits, -1)
    return grpo_loss(
        logprobs=log_p.gather(-1, b["tokens"][..., None])[..., 0],
        entropy=-(log_p.exp() * log_p).sum(-1),
        old=b["old"],
        reference=b["reference"],
        correction=b["correction"] if corrected else None,
        advantages=b["advantages"],
        mask=b["mask"],
        weights=chosen.loss.token_weights(b["mask"], totals_of(b["mask"])),
        settings=chosen,
    ).loss


def slow_kl(logprob: Tensor, reference: Tensor, estimator: str) -> Tensor:
    r = torch.exp(reference) / torch.exp(logprob)
    return {"k1": -torch.log(r), "k2": torch.log(r) ** 2 / 2, "k3": r - 1 - torch.log(r)}[estimator]


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def slow_loss(b: dict[str, Tensor], logits: Tensor, chosen: LossSettings, corrected: bool) -> Tensor:
    """Every equation as its paper has it, one token at a time."""
    loss = next(name for name, each in LOSSES.items() if each == chosen.loss)
    counting = [(i, length) for i, length in enumerate(LENGTHS) if length > 0]
    per_completion: list[list[Tensor]] = []
    for i, length in counting:
        advantage = b["advantages"][i]
        chances = [torch.softmax(logits[i, t], -1) for t in range(length)]
        logprobs = [torch.log(chances[t][b["tokens"][i, t]]) for t in range(length)]
        ratios = [torch.exp(logprobs[t]) / torch.exp(b["old"][i, t]) for t in range(length)]
        if loss == "gspo":  # s_i = (pi(y | x) / pi_old(y | x)) ^ (1 / |y|)
            ratios = [math.prod(ratios, start=number(1.0)) ** (1 / length)] * length
        terms = []
        for t in range(length):
            ratio = ratios[t]
            if loss == "cispo":
                term = min(ratio, number(1 + chosen.clip_high)).detach() * advantage * logprobs[t]
            else:
                bounded = max(min(ratio, number(1 + chosen.clip_high)), number(1 - chosen.clip_low))
                term = min(ratio * advantage, bounded * advantage)
                if chosen.dual_clip is not None and advantage < 0:
                    term = max(term, chosen.dual_clip * advantage)
            if corrected:
                term = term * b["correction"][i, t]
            entropy = -sum(p * torch.log(p) for p in chances[t])
            kl = slow_kl(logprobs[t], b["reference"][i, t], chosen.kl_estimator)
            terms.append(term + chosen.entropy_coef * entropy - chosen.kl_coef * kl)
        per_completion.append(terms)
    everything = sum((sum(terms) for terms in per_completion), number(0.0))
    if loss in ("grpo", "gspo"):
        objective = sum(sum(terms) / len(terms) for terms in per_completion) / len(per_completion)
    elif loss == "bnpo":
        objective = everything / sum(len(terms) for terms in per_completion)
    elif loss in ("dapo", "cispo"):
        objective = everything / TOKENS_PER_UPDATE
    else:
        objective = everything / (len(per_completion) * MAX_LENGTH)
    return -objective  # type: ignore[return-value]


def value_and_gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kl_coef": 0.3, "kl_estimator": "k1"},
        {"kl_coef": 0.3, "kl_estimator": "k2"},
        {"kl_coef": 0.3, "kl_estimator": "k3"},
        {"dual_clip": 1.5},
        {"entropy_coef": 0.2},
        {"kl_coef": 0.1, "dual_clip": 1.4, "entropy_coef": 0.05},
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_those_of_the_equations(
    loss: str, changes: dict[str, Any], corrected: bool
) -> None:
    b = draw()
    chosen = settings_of(loss, **changes)
    fast = value_and_gradient(lambda logits: fast_loss(b, logits, chosen, corrected), b["logits"])
    slow = value_and_gradient(lambda logits: slow_loss(b, logits, chosen, corrected), b["logits"])
    assert float(slow[1].norm()) > 1e-2
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("changed", ["clip_low", "clip_high", "dual_clip", "kl_coef", "entropy_coef"])
def test_every_setting_moves_the_loss_unless_its_algorithm_has_no_such_bound(loss: str, changed: str) -> None:
    b = draw()
    before = settings_of(loss)
    value = {
        "clip_low": before.clip_low / 2,
        "clip_high": before.clip_high / 2,
        "dual_clip": 1.05,
        "kl_coef": 0.1,
        "entropy_coef": 0.1,
    }[changed]
    found = [
        float(fast_loss(b, b["logits"], chosen, corrected=False))
        for chosen in (before, replace(before, **{changed: value}))
    ]
    unused = loss == "cispo" and changed in ("clip_low", "dual_clip")
    assert (found[0] == found[1]) is unused


def test_a_bound_stops_the_gradient_only_where_the_objective_would_rise_past_it() -> None:
    logprobs = torch.tensor([[0.5, -0.5], [0.5, -0.5]], requires_grad=True)
    advantages = torch.tensor([[1.0], [-1.0]])
    surrogate(torch.exp(logprobs), logprobs, advantages, "grpo").sum().backward()
    assert logprobs.grad is not None
    assert (logprobs.grad == 0).tolist() == [[True, False], [False, True]]


def test_cispo_keeps_the_gradient_of_every_token() -> None:
    logprobs = torch.tensor([[0.5, -0.5, 3.0], [0.5, -0.5, 3.0]], requires_grad=True)
    advantages = torch.tensor([[1.0], [-1.0]])
    surrogate(torch.exp(logprobs), logprobs, advantages, "cispo").sum().backward()
    cut = [1.28, math.exp(-0.5), 1.28]
    torch.testing.assert_close(logprobs.grad, torch.tensor([cut, [-c for c in cut]]))


def test_dual_clip_stops_the_gradient_of_bad_tokens_that_became_far_likelier() -> None:
    logprobs = torch.log(torch.tensor([[1.5, 2.5], [1.5, 2.5]])).requires_grad_()
    advantages = torch.tensor([[1.0], [-1.0]])
    found = surrogate(torch.exp(logprobs), logprobs, advantages, "grpo", dual_clip=2.0)
    torch.testing.assert_close(found, torch.tensor([[1.28, 1.28], [-1.5, -2.0]]))
    found.sum().backward()
    assert logprobs.grad is not None
    assert (logprobs.grad == 0).tolist() == [[True, True], [False, True]]


def test_a_ratio_of_one_gives_the_policy_gradient() -> None:
    """On-policy, all surrogates have the gradient of advantage times log-probability."""
    for loss in LOSSES:
        logprobs = torch.tensor([[-0.3, -1.0], [-2.0, -0.7]], requires_grad=True)
        mask, advantages = torch.ones(2, 2), torch.tensor([1.0, -0.5])
        grpo_loss(
            logprobs=logprobs,
            entropy=torch.zeros(2, 2),
            old=logprobs.detach(),
            reference=None,
            correction=None,
            advantages=advantages,
            mask=mask,
            weights=mask,
            settings=settings_of(loss),
        ).loss.backward()
        torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.0, -1.0], [0.5, 0.5]]))


# --- the weights of tokens ---


def test_weights_are_the_denominators_that_the_papers_name() -> None:
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    totals = Totals(sequences=4, tokens=10, tokens_per_update=8.0, max_length=5)
    each: dict[str, list[float]] = {
        "grpo": [1 / 12, 1 / 4],
        "gspo": [1 / 12, 1 / 4],
        "bnpo": [1 / 10, 1 / 10],
        "dapo": [1 / 8, 1 / 8],
        "cispo": [1 / 8, 1 / 8],
        "dr_grpo": [1 / 20, 1 / 20],
    }
    for loss, (long, short) in each.items():
        expected = torch.tensor([[long, long, long, 0], [short, 0, 0, 0], [0, 0, 0, 0]])
        torch.testing.assert_close(LOSSES[loss].token_weights(mask, totals), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_minibatch_without_anything_that_counts_has_a_loss_of_zero(loss: str) -> None:
    b = draw()
    b["mask"] = torch.zeros_like(b["mask"])
    assert (
        float(fast_loss(b, b["logits"], settings_of(loss, kl_coef=0.1, entropy_coef=0.1), corrected=True))
        == 0
    )
    assert bool((LOSSES[loss].token_weights(b["mask"], Totals(0, 0, 0.0, MAX_LENGTH)) == 0).all())


# --- divergence ---


def two_policies() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    return logits[0].requires_grad_(), torch.log_softmax(logits[1], -1)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    return sum((torch.exp(a) * (a - b) for a, b in zip(p, q, strict=True)), torch.tensor(0.0))


@pytest.mark.parametrize(("estimator", "unbiased"), [("k1", True), ("k2", False), ("k3", True)])
def test_k1_and_k3_are_the_divergence_on_average_and_k2_is_not(estimator: str, unbiased: bool) -> None:
    logits, reference = two_policies()
    p = torch.log_softmax(logits, -1).detach()
    exact = float(exact_kl(p, reference))
    assert exact > 0.1
    expectation = float((p.exp() * kl_divergence(p, reference, estimator)).sum())
    assert (abs(expectation - exact) < 1e-12) is unbiased


def expected_gradient(estimator: str) -> Tensor:
    """The gradient of the estimate under samples of the policy: through the estimate alone, as a loss has
    it.
    """
    logits, reference = two_policies()
    p = torch.log_softmax(logits, -1)
    (gradient,) = torch.autograd.grad(
        (p.exp().detach() * kl_divergence(p, reference, estimator)).sum(), logits
    )
    return gradient


def test_the_gradients_of_the_estimates_are_those_that_their_documentation_names() -> None:
    logits, reference = two_policies()
    p = torch.log_softmax(logits, -1)
    (forward,) = torch.autograd.grad(exact_kl(p, reference), logits, retain_graph=True)
    (backward,) = torch.autograd.grad(exact_kl(reference, p), logits)
    assert float((forward - backward).norm()) > 0.1
    torch.testing.assert_close(expected_gradient("k2"), forward)
    torch.testing.assert_close(expected_gradient("k3"), backward)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros_like(forward))


def test_k3_is_never_negative_and_exact_where_policies_hardly_differ() -> None:
    p = torch.full((1000,), -2.0)
    shift = torch.linspace(-1e-3, 1e-3, 1000)
    found = kl_divergence(p, p + shift, "k3").double()
    exact = torch.expm1((p + shift).double() - p.double()) - ((p + shift).double() - p.double())
    assert float(found.min()) >= 0
    assert float((found - exact).abs().max()) < 1e-10  # exp(x) - 1 would be wrong by 1e-7 here


# --- metrics ---


@pytest.mark.parametrize("loss", ["grpo", "cispo"])
def test_sums_for_the_metrics_count_tokens_that_count(loss: str) -> None:
    b = draw()
    chosen = settings_of(loss, kl_coef=0.1)
    log_p = torch.log_softmax(b["logits"], -1)
    logprobs, entropy = log_p.gather(-1, b["tokens"][..., None])[..., 0], -(log_p.exp() * log_p).sum(-1)
    weights = LOSSES[loss].token_weights(b["mask"], totals_of(b["mask"]))
    common = {name: b[name] for name in ("old", "reference", "advantages", "mask")}
    sums = grpo_loss(
        logprobs=logprobs, entropy=entropy, correction=None, weights=weights, settings=chosen, **common
    ).sums
    expected = dict.fromkeys(
        ("entropy", "kl", "clip_fraction_low", "clip_fraction_high", "offpolicy_kl"), 0.0
    )
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            log_ratio, advantage = float(logprobs[i, t] - b["old"][i, t]), float(b["advantages"][i])
            expected["entropy"] += float(entropy[i, t])
            expected["kl"] += float(slow_kl(logprobs[i, t], b["reference"][i, t], "k3"))
            below = math.exp(log_ratio) < 1 - CLIP_LOW
            expected["clip_fraction_low"] += below and advantage < 0 and loss != "cispo"
            above = math.exp(log_ratio) > 1 + CLIP_HIGH
            expected["clip_fraction_high"] += above and (advantage > 0 or (loss == "cispo" and advantage < 0))
            expected["offpolicy_kl"] += math.exp(log_ratio) - 1 - log_ratio
    assert min(value for name, value in expected.items() if name != "clip_fraction_low") >= 1
    assert (expected["clip_fraction_low"] >= 1) == (loss == "grpo")
    total = float(sums.pop("loss"))
    assert total == pytest.approx(float(slow_loss(b, b["logits"], chosen, corrected=False)))
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(expected)


def test_clipped_shares_name_the_bound_that_holds_a_ratio_back() -> None:
    ratio = torch.tensor([[0.7, 1.0, 1.4], [0.7, 1.0, 1.4], [0.7, 1.0, 1.4]])
    advantages = torch.tensor([[1.0], [-1.0], [0.0]])
    low, high = clipped_shares(ratio, advantages, settings_of("grpo"))
    assert low.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert high.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    low, high = clipped_shares(ratio, advantages, settings_of("cispo"))
    assert low.sum() == 0
    assert high.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_gspo_clips_whole_completions() -> None:
    b = draw()
    chosen = settings_of("gspo")
    log_p = torch.log_softmax(b["logits"], -1)
    logprobs = log_p.gather(-1, b["tokens"][..., None])[..., 0].detach()
    weights = LOSSES["gspo"].token_weights(b["mask"], totals_of(b["mask"]))
    common = {name: b[name] for name in ("old", "advantages", "mask")}
    sums = grpo_loss(
        logprobs=logprobs,
        entropy=torch.zeros_like(logprobs),
        reference=None,
        correction=None,
        weights=weights,
        settings=chosen,
        **common,
    ).sums
    held = {"low": 0, "high": 0}
    for i, length in enumerate(LENGTHS[:-1]):
        ratio = math.exp(sum(float(logprobs[i, t] - b["old"][i, t]) for t in range(length)) / length)
        held["low"] += length * (ratio < 0.9 and b["advantages"][i] < 0)
        held["high"] += length * (ratio > 1.12 and b["advantages"][i] > 0)
    assert held["low"] > 0
    assert held["high"] > 0
    assert {"low": float(sums["clip_fraction_low"]), "high": float(sums["clip_fraction_high"])} == held


# --- a sampler whose probabilities differ ---


def slow_correction(log_ratio: Tensor, kind: str, level: str, low: float, high: float) -> list[list[float]]:
    rows = []
    for i, length in enumerate(LENGTHS):
        ratios = [math.exp(log_ratio[i, t]) for t in range(length)]
        if level == "sequence":
            ratios = [math.prod(ratios)] * length
        if kind == "truncate":
            rows.append([min(r, high) for r in ratios])
        elif kind == "mask":
            rows.append([r if low <= r <= high else 0.0 for r in ratios])
        else:
            rows.append([1.0 for _ in ratios])
    return rows


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["none", "truncate", "mask"])
def test_correction_weighs_tokens_as_its_papers_say(kind: str, level: str) -> None:
    b = draw(spread=0.4)
    log_ratio = b["old"] - b["reference"]
    found = sampler_correction(log_ratio, b["mask"], kind, level, 0.5, 1.5)
    expected = slow_correction(log_ratio, kind, level, 0.5, 1.5)
    flat = [w for row in expected for w in row]
    assert kind == "none" or ((min(flat) < 0.5 or kind == "mask") and len(set(flat)) > 3)
    assert kind != "mask" or {0.0} < set(flat)
    assert kind != "truncate" or 1.5 in flat
    for i, row in enumerate(expected):
        assert found[i, : len(row)].tolist() == pytest.approx(row)


def logprob_gradient(b: dict[str, Tensor], chosen: LossSettings, correction: Tensor | None) -> Tensor:
    """The gradient (B, T) of the loss for the log-probs of `b`."""
    leaf = b["logprobs"].clone().requires_grad_()
    terms = grpo_loss(
        logprobs=leaf,
        entropy=torch.zeros_like(leaf),
        old=b["old"],
        reference=b.get("reference"),
        correction=correction,
        advantages=b["advantages"],
        mask=b["mask"],
        weights=chosen.loss.token_weights(b["mask"], totals_of(b["mask"])),
        settings=chosen,
    )
    (found,) = torch.autograd.grad(terms.loss, leaf)
    assert all(bool(value.isfinite()) for value in terms.sums.values())
    return found


def drawn_logprobs(seed: int = 0, spread: float = 0.1) -> dict[str, Tensor]:
    b = draw(seed)
    logprobs = torch.log_softmax(b["logits"], -1).gather(-1, b["tokens"][..., None])[..., 0]
    noise = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"logprobs": logprobs, "old": logprobs + spread * noise} | {
        name: b[name] for name in ("advantages", "mask")
    }


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_token_that_the_correction_drops_has_no_gradient(loss: str, level: str) -> None:
    b = drawn_logprobs()
    mismatch = torch.randn(b["mask"].shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    correction = sampler_correction(mismatch, b["mask"], "mask", level, 0.5, 2.0)
    dropped = (correction == 0) & (b["mask"] > 0)
    assert 0 < int(dropped.sum()) < int(b["mask"].sum())
    gradient = logprob_gradient(b, settings_of(loss, clip_low=0.5, clip_high=2.0), correction)
    assert gradient[dropped].tolist() == [0.0] * int(dropped.sum())
    assert bool((gradient[(correction > 0) & (b["mask"] > 0)] != 0).all())


def test_gspos_ratio_is_that_of_the_tokens_that_the_correction_keeps() -> None:
    """d/dlogp_k of -sum_t w_t c_t s A with s = exp(mean over the n kept of logp - old) is
    -(sum_t w_t c_t) s A / n for each of them.
    """
    b = drawn_logprobs(1)
    mismatch = torch.randn(b["mask"].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    correction = sampler_correction(mismatch, b["mask"], "mask", "token", 0.5, 2.0)
    gradient = logprob_gradient(b, settings_of("gspo", clip_low=0.9, clip_high=9.0), correction).numpy()
    rows = sum(length > 0 for length in LENGTHS)
    for i, length in enumerate(LENGTHS):
        ratios = np.exp(mismatch[i, :length].numpy())
        kept = (ratios >= 0.5) & (ratios <= 2.0)
        moved = (b["logprobs"] - b["old"])[i, :length].numpy()[kept]
        ratio = math.exp(moved.sum() / max(1, kept.sum()))
        weight = (ratios * kept).sum() / max(1, length) / rows
        expected = np.where(
            kept, -weight * ratio * float(b["advantages"][i]) / max(1, kept.sum()), np.zeros(length)
        )
        assert gradient[i, :length].tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("far", [95.0, 1e4, -95.0, -1e4])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("loss", LOSSES)
def test_log_ratios_of_any_size_leave_gradients_finite_and_other_completions_as_they_are(
    loss: str, estimator: str, far: float
) -> None:
    """In float32, where exp(89) is infinite; far from the old policy, from the reference, and from both."""
    b = {name: value.float() for name, value in drawn_logprobs().items()}
    b["reference"] = b["old"] - 0.1
    chosen = settings_of(loss, kl_coef=0.1, kl_estimator=estimator)
    usual = logprob_gradient(b, chosen, None)
    for moved, row in itertools.product((("old",), ("reference",), ("old", "reference")), (0, 1)):
        away = {name: b[name].clone() for name in moved}
        for value in away.values():
            value[row, 0] -= far
        gradient = logprob_gradient(b | away, chosen, None)
        assert bool(gradient.isfinite().all())
        assert gradient[2:].tolist() == usual[2:].tolist(), "the others to the bit"
        assert gradient[1 - row].tolist() == usual[1 - row].tolist()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 95.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_stands_where_nothing_counts_is_of_no_account(loss: str, value: float) -> None:
    b = {name: each.float() for name, each in drawn_logprobs().items()}
    b["reference"] = b["old"] - 0.1
    chosen = settings_of(loss, kl_coef=0.1)
    correction = sampler_correction(b["logprobs"] - b["old"], b["mask"], "truncate", "sequence", 0.5, 2.0)
    usual = logprob_gradient(b, chosen, correction)
    for name in ("logprobs", "old", "reference"):
        other = b | {name: torch.where(b["mask"] > 0, b[name], value)}
        again = sampler_correction(
            other["logprobs"] - other["old"], b["mask"], "truncate", "sequence", 0.5, 2.0
        )
        assert logprob_gradient(other, chosen, again).tolist() == usual.tolist()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_divergence_is_exact_up_to_the_bound_of_log_ratios(estimator: str) -> None:
    log_ratio = np.array([-95.0, -30.0, -1.0, 0.0, 1.0, 10.0, 19.9])
    exact = {
        "k1": -log_ratio,
        "k2": log_ratio**2 / 2,
        "k3": np.exp(log_ratio) - 1 - log_ratio,
    }[estimator]
    found = kl_divergence(torch.zeros(7), torch.tensor(log_ratio, dtype=torch.float32), estimator)
    assert found.tolist() == pytest.approx(exact.tolist(), rel=1e-5)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["truncate", "mask"])
def test_corrections_and_their_metrics_are_finite_whatever_the_log_ratio(kind: str, level: str) -> None:
    log_ratio = torch.tensor([[95.0, 1e4, 0.0], [-95.0, -1e4, 0.0], [0.1, 0.2, math.nan]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    found = sampler_correction(log_ratio, mask, kind, level, 0.5, 2.0)
    cut = 2.0 if kind == "truncate" else 0.0
    assert found[0].tolist() == [cut, cut, 1.0 if level == "token" else cut]
    assert found[1].tolist() == pytest.approx([0.0, 0.0, 1.0 if level == "token" else 0.0], abs=1e-30)
    assert bool(found.isfinite().all())
    metrics = mismatch_metrics(log_ratio[:2].flatten(), 0.5, 2.0)
    assert all(map(math.isfinite, metrics.values()))
    assert metrics["mismatch_outside"] == pytest.approx(4 / 6)


def test_mismatch_metrics_compare_sampler_and_trainer_token_by_token() -> None:
    log_ratios = torch.log(torch.tensor([1.0, 0.4, 2.5, 1.1]))
    found = mismatch_metrics(log_ratios, 0.5, 2.0)
    kl = sum(r - 1 - math.log(r) for r in (1.0, 0.4, 2.5, 1.1)) / 4
    expected = {
        "mismatch_kl": kl,
        "mismatch_ratio_min": 0.4,
        "mismatch_ratio_max": 2.5,
        "mismatch_outside": 0.5,
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_mismatch_metrics_of_no_token_are_those_of_agreement() -> None:
    """As where all completions of a minibatch were cut off and cut completions do not count."""
    found = mismatch_metrics(torch.tensor([]), 0.5, 2.0)
    assert found == {
        "mismatch_kl": 0.0,
        "mismatch_ratio_min": 1.0,
        "mismatch_ratio_max": 1.0,
        "mismatch_outside": 0.0,
    }


# --- independence of how a minibatch is cut up ---

Shape = tuple[
    int, int, bool
]  # tokens of the prompt, of the completion, whether it counts; prompts of one length are the same


@pytest.fixture(scope="module")
def model() -> LogprobModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return LogprobModel(Qwen3ForCausalLM(config).double())


def samples_of(shapes: Sequence[Shape], seed: int) -> list[Sample]:
    rng = random.Random(seed)

    def numbers(n: int) -> list[float]:
        return [rng.uniform(-4, -1) for _ in range(n)]

    return [
        Sample(
            prompt=[1 + i % 12 for i in range(p)],
            completion=[rng.randrange(1, 13) for _ in range(c)],
            sampled=numbers(c),
            finish="stop",
            reward=Reward(0.0, {}),
            shaped_reward=0.0,
            advantage=rng.choice([-1, 1]) * rng.uniform(0.5, 2),
            counts=counts,
            old=numbers(c),
            reference=numbers(c),
        )
        for p, c, counts in shapes
    ]


def gradient(
    model: LogprobModel, batches: Sequence[MicroBatch], loss: str, totals: Totals, columns: int = 0
) -> tuple[Tensor, dict[str, float]]:
    """Accumulate over micro-batches, with further columns of padding, as the trainer does; return the
    gradient and the sums for the metrics.
    """
    model.zero_grad()
    chosen = LossSettings(
        LOSSES[loss], 0.2, 0.28, dual_clip=3.0, kl_coef=0.05, kl_estimator="k2", entropy_coef=0.02
    )
    sums: dict[str, float] = {}
    for batch in batches:
        assert batch.reference is not None
        tensors = (*model(batch.pack, 0.8), batch.old, batch.reference, batch.sampled, batch.counted)
        logprobs, entropy, old, reference, sampled, counted = (
            functional.pad(tensor, (0, columns)) for tensor in tensors
        )
        terms = grpo_loss(
            logprobs=logprobs,
            entropy=entropy,
            old=old,
            reference=reference,
            correction=sampler_correction(old - sampled, counted, "truncate", "sequence", 0.1, 2.0),
            advantages=batch.advantages,
            mask=counted,
            weights=LOSSES[loss].token_weights(counted, totals),
            settings=chosen,
        )
        terms.loss.backward()
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in terms.sums.items()}
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone(), sums


@settings(max_examples=8)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.booleans()), min_size=1, max_size=6),
    seed=st.integers(0, 2**16),
    budget=st.integers(1, 40),
    padding=st.integers(0, 3),
    size=st.integers(1, 3),
)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_does_not_depend_on_cuts_order_padding_or_sharding(
    model: LogprobModel, loss: str, shapes: list[Shape], seed: int, budget: int, padding: int, size: int
) -> None:
    samples = samples_of([*shapes, (2, 3, True)], seed)
    totals = Totals(
        sum(s.counts for s in samples),
        sum(s.tokens for s in samples),
        0.8 * sum(s.tokens for s in samples),
        8,
    )
    whole, sums = gradient(model, [collate(samples, CPU)], loss, totals)
    order = random.Random(seed).sample(samples, len(samples))
    shares = [shared_out(order, budget, rank, size) for rank in range(size)]
    cut = [collate(chunk, CPU, counts) for share in shares for chunk, counts in share]
    found, cut_sums = gradient(model, cut, loss, totals, padding)
    assert float(whole.norm()) > 1e-3
    assert float((found - whole).norm() / whole.norm()) < 1e-6
    assert cut_sums == pytest.approx(sums, rel=1e-5, abs=1e-6)


def test_completions_that_do_not_count_have_no_gradient(model: LogprobModel) -> None:
    samples = samples_of([(2, 3, True), (3, 4, True), (1, 6, False)], seed=1)
    totals = Totals(2, 7, 7.0, 8)
    for loss in LOSSES:
        with_it, _ = gradient(model, [collate(samples, CPU)], loss, totals)
        without, _ = gradient(model, [collate(samples[:2], CPU)], loss, totals)
        assert float(without.norm()) > 1e-3
        assert float((with_it - without).norm() / without.norm()) < 1e-6
