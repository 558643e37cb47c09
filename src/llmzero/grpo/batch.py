"""From rollouts to padded tensors, cut into micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Sample:
    """One completion with everything the loss needs. `reference` is filled where the divergence has a weight."""

    prompt: list[int]
    completion: list[int]
    logprobs: list[float]
    advantage: float
    reference: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class MicroBatch:
    """Padded rows: ids and attention (B, P + T), prompts on the left; tokens, mask, old and reference (B, T); advantages (B,)."""

    ids: Tensor
    attention: Tensor
    tokens: Tensor
    mask: Tensor
    old: Tensor
    reference: Tensor | None
    advantages: Tensor


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> Iterator[list[Sample]]:
    """Cut samples, longest first, into runs whose padded size stays within `max_tokens` (at least one row each)."""
    chunk: list[Sample] = []
    for sample in sorted(samples, key=lambda s: -s.length):
        longest = chunk[0].length if chunk else sample.length
        if chunk and longest * (len(chunk) + 1) > max_tokens:
            yield chunk
            chunk = []
        chunk.append(sample)
    if chunk:
        yield chunk


def collate(samples: Sequence[Sample], pad_id: int, device: torch.device) -> MicroBatch:
    """Pad prompts on the left and completions on the right."""
    prompt_width = max(len(s.prompt) for s in samples)
    width = max(len(s.completion) for s in samples)
    prompts = [[pad_id] * (prompt_width - len(s.prompt)) + s.prompt for s in samples]
    completions = [s.completion + [pad_id] * (width - len(s.completion)) for s in samples]
    mask = torch.tensor([[1.0] * len(s.completion) + [0.0] * (width - len(s.completion)) for s in samples])
    attention = torch.tensor([[0] * (prompt_width - len(s.prompt)) + [1] * len(s.prompt) for s in samples])
    tokens = torch.tensor(completions)
    reference = _pad([s.reference for s in samples], width).to(device) if samples[0].reference else None
    return MicroBatch(
        ids=torch.cat([torch.tensor(prompts), tokens], 1).to(device),
        attention=torch.cat([attention, mask.long()], 1).to(device),
        tokens=tokens.to(device),
        mask=mask.to(device),
        old=_pad([s.logprobs for s in samples], width).to(device),
        reference=reference,
        advantages=torch.tensor([s.advantage for s in samples], device=device),
    )


def _pad(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
