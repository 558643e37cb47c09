"""What the trainer asks of a task: examples of a split, and a reward for a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from llmzero.core.errors import UserError
from llmzero.tasks.splits import Split

FORMAT_WEIGHT = 0.1
LARGEST_REWARD = 3.4e38  # of what float32 holds


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
    """Score one completion for each example, in one batch where the task supports it; rewards are floats
    whatever kind of number the task gives.

    Raises:
        UserError: a reward is no finite number, lacks the task's metric, or is missing: training on it would
            be training towards nonsense.
    """
    if isinstance(task, Batched):
        rewards = task.rewards(examples, completions)
    else:
        rewards = [task.reward(example, text) for example, text in zip(examples, completions, strict=True)]
    name = type(task).__name__
    if len(rewards) != len(completions):
        raise UserError(f"task {name}: gave {len(rewards)} rewards for {len(completions)} completions")
    for example, reward in zip(examples, rewards, strict=True):
        if problem := _problem(reward, task.metric):
            raise UserError(f"task {name}: {problem} for example {example.id!r}; correct the task's reward")
    return [Reward(float(r.value), {key: float(part) for key, part in r.parts.items()}) for r in rewards]


def _problem(reward: Any, metric: str) -> str | None:
    """Return what is wrong with what a task gave for a reward; None where nothing is."""
    if not isinstance(reward, Reward):
        return f"gave {reward!r:.80} and not a Reward"
    if metric not in reward.parts:
        return f"gave a Reward without its metric {metric!r}, but {sorted(reward.parts)},"
    for name, value in {"value": reward.value, **reward.parts}.items():
        # numpy's and torch's numbers count as such; a text is none, even where it reads as one.
        try:
            finite = not isinstance(value, str | bytes) and abs(float(value)) <= LARGEST_REWARD
        except (TypeError, ValueError, OverflowError):
            finite = False
        if not finite:
            return f"gave {value!r:.80} as {name} of a Reward, which is no finite number,"
    return None


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


@runtime_checkable
class Varied(Demonstrating, Protocol):
    """A demonstrating task that writes every problem in many ways, as the texts of a pretraining do."""

    def writing(self, example: Example, number: int) -> str:
        """Return one of the ways, right or wrong; each number from 0 on has its own."""
        ...
