"""The order in which training examples are seen: shuffled epochs, addressable by a cursor."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmzero.tasks.base import Example


class DataOrder:
    """An endless, seeded sequence of examples. Position `i` means the same whatever the batch size was
    before.
    """

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def take(self, start: int, count: int) -> list[Example]:
        """Return the examples at positions start to start + count - 1."""
        return [self._at(position) for position in range(start, start + count)]

    def _at(self, position: int) -> Example:
        epoch, index = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._order = list(range(len(self._examples)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
            self._epoch = epoch
        return self._examples[self._order[index]]
