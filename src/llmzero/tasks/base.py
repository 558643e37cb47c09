"""What the trainer asks of a task: examples of a split, and a reward for a completion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Split = Literal["train", "val", "test"]

# Share of the content-hash space that belongs to each split, in thousandths: [start, end).
SPLIT_RANGES: dict[str, tuple[int, int]] = {"train": (0, 600), "val": (600, 800), "test": (800, 1000)}


@dataclass(frozen=True)
class Example:
    """One problem. `answer` and `meta` are for the reward only; the policy sees `prompt` alone."""

    id: str
    prompt: str
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reward:
    """A reward in [0, 1] and the named parts that it is made of, each in [0, 1]."""

    value: float
    parts: dict[str, float]


FORMAT_WEIGHT = 0.1


def weighted(formatted: float, correct: float) -> Reward:
    """Return a reward of 0.1 for the form that a prompt asks for, and 0.9 for what is right."""
    return Reward(
        FORMAT_WEIGHT * formatted + (1 - FORMAT_WEIGHT) * correct, {"format": formatted, "correct": correct}
    )


class Task(Protocol):
    """A family of verifiable problems. Splits are disjoint by content and the same on every machine."""

    metric: str
    """Name of the reward part whose mean is the validation and test *score*."""

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in a fixed order."""
        ...

    def reward(self, example: Example, completion: str) -> Reward:
        """Score a completion. Never raises, whatever the completion."""
        ...


@runtime_checkable
class Batched(Protocol):
    """A task that rewards many completions faster than one by one."""

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Score completions of as many examples. Never raises."""
        ...


def rewards_of(task: Task, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
    """Score completions of as many examples, together where the task can."""
    if isinstance(task, Batched):
        return task.rewards(examples, completions)
    return [task.reward(example, text) for example, text in zip(examples, completions, strict=True)]


@runtime_checkable
class Demonstrating(Protocol):
    """A task that the nano model can be warm-started on: it has solutions, and the characters all its texts use."""

    alphabet: str

    def demonstration(self, example: Example) -> str:
        """Return a completion that earns the full reward."""
        ...


@runtime_checkable
class Careless(Demonstrating, Protocol):
    """A demonstrating task whose base model also starts with bad habits; any other task is taught right answers alone."""

    def careless(self, example: Example) -> str:
        """Return a completion that is well-formed and usually wrong."""
        ...


def split_of(content: str) -> Split:
    """Return the split a problem belongs to, by the hash of its normalised content."""
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % 1000
    for name, (start, end) in SPLIT_RANGES.items():
        if start <= bucket < end:
            return name  # type: ignore[return-value]
    raise AssertionError(f"bucket {bucket} lies outside every split")
