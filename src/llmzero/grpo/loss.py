"""The policy-gradient loss: pure functions on tensors. Shapes: B completions, T completion tokens (padded).

Everything is a sum over tokens with weights that are fixed before the batch is cut up, so the gradient
depends neither on micro-batches, nor on padding, nor on how samples are spread over processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hydra.utils import get_object
from torch import Tensor

from llmzero.core.errors import UserError

# A larger log-ratio counts as this one, and has no gradient. In float32 exp(89) is infinite, and infinity
# times the 0 of a clipped or masked token is no number. verl has the same bound.
MAX_LOG_RATIO = 20.0


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
class Loss:
    """One policy-gradient loss. `algorithm.loss` names one of `LOSSES`, or is the import path of your own.

    Attributes:
        token_weights: from a mask (B, T), 1 on tokens that count, and the minibatch's `Totals` to each
            token's weight (B, T).
        importance_ratio: from log-ratios of policy to old policy (B, T) and the mask to ratios, (B, T) a
            token or (B, 1) a completion.
        surrogate: from ratios, log-probs (B, T), advantages (B, 1) and `LossSettings` to the objective to be
            maximised, of the ratios' shape or (B, T).
        clips_low: whether the surrogate holds ratios back below `1 - clip_low`; for the metric
            `clip_fraction_low` alone.
        cuts_bad: whether the upper bound holds ratios back where advantages are negative, too; for the metric
            `clip_fraction_high` alone.
    """

    token_weights: Callable[[Tensor, Totals], Tensor]
    importance_ratio: Callable[[Tensor, Tensor], Tensor]
    surrogate: Callable[[Tensor, Tensor, Tensor, LossSettings], Tensor]
    clips_low: bool = True
    cuts_bad: bool = False


@dataclass(frozen=True)
class LossSettings:
    """A loss and its coefficients; `kl_coef` is 0 where the divergence is in the reward."""

    loss: Loss
    clip_low: float
    clip_high: float
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0


@dataclass(frozen=True)
class LossTerms:
    """The loss (a scalar to differentiate) and sums over tokens for the metrics, all detached scalars."""

    loss: Tensor
    sums: dict[str, Tensor]


# --- token weights ---


def mean_over_completions(mask: Tensor, totals: Totals) -> Tensor:
    """Weigh tokens for the mean over completions of their token means.

    DeepSeekMath (arXiv 2402.03300), equation 3.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / max(1, totals.sequences)


def mean_over_minibatch(mask: Tensor, totals: Totals) -> Tensor:
    """Weigh tokens for the mean over the minibatch's tokens."""
    return mask / max(1.0, totals.tokens)


def mean_over_batch(mask: Tensor, totals: Totals) -> Tensor:
    """Weigh tokens for the mean over the rollout batch's tokens: a token weighs the same in every minibatch.

    DAPO (arXiv 2503.14476), equation 8; MiniMax-M1 (arXiv 2506.13585), equation 4.
    """
    return mask / max(1.0, totals.tokens_per_update)


def constant_weight(mask: Tensor, totals: Totals) -> Tensor:
    """Divide the sum over tokens by completions times the longest length.

    Dr. GRPO (arXiv 2503.20783), section 3.1.
    """
    return mask / max(1.0, totals.sequences * totals.max_length)


# --- importance ratios ---


def ratio_of(log_ratio: Tensor) -> Tensor:
    """Return exp(log_ratio), finite whatever the log-ratio: see `MAX_LOG_RATIO`."""
    return torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO))


def token_ratio(log_ratio: Tensor, _mask: Tensor) -> Tensor:
    """Return the ratio of each token, (B, T)."""
    return ratio_of(log_ratio)


