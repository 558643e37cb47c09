"""The order in which training examples are seen: shuffled epochs, addressable by a cursor."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeGuard

from llmzero.core.errors import UserError
from llmzero.tasks.base import Example


def easiest(examples: Sequence[Example], share: float) -> Sequence[Example]:
    """Return a share of the examples, at least one: the easiest by `meta["difficulty"]`, of equally difficult
    ones the first.

    Raises:
        UserError: an example does not say how difficult it is.
    """
    if share == 1:
        return examples
    if not all(is_number(example.meta.get("difficulty")) for example in examples):
        raise UserError(
            f"easiest={share:g}: the task's problems do not all have a number `difficulty`; leave it at 1, "
            "or take hparams=grpo"
        )
    ordered = sorted(examples, key=lambda example: example.meta["difficulty"])
    return ordered[: max(1, round(share * len(examples)))]


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


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
