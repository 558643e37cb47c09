"""The policy-gradient loss: pure functions on tensors. Shapes: B completions, T completion tokens (padded), V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossTerms:
    """The loss (a scalar to differentiate) and sums over tokens for the metrics, all detached scalars."""

    loss: Tensor
    sums: dict[str, Tensor]


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probs and entropies (nats), both (B, T), of logits (B, T, V) under the sampling temperature.

    The temperature is that of the sampler, so that the ratio compares like with like.
    """
    distribution = torch.log_softmax(logits.float() / temperature, dim=-1)
    entropy = -(distribution.exp() * distribution).sum(-1)
    return distribution.gather(-1, tokens[..., None])[..., 0], entropy


def k3_divergence(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference) a token, (B, T), never negative.

    r - 1 - log r with r = reference / policy: DeepSeekMath (arXiv 2402.03300), equation 4; Schulman, "Approximating KL
    divergence" (2020).
    """
    log_ratio = reference - logprobs
    return torch.expm1(log_ratio) - log_ratio


def clipped_surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the clipped surrogate to be maximised and the two shares it clips, each (B, T).

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A): PPO (arXiv 1707.06347), equation 7, with DAPO's decoupled bounds (arXiv
    2503.14476, equation 10). `advantages` is (B,), one a completion. A token counts as clipped where the bound is what the
    minimum took.
    """
    advantages = advantages[:, None]
    ratio = torch.exp(logprobs - old)
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    return surrogate, low.float(), high.float()


def grpo_loss(
    *,
    logprobs: Tensor,
    entropy: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    total_tokens: float,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
    entropy_coef: float,
) -> LossTerms:
    """Return this micro-batch's share of the token-mean GRPO loss.

    Every token of the minibatch weighs the same, 1 / `total_tokens` (DAPO's token-level aggregation, arXiv 2503.14476,
    equation 8), so summing the shares gives the same gradient however the minibatch is cut. All tensors are (B, T) but
    `advantages` (B,); `mask` is 1 on completion tokens. `reference` None leaves the divergence out.
    """
    surrogate, low, high = clipped_surrogate(logprobs, old, advantages, clip_low, clip_high)
    objective = surrogate + entropy_coef * entropy
    divergence = torch.zeros_like(logprobs) if reference is None else k3_divergence(logprobs, reference)
    objective = objective - kl_coef * divergence
    loss = -(objective * mask).sum() / total_tokens
    per_token = {
        "loss": -objective,
        "entropy": entropy,
        "kl": divergence,
        "clip_fraction_low": low,
        "clip_fraction_high": high,
        "mismatch_kl": k3_divergence(old, logprobs),
    }
    return LossTerms(loss, {name: (value.detach() * mask).sum() for name, value in per_token.items()})
