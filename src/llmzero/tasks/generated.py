"""Splits that a generator fills: distinct problems, each in the split that the hash of its content says."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache

from llmzero.core.errors import UserError
from llmzero.tasks.base import Example
from llmzero.tasks.splits import Split, split_of

DEFAULT_SIZES = {"train": 4800, "val": 1000, "test": 1000}
FEWEST = {"train": 1, "val": 2, "test": 2}  # problems of a split; a score has a standard error from two on
PATIENCE = 20_000  # draws without a new problem after which a split counts as exhausted


def generated_sizes(sizes: Mapping[str, int | None]) -> dict[str, int]:
    """Return the sizes of generated splits; one that is None is the default size."""
    return {name: sizes[name] or size for name, size in DEFAULT_SIZES.items()}


class Generated(ABC):
    """A task whose problems are drawn at random.

    Args:
        name: of the task, with its difficulty; it is part of what seeds the draws.
        sizes: examples in each split.
        seed: of the generator. Splits stay disjoint whatever the seed.

    Raises:
        UserError: a split would be empty, or too small for a standard error.
    """

    def __init__(self, name: str, sizes: dict[str, int], seed: int) -> None:
        self.name, self.sizes, self.seed = name, sizes, seed
        self._examples = cache(self._generate)
        if scarce := [split for split, size in sizes.items() if size < FEWEST[split]]:
            raise UserError(
                f"task={name}: split {scarce[0]} has {sizes[scarce[0]]} problems with these settings, "
                f"and needs at least {FEWEST[scarce[0]]}; choose settings that have more"
            )

    @abstractmethod
    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem, or None where the draw failed. Its id is the `content_id` of its content."""

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split: deterministic, distinct and disjoint from the other splits."""
        return self._examples(name)

    def _generate(self, name: Split) -> list[Example]:
        rng = random.Random(f"{self.name}/{self.seed}/{name}")
        problems: dict[str, Example] = {}
        misses = 0
        while len(problems) < self.sizes[name] and misses < PATIENCE:
            example = self.draw(rng)
            misses += 1
            if example is not None and example.id not in problems and split_of(example.id) == name:
                problems[example.id] = example
                misses = 0
        if len(problems) < self.sizes[name]:
            raise UserError(
                f"task.{name}_size={self.sizes[name]}: only {len(problems)} distinct problems "
                f"of {self.name} exist in this split; ask for fewer"
            )
        return list(problems.values())