def completion_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return the geometric mean of a completion's token ratios, (B, 1).

    GSPO (arXiv 2507.18071), equation 7.
    """
    return ratio_of(_counting(log_ratio, mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1))


def _counting(values: Tensor, mask: Tensor) -> Tensor:
    """Return values with 0 where the mask is 0, whatever stood there: 0 times infinity would be no number."""
    return torch.where(mask > 0, values, 0.0)


# --- surrogates ---


def clipped_surrogate(ratio: Tensor, _logprobs: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    """Return min(r A, clip(r, 1 - low, 1 + high) A).

    PPO (arXiv 1707.06347), equation 7, with DAPO's two bounds (arXiv 2503.14476, equation 10). `dual_clip` c
    bounds it below by c A where A < 0: arXiv 1912.09729, equation 5.
    """
    clipped = torch.minimum(
        ratio * advantages, ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantages
    )
    if settings.dual_clip is None:
        return clipped
    return torch.where(advantages < 0, torch.maximum(clipped, settings.dual_clip * advantages), clipped)


def weighted_logprobs(ratio: Tensor, logprobs: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    """Return min(r, 1 + high) A log pi. The ratio has no gradient, so that no token loses its own.

    MiniMax-M1 (arXiv 2506.13585), equations 4 and 5, without the lower bound.
    """
    return ratio.detach().clamp(max=1 + settings.clip_high) * advantages * logprobs


# Every name is also listed, without torch, in llmzero.grpo.settings.
LOSSES = {
    "grpo": Loss(mean_over_completions, token_ratio, clipped_surrogate),
    "bnpo": Loss(mean_over_minibatch, token_ratio, clipped_surrogate),
    "dr_grpo": Loss(constant_weight, token_ratio, clipped_surrogate),
    "dapo": Loss(mean_over_batch, token_ratio, clipped_surrogate),
    "gspo": Loss(mean_over_completions, completion_ratio, clipped_surrogate),
    "cispo": Loss(mean_over_batch, token_ratio, weighted_logprobs, clips_low=False, cuts_bad=True),
}


def loss_of(name: str) -> Loss:
    """Return the loss that `algorithm.loss` names.

    Raises:
        UserError: it is an import path that leads to nothing, or to something else than a `Loss`.
    """
    if name in LOSSES:
        return LOSSES[name]
    try:
        loss = get_object(name)
    except Exception as error:  # whatever the import of somebody's module raises
        raise UserError(f"algorithm.loss={name}: cannot be imported: {error.__cause__ or error}") from error
    if not isinstance(loss, Loss):
        raise UserError(
            f"algorithm.loss={name}: is a {type(loss).__name__}; must be an llmzero.grpo.loss.Loss"
        )
    return loss


def clipped_shares(ratio: Tensor, advantages: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Return which ratios the lower and the upper bound hold back (1 or 0), (B, T); never where the advantage
    is 0, which has no gradient that could be held back.
    """
    loss = settings.loss
    low = (ratio < 1 - settings.clip_low) & (advantages < 0) & loss.clips_low
    high = (ratio > 1 + settings.clip_high) & ((advantages > 0) | ((advantages < 0) & loss.cuts_bad))
    return low.float(), high.float()


def kl_divergence(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Return an estimate of KL(policy || reference) a token, (B, T).

    Schulman, "Approximating KL divergence" (2020), with log r = reference - logprobs: k1 = -log r;
    k2 = (log r)^2 / 2; k3 = r - 1 - log r, never negative (DeepSeekMath, arXiv 2402.03300, equation 4). As a
    loss, k2 has the divergence's own gradient, k3 that of the reversed divergence, and k1's is zero on
    average: use k1 in the reward. k3 of a log r above `MAX_LOG_RATIO` is that of the bound, without gradient.
    """
    log_ratio = reference - logprobs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    log_ratio = log_ratio.clamp(max=MAX_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio


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

    All tensors are (B, T) but `advantages` (B,). `weights` comes from the loss's `token_weights`,
    `correction` from `sampler_correction` (None: 1). `reference` None leaves the divergence out. What stands
    where the mask is 0 is of no account, and be it infinite. A token whose correction is 0 has no part in the
    ratio of its completion either.
    """
    logprobs, entropy, old = (_counting(each, mask) for each in (logprobs, entropy, old))
    reference = None if reference is None else _counting(reference, mask)
    kept = mask if correction is None else mask * (correction > 0)
    ratio = settings.loss.importance_ratio(logprobs - old, kept)
    low, high = clipped_shares(ratio, advantages[:, None], settings)
    objective = settings.loss.surrogate(ratio, logprobs, advantages[:, None], settings).expand_as(logprobs)
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
    log_ratio: Tensor, mask: Tensor, kind: str, level: str, low: float, high: float
) -> Tensor:
    """Return the weight (B, T) that corrects for a sampler whose probabilities differ from the trainer's.

    `log_ratio` (B, T) is the trainer's log-prob minus the sampler's under the same weights. `truncate` bounds
    the ratio above by `high`: truncated importance sampling, Yao et al., "Your efficient RL framework
    secretly brings you off-policy RL training" (2025). `mask` drops what lies outside [low, high]: IcePop
    (Ling team, 2025). At `sequence` level the ratio is the product over the completion's tokens.
    """
    if kind == "none":
        return torch.ones_like(log_ratio)
    log_ratio = _counting(log_ratio, mask)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
    ratio = ratio_of(log_ratio)
    if kind == "truncate":
        return ratio.clamp(max=high)
    return torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))


def mismatch_metrics(log_ratios: Tensor, low: float, high: float) -> dict[str, float]:
    """Return how far sampler and trainer disagree on the same tokens under the same weights.

    `log_ratios` (N,): trainer's log-prob minus the sampler's, one a token; without any, they agree.
    `mismatch_outside` is the share of ratios outside [low, high].
    """
    log_ratio = log_ratios.double() if len(log_ratios) else torch.zeros(1)
    ratio = ratio_of(log_ratio)
    return {
        "mismatch_kl": float((ratio - 1 - log_ratio.clamp(max=MAX_LOG_RATIO)).mean()),
        "mismatch_ratio_min": float(ratio.min()),
        "mismatch_ratio_max": float(ratio.max()),
        "mismatch_outside": float(((ratio < low) | (ratio > high)).double().mean()),
    }
