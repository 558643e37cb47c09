"""What the trainer asks of a task: examples of a split, and a reward for a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from llmzero.tasks.splits import Split

FORMAT_WEIGHT = 0.1


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


def weighted(formatted: float, correct: float) -> Reward:
    """Return a reward of which the form that the prompt asks for is 0.1, and a correct answer 0.9."""
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
        """Score one completion for each example. Never raises."""
        ...


def rewards_of(task: Task, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
    """Score one completion for each example, in one batch where the task supports it."""
    if isinstance(task, Batched):
        return task.rewards(examples, completions)
    return [task.reward(example, text) for example, text in zip(examples, completions, strict=True)]


@runtime_checkable
class Demonstrating(Protocol):
    """A task that the nano model can be warm-started on."""

    alphabet: str
    """Every character of its prompts and completions."""

    def demonstration(self, example: Example) -> str:
        """Return a completion that earns the full reward."""
        ...


@runtime_checkable
class Careless(Demonstrating, Protocol):
    """A demonstrating task that also teaches bad habits; any other teaches right answers alone."""

    def careless(self, example: Example) -> str:
        """Return a completion that is well-formed and usually wrong."""
        ...
