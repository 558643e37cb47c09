"""From rollouts to tensors: shared out over processes, packed into micro-batches under a token budget."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmzero.grpo.limits import COPIES
from llmzero.grpo.packing import Pack, pack
from llmzero.rollout.base import FinishReason
from llmzero.tasks.base import Reward


@dataclass
class Sample:
    """One completion with everything the loss and the metrics need.

    Attributes:
        sampled: log-probs of the completion's tokens under the sampler.
        reward: as the task gave it.
        shaped_reward: the reward that advantages are made of, less the penalty of overlong completions.
        counts: False masks the completion out of the loss.
        old: log-probs under the trainer's own weights at sampling time; the sampler's where they were not
            computed.
        reference: log-probs under the reference policy; empty where the divergence has no weight.
    """

    prompt: list[int]
    completion: list[int]
    sampled: list[float]
    finish: FinishReason
    reward: Reward
    shaped_reward: float
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
    """B completions, packed; the tensors are (B, T), padded on the right, but advantages (B,).

    `counted` is 1 on completion tokens that are in the loss.
    """

    pack: Pack
    counted: Tensor
    sampled: Tensor
    old: Tensor
    reference: Tensor | None
    advantages: Tensor


def by_prompt(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Put the samples of each prompt together, in the order in which prompts come."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample.prompt), []).append(sample)
    return list(groups.values())


def cost(sample: Sample) -> int:
    """Return the cost in micro-batch tokens: its length, but at least 1/COPIES of prompt plus completion.

    In every layer the keys and values that a completion attends to are copied for it, its prompt's included.
    """
    return max(len(sample.completion), -(-sample.length // COPIES))


def size_of(samples: Sequence[Sample]) -> int:
    """Return the cost in micro-batch tokens of samples of one prompt: the prompt once, and the
    completions.
    """
    return len(samples[0].prompt) + sum(map(cost, samples))


def pieces(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Cut every prompt's samples, longest first, into runs that cost at most `max_tokens` (at least one
    sample each).
    """
    cut: list[list[Sample]] = []
    for group in by_prompt(samples):
        room = 0
        for sample in sorted(group, key=lambda s: -len(s.completion)):
            if cost(sample) > room:
                cut.append([])
                room = max_tokens - len(sample.prompt)
            cut[-1].append(sample)
            room -= cost(sample)
    return sorted(cut, key=lambda piece: -piece[0].length)


def micro_batches(hand: Sequence[list[Sample]], max_tokens: int) -> list[list[Sample]]:
    """Join pieces, in order, as long as they stay within `max_tokens`."""
    joined: list[list[Sample]] = []
    room = 0
    for piece in hand:
        size = size_of(piece)
        if size > room:
            joined.append([])
            room = max_tokens
        joined[-1].extend(piece)
        room -= size
    return joined


def shared_out(
    samples: Sequence[Sample], max_tokens: int, rank: int, size: int
) -> list[tuple[list[Sample], bool]]:
    """Return this process's micro-batches: as many as every other process has, of about as many tokens.

    The samples of a prompt stay together as far as that allows, because a prompt costs as much for many of
    them as for one. A process that needs fewer micro-batches than another repeats one sample with False,
    which says that it must not count: collective calls in the backward pass have to match.
    """
    fair = -(-sum(map(size_of, by_prompt(samples))) // size)
    hands: list[list[list[Sample]]] = [[] for _ in range(size)]
    loads = [(0, process) for process in range(size)]
    for piece in pieces(samples, min(max_tokens, fair)):
        load, process = heapq.heappop(loads)
        hands[process].append(piece)
        heapq.heappush(loads, (load + size_of(piece), process))
    cut = [micro_batches(hand, max_tokens) for hand in hands]
    own = [(chunk, True) for chunk in cut[rank]]
    smallest = min(samples, key=lambda s: s.length)
    return own + [([smallest], False)] * (max(map(len, cut)) - len(own))


def collate(samples: Sequence[Sample], device: torch.device, counts: bool = True) -> MicroBatch:
    """Make tensors of a micro-batch; `counts` False takes all of it out of the loss."""
    packed = pack([(s.prompt, s.completion) for s in samples], device)
    width = packed.mask.shape[1]
    live = torch.tensor([float(s.counts and counts) for s in samples], device=device)
    return MicroBatch(
        pack=packed,
        counted=packed.mask * live[:, None],
        sampled=_pad([s.sampled for s in samples], width).to(device),
        old=_pad([s.old or s.sampled for s in samples], width).to(device),
        reference=_pad([s.reference for s in samples], width).to(device) if samples[0].reference else None,
        advantages=torch.tensor([s.advantage for s in samples], device=device),
    )


def _pad(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
