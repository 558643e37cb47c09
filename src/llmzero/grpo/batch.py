"""From rollouts to padded tensors: shared out over processes, cut into micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmzero.rollout.base import FinishReason
from llmzero.tasks.base import Reward


@dataclass
class Sample:
    """One completion with everything the loss and the metrics need.

    Attributes:
        sampled: log-probs of the completion's tokens under the sampler.
        reward: as the task gave it.
        value: the reward that advantages are made of: with what overlong completions and divergence take from it.
        counts: False masks the completion out of the loss.
        old: log-probs under the trainer's own weights at sampling time; the sampler's where they were not computed.
        reference: log-probs under the reference policy; empty where the divergence has no weight.
    """

    prompt: list[int]
    completion: list[int]
    sampled: list[float]
    finish: FinishReason
    reward: Reward
    value: float
    advantage: float = 0.0
    counts: bool = True
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)

    @property
    def tokens(self) -> int:
        """Completion tokens that count in the loss."""
        return len(self.completion) if self.counts else 0


@dataclass(frozen=True)
class MicroBatch:
    """Padded rows: ids and attention (B, P + T), prompts on the left; the others (B, T), but advantages (B,).

    `mask` is 1 on completion tokens, `counted` on those that are in the loss.
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor
    counted: Tensor
    sampled: Tensor
    old: Tensor
    reference: Tensor | None
    advantages: Tensor


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Cut samples, longest first, into runs whose padded size stays within `max_tokens` (at least one row each)."""
    chunks: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: -s.length):
        if not chunks or chunks[-1][0].length * (len(chunks[-1]) + 1) > max_tokens:
            chunks.append([])
        chunks[-1].append(sample)
    return chunks


def shared_out(samples: Sequence[Sample], max_tokens: int, rank: int, size: int) -> list[tuple[list[Sample], bool]]:
    """Return this process's micro-batches: as many as every other process has, of about as many tokens.

    Samples are dealt out longest first, to and fro. A process that needs fewer micro-batches than another repeats one sample with
    False, which says that it must not count: collective calls in the backward pass have to match.
    """
    order = sorted(samples, key=lambda s: -s.length)
    turns = [*range(size), *reversed(range(size))]
    hands: list[list[Sample]] = [[] for _ in range(size)]
    for i, sample in enumerate(order):
        hands[turns[i % len(turns)]].append(sample)
    cut = [micro_batches(hand, max_tokens) for hand in hands]
    own = [(chunk, True) for chunk in cut[rank]]
    return own + [([order[-1]], False)] * (max(map(len, cut)) - len(own))


def collate(samples: Sequence[Sample], pad_id: int, device: torch.device, counts: bool = True) -> MicroBatch:
    """Pad prompts on the left and completions on the right; `counts` False takes all rows out of the loss."""
    prompt_width = max(len(s.prompt) for s in samples)
    width = max(len(s.completion) for s in samples)
    ids = torch.full((len(samples), prompt_width + width), pad_id)
    mask = torch.zeros(len(samples), width)
    attention = torch.zeros(len(samples), prompt_width + width, dtype=torch.long)
    for i, s in enumerate(samples):
        start, end = prompt_width - len(s.prompt), prompt_width + len(s.completion)
        ids[i, start:end] = torch.tensor(s.prompt + s.completion)
        attention[i, start:end] = 1
        mask[i, : len(s.completion)] = 1.0
    live = torch.tensor([float(s.counts and counts) for s in samples])
    return MicroBatch(
        ids=ids.to(device),
        attention=attention.to(device),
        mask=mask.to(device),
        counted=(mask * live[:, None]).to(device),
        sampled=_pad([s.sampled for s in samples], width).to(device),
        old=_pad([s.old or s.sampled for s in samples], width).to(device),
        reference=_pad([s.reference for s in samples], width).to(device) if samples[0].reference else None,
        advantages=torch.tensor([s.advantage for s in samples], device=device),
    )


def _pad(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
