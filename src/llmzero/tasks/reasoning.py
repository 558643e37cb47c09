"""`task=reasoning_gym`: data sets of reasoning-gym, by name, with their own verifiers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.settings import REQUIRED, setting
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.generated import DEFAULT_SIZES, PATIENCE
from llmzero.tasks.guard import Guard
from llmzero.tasks.packages import require
from llmzero.tasks.reasoning_answers import restrict
from llmzero.tasks.settings import CheckedTaskSettings
from llmzero.tasks.splits import Split, content_id, split_of
from llmzero.tasks.template import prompt_template
from llmzero.tasks.verified import bounded

CHUNK = 1000  # problems that are generated at a time


@dataclass
class ReasoningGymSettings(CheckedTaskSettings):
    """`task=reasoning_gym`."""

    dataset: str = setting(REQUIRED, "a data set of reasoning-gym, such as leg_counting")
    config: dict[str, Any] | None = setting({}, "its settings, such as {max_animals: 5}; {}: its defaults")
    train_size: int = setting(DEFAULT_SIZES["train"], "training examples", low=1)
    val_size: int = setting(500, "validation examples", low=2)
    test_size: int = setting(500, "test examples", low=2)
    seed: int = setting(0, "seed of the generator; splits are disjoint across seeds")

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        return (
            f"Problems of reasoning-gym's {self.dataset}, with answers in <answer> tags. Reward: "
            "0.1 for stating an answer, and 0.9 times what the data set's verifier gives for it, "
            "1 at the most; the score is the mean of that."
        )


class ReasoningGym:
    """A generator of reasoning-gym.

    The reward is 0.1 for stating an answer in <answer> tags, and 0.9 times the score that the data set's own
    verifier returns for it. A template makes the prompt from `question`.
    """

    metric = "correct"

    def __init__(self, settings: ReasoningGymSettings) -> None:
        require("reasoning_gym", "task=reasoning_gym")
        self.dataset, self.seed = settings.dataset, settings.seed
        self.config = json.dumps(settings.config or {})
        self.sizes = {"train": settings.train_size, "val": settings.val_size, "test": settings.test_size}
        generator(self.dataset, self.config, self.seed, 1)
        self.template = prompt_template("reasoning_gym", settings.template)
        self._guard = Guard(
            score, settings.timeout_s, settings.workers, [(self.dataset, self.config, "", None)]
        )
        self._splits = cache(self._generate)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split."""
        return self._splits()[name]

    def reward(self, example: Example, completion: str) -> Reward:
        """Score a completion; never raises."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Score one completion for each example."""
        stated = [answers.stated(completion) for completion in completions]
        calls = [
            (self.dataset, self.config, text, example.meta["entry"])
            for example, text in zip(examples, stated, strict=True)
            if text is not None
        ]
        scores = iter(self._guard(calls))
        return [
            weighted(0.0, 0.0) if text is None else weighted(1.0, bounded(next(scores))) for text in stated
        ]

    def _generate(self) -> dict[str, list[Example]]:
        """Fill all splits at once, from one stream of problems."""
        splits: dict[str, dict[str, Example]] = {name: {} for name in self.sizes}
        generated, misses = 0, 0
        while any(len(splits[name]) < size for name, size in self.sizes.items()) and misses < PATIENCE:
            for entry in generator(self.dataset, self.config, self.seed + generated, CHUNK):
                example = self._example(entry)
                name = split_of(example.id)
                new = example.id not in splits[name] and len(splits[name]) < self.sizes[name]
                misses = 0 if new else misses + 1
                if new:
                    splits[name][example.id] = example
            generated += CHUNK
        for split, size in self.sizes.items():
            if len(splits[split]) < size:
                raise UserError(
                    f"task.{split}_size={size}: {self.dataset} gave only {len(splits[split])} different "
                    "problems; ask for fewer"
                )
        return {name: list(examples.values()) for name, examples in splits.items()}

    def _example(self, entry: dict[str, Any]) -> Example:
        question = str(entry["question"]).strip()
        return Example(
            content_id(" ".join(question.split())),
            self.template.render(question=question),
            str(entry["answer"]),
            {"entry": entry},
        )


def generator(dataset: str, config: str, seed: int, size: int) -> Any:
    """Return a data set of reasoning-gym, by its name and settings (JSON).

    Raises:
        UserError: there is none of that name, or its settings are wrong.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise UserError(f"task.dataset={dataset}: must be one of {', '.join(sorted(DATASETS))}")
    try:
        return reasoning_gym.create_dataset(dataset, seed=seed, size=size, **json.loads(config))
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(f"task.config={config}: {dataset} does not take it: {error}") from error


def score(dataset: str, config: str, answer: str, entry: dict[str, Any] | None) -> float:
    """Return the data set's own score of an answer; without an entry only create the verifier.

    Nothing in the answer is executed: this changes what its process evaluates, so call it in one of a guard.
    """
    verifier = _verifier(dataset, config)
    return float(verifier.score_answer(answer, entry)) if entry is not None else 0.0


@cache
def _verifier(dataset: str, config: str) -> Any:
    verifier = generator(dataset, config, 0, 1)
    restrict()
    return verifier
