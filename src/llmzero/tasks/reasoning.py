"""Data sets of reasoning-gym, by name, with their own verifiers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, Split, split_of, weighted
from llmzero.tasks.generated import PATIENCE, content_id
from llmzero.tasks.guard import Guard
from llmzero.tasks.hub import require
from llmzero.tasks.template import prompt_template
from llmzero.tasks.verified import bounded

CHUNK = 1000  # problems that are generated at a time


class ReasoningGym:
    """A generator of reasoning-gym: 0.1 for stating an answer in <answer> tags, and 0.9 times what the data set's own verifier gives for it.

    Args:
        dataset: its name, such as `leg_counting`.
        config: its settings, such as `{min_animals: 3}`.
        train_size: examples for training; `val_size` and `test_size` the same for validation and test.
        val_size: see train_size.
        test_size: see train_size.
        seed: of the generator. Splits stay disjoint whatever the seed.
        timeout_s: of one verification.
        workers: processes that verify.
        template: a Jinja file that makes the prompt of `question`; null is the task's own.
    """

    metric = "correct"

    def __init__(
        self,
        dataset: str,
        config: Mapping[str, Any] | None = None,
        train_size: int = 4800,
        val_size: int = 500,
        test_size: int = 500,
        seed: int = 0,
        timeout_s: float = 5.0,
        workers: int = 1,
        template: str | None = None,
    ) -> None:
        require("reasoning_gym", "task=reasoning_gym")
        self.dataset, self.settings, self.seed = dataset, json.dumps(dict(config or {})), seed
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        generator(dataset, self.settings, seed, 1)
        self.template = prompt_template("reasoning_gym", template)
        self._guard = Guard(score, timeout_s, workers, (dataset, self.settings, "", None))
        self._splits = cache(self._generate)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split."""
        return self._splits()[name]

    def reward(self, example: Example, completion: str) -> Reward:
        """Score a completion; never raises."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Score completions of as many examples."""
        stated = [answers.stated(completion) for completion in completions]
        asked = [(e, text) for e, text in zip(examples, stated, strict=True) if text is not None]
        judged = iter(
            self._guard([(self.dataset, self.settings, text, e.meta["entry"]) for e, text in asked])
        )
        return [
            weighted(0.0, 0.0) if text is None else weighted(1.0, bounded(next(judged))) for text in stated
        ]

    def _generate(self) -> dict[str, list[Example]]:
        """Fill all splits at once, from one stream of problems."""
        found: dict[str, dict[str, Example]] = {name: {} for name in self.sizes}
        made, misses = 0, 0
        while any(len(found[name]) < size for name, size in self.sizes.items()) and misses < PATIENCE:
            for entry in generator(self.dataset, self.settings, self.seed + made, CHUNK):
                example = self._example(entry)
                home = found[split_of(example.id)]
                new = example.id not in home and len(home) < self.sizes[split_of(example.id)]
                misses = 0 if new else misses + 1
                if new:
                    home[example.id] = example
            made += CHUNK
        short = next((name for name, size in self.sizes.items() if len(found[name]) < size), None)
        if short is not None:
            raise UserError(
                f"task.{short}_size={self.sizes[short]}: {self.dataset} gave only {len(found[short])} different problems; ask for fewer"
            )
        return {name: list(examples.values()) for name, examples in found.items()}

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
    """Return what a data set's own verifier says of an answer; without an entry it is only made ready."""
    verifier = _verifier(dataset, config)
    return float(verifier.score_answer(answer, entry)) if entry is not None else 0.0


@cache
def _verifier(dataset: str, config: str) -> Any:
    return generator(dataset, config, 0, 1)
