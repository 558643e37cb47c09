"""The interface between the trainer and whatever generates completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How to draw completions. `temperature` 0 is greedy decoding; `n` completions for every prompt."""

    max_tokens: int
    temperature: float = 1.0
    n: int = 1


@dataclass(frozen=True)
class Rollouts:
    """Completions of P prompts, `n` for each: row i answers prompt i // n.

    Attributes:
        prompts: token ids of the P prompts.
        completions: P * n lists of token ids; the end-of-sequence token is included where the policy emitted it.
        logprobs: for every completion token its log-probability (nats) under the sampling distribution, that is, after
            the temperature; under greedy decoding the log-probability at temperature 1.
        finish_reasons: `stop` where the policy ended by itself, `length` where it was cut off.
        n: completions per prompt.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    logprobs: list[list[float]]
    finish_reasons: list[FinishReason]
    n: int


class Engine(Protocol):
    """Generates completions under the current policy weights."""

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        """Return `sampling.n` completions for each prompt."""
        ...

    def load_weights(self, model: Any) -> None:
        """Take the policy's weights after an update."""
        ...

    def get_state(self) -> bytes:
        """Return the random state, so that a resumed stage draws what an uninterrupted one would."""
        ...

    def set_state(self, state: bytes) -> None:
        """Restore a state that `get_state` returned."""
        ...
