"""The interface between the trainer and whatever generates completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from llmzero.core.seeds import seed_of

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How to draw completions.

    Attributes:
        max_tokens: longest completion.
        temperature: 0 is greedy decoding.
        n: completions for every prompt.
        seed: with the same weights and seed a prompt gets the same completions, whatever was generated
            before, stands beside it in the batch, or runs on other processes: `prompt_seeds` are the same.
        copies: for each prompt of a call, how many times the same prompt stands before it in the batch, of
            which the call may be a process's share; empty where the call is the whole batch. So copies of a
            prompt get completions of their own.
    """

    max_tokens: int
    temperature: float = 1.0
    n: int = 1
    seed: int = 0
    copies: tuple[int, ...] = ()


def copies_before(prompts: Sequence[list[int]]) -> tuple[int, ...]:
    """Return for each prompt how many times the same one stands before it."""
    seen: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in map(tuple, prompts):
        numbers.append(seen[prompt])
        seen[prompt] += 1
    return tuple(numbers)


def prompt_seeds(sampling: Sampling, prompts: Sequence[list[int]]) -> list[int]:
    """Return each prompt's own seed: `seed_of(seed, *prompt)`, and for copy k of it `seed_of(seed, *prompt,
    -k)`, which is that of no other prompt, as no token is negative.
    """
    copies = sampling.copies or copies_before(prompts)
    return [
        seed_of(sampling.seed, *prompt, *([-copy] if copy else []))
        for prompt, copy in zip(prompts, copies, strict=True)
    ]


@dataclass(frozen=True)
class Rollouts:
    """Completions of P prompts, `n` for each: row i answers prompt i // n.

    Attributes:
        prompts: token ids of the P prompts.
        completions: P * n lists of token ids; the end-of-sequence token is included where the policy emitted
            it.
        logprobs: for every completion token its log-probability (nats) under the sampling distribution, that
            is, after the temperature; under greedy decoding the log-probability at temperature 1.
        finish_reasons: `stop` where the policy ended by itself, `length` where it was cut off.
        n: completions per prompt.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    logprobs: list[list[float]]
    finish_reasons: list[FinishReason]
    n: int


class Weights(Protocol):
    """What an engine may know of the policy it samples from."""

    @property
    def model(self) -> PreTrainedModel:
        """The trained module itself, adapters and all."""
        ...

    @property
    def directory(self) -> str:
        """A Hugging Face directory or hub id of the same architecture, with configuration, tokenizer and some
        weights.
        """
        ...

    @property
    def eos_ids(self) -> list[int]:
        """The token ids that end a completion."""
        ...

    @property
    def partitioned(self) -> bool:
        """Whether parameters are spread over processes (ZeRO 3), so that `model` cannot be run by one process
        alone.
        """
        ...

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the current weights under their Hugging Face names, whole, adapters merged; on every process
        at once.
        """
        ...


class Engine(Protocol):
    """Generates completions under the current policy weights. A failure or a hang raises; it never returns
    less than asked.
    """

    def start(self, weights: Weights) -> None:
        """Get ready to sample from the policy as it is now."""
        ...

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        """Return `sampling.n` completions for each prompt, in order; no prompts give no completions."""
        ...

    def release(self) -> None:
        """Release accelerator memory until the next `load_weights`: an update follows."""
        ...

    def load_weights(self, weights: Weights) -> None:
        """Load the policy's weights after an update and get ready to sample."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...
