"""The policy-gradient loss: pure functions on tensors. Shapes: B completions, T completion tokens (padded).

Everything is a sum over tokens with weights that are fixed before the batch is cut up, so the gradient depends neither on
micro-batches, nor on padding, nor on how samples are spread over processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossName = Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo"]
KlEstimator = Literal["k1", "k2", "k3"]
Correction = Literal["none", "truncate", "mask"]
Level = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossSettings:
    """What the objective is made of; `kl_coef` is 0 where the divergence is in the reward."""

    loss: LossName
    clip_low: float
    clip_high: float
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy_coef: float = 0.0


@dataclass(frozen=True)
class Totals:
    """The denominators of a minibatch, counted over all its micro-batches and processes.

    Attributes:
        sequences: completions that count.
        tokens: their tokens.
        tokens_per_update: tokens of the whole rollout batch divided by its number of minibatches.
        max_length: longest completion allowed.
    """

    sequences: int
    tokens: int
    tokens_per_update: float
    max_length: int


@dataclass(frozen=True)
class LossTerms:
    """The loss (a scalar to differentiate) and sums over tokens for the metrics, all detached scalars."""

    loss: Tensor
    sums: dict[str, Tensor]


def token_weights(mask: Tensor, loss: LossName, totals: Totals) -> Tensor:
    """Return the weight of every token in the loss, (B, T), for a mask (B, T) that is 1 on tokens that count.

    - `grpo`: the mean over completions of their token means: DeepSeekMath (arXiv 2402.03300), equation 3; `gspo` likewise.
    - `bnpo`: the mean over the minibatch's tokens.
    - `dapo`: the mean over the rollout batch's tokens, so that a token weighs the same in every minibatch: DAPO (arXiv
      2503.14476), equation 8; `cispo` likewise: MiniMax-M1 (arXiv 2506.13585), equation 4.
    - `dr_grpo`: the sum over tokens by a constant, completions times the longest length: Dr. GRPO (arXiv 2503.20783), section 3.1.
    """
    if loss in ("grpo", "gspo"):
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / max(1, totals.sequences)
    denominators: dict[str, float] = {
        "bnpo": totals.tokens,
        "dapo": totals.tokens_per_update,
        "cispo": totals.tokens_per_update,
        "dr_grpo": totals.sequences * totals.max_length,
    }
    return mask / max(1.0, denominators[loss])


def kl_divergence(logprobs: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """Return an estimate of KL(policy || reference) a token, (B, T).

    Schulman, "Approximating KL divergence" (2020), with log r = reference - logprobs: k1 = -log r; k2 = (log r)^2 / 2; k3 = r - 1
    - log r, never negative (DeepSeekMath, arXiv 2402.03300, equation 4). As a loss, k2 has the divergence's own gradient, k3
    that of the reversed divergence, and k1's is zero on average: use k1 in the reward.
    """
    log_ratio = reference - logprobs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return torch.expm1(log_ratio) - log_ratio


def importance_ratio(logprobs: Tensor, old: Tensor, mask: Tensor, loss: LossName) -> Tensor:
    """Return the ratio of policy to old policy, (B, T) a token, or (B, 1) a completion for `gspo`.

    GSPO (arXiv 2507.18071), equation 7: the geometric mean of the token ratios.
    """
    log_ratio = logprobs - old
    if loss == "gspo":
        log_ratio = (log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.exp(log_ratio)


def surrogate(ratio: Tensor, logprobs: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    """Return the objective to be maximised, (B, T) or (B, 1), for a ratio of that shape and advantages (B, 1).

    - min(r A, clip(r, 1 - low, 1 + high) A): PPO (arXiv 1707.06347), equation 7, with DAPO's two bounds (arXiv 2503.14476,
      equation 10). `dual_clip` c bounds it below by c A where A < 0: arXiv 1912.09729, equation 5.
    - `cispo`: min(r, 1 + high) A log pi with no gradient through the ratio, so no token loses its gradient: MiniMax-M1 (arXiv
      2506.13585), equations 4 and 5, without the lower bound.
    """
    if settings.loss == "cispo":
        return ratio.detach().clamp(max=1 + settings.clip_high) * advantages * logprobs
    clipped = torch.minimum(
        ratio * advantages, ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantages
    )
    if settings.dual_clip is None:
        return clipped
    return torch.where(advantages < 0, torch.maximum(clipped, settings.dual_clip * advantages), clipped)


def clipped_shares(ratio: Tensor, advantages: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Return which ratios the lower and the upper bound hold back (1 or 0), of the ratio's shape."""
    low = (ratio < 1 - settings.clip_low) & (advantages < 0)
    high = (ratio > 1 + settings.clip_high) & (advantages > 0)
    return low.float() if settings.loss != "cispo" else torch.zeros_like(ratio), high.float()


def grpo_loss(
    *,
    logprobs: Tensor,
    entropy: Tensor,
    old: Tensor,
    reference: Tensor | None,
    correction: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    settings: LossSettings,
) -> LossTerms:
    """Return this micro-batch's share of the loss; the shares of a minibatch add up to its loss.

    All tensors are (B, T) but `advantages` (B,). `weights` comes from `token_weights`, `correction` from `sampler_correction`
    (None: 1). `reference` None leaves the divergence out.
    """
    ratio = importance_ratio(logprobs, old, mask, settings.loss)
    low, high = clipped_shares(ratio, advantages[:, None], settings)
    objective = surrogate(ratio, logprobs, advantages[:, None], settings).expand_as(logprobs)
    if correction is not None:
        objective = objective * correction
    divergence = (
        torch.zeros_like(logprobs)
        if reference is None
        else kl_divergence(logprobs, reference, settings.kl_estimator)
    )
    objective = objective + settings.entropy_coef * entropy - settings.kl_coef * divergence
    per_token = {
        "entropy": entropy,
        "kl": divergence,
        "clip_fraction_low": low.expand_as(mask),
        "clip_fraction_high": high.expand_as(mask),
        "offpolicy_kl": kl_divergence(old, logprobs, "k3"),
    }
    loss = -(objective * weights).sum()
    return LossTerms(
        loss,
        {"loss": loss.detach()} | {name: (value.detach() * mask).sum() for name, value in per_token.items()},
    )


def sampler_correction(
    log_ratio: Tensor, mask: Tensor, kind: Correction, level: Level, low: float, high: float
) -> Tensor:
    """Return the weight (B, T) that corrects for a sampler whose probabilities differ from the trainer's.

    `log_ratio` (B, T) is the trainer's log-prob minus the sampler's under the same weights. `truncate` bounds the ratio above by
    `high`: truncated importance sampling, Yao et al., "Your efficient RL framework secretly brings you off-policy RL training"
    (2025). `mask` drops what lies outside [low, high]: IcePop (Ling team, 2025). At `sequence` level the ratio is the product
    over the completion's tokens.
    """
    if kind == "none":
        return torch.ones_like(log_ratio)
    if level == "sequence":
        log_ratio = (log_ratio * mask).sum(1, keepdim=True).expand_as(log_ratio)
    ratio = torch.exp(log_ratio)
    if kind == "truncate":
        return ratio.clamp(max=high)
    return torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))


def mismatch_metrics(log_ratios: Tensor, low: float, high: float) -> dict[str, float]:
    """Return how far sampler and trainer disagree on the same tokens under the same weights.

    `log_ratios` (N,): trainer's log-prob minus the sampler's, one a token; without any, they agree. `mismatch_outside` is the share
    of ratios outside [low, high].
    """
    log_ratio = log_ratios.double() if len(log_ratios) else torch.zeros(1)
    ratio = log_ratio.exp()
    return {
        "mismatch_kl": float((ratio - 1 - log_ratio).mean()),
        "mismatch_ratio_min": float(ratio.min()),
        "mismatch_ratio_max": float(ratio.max()),
        "mismatch_outside": float(((ratio < low) | (ratio > high)).double().mean()),
    }
