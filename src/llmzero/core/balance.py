"""A few of many scored completions, right and wrong ones alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
HALF_RIGHT = 0.5  # score from which on a completion counts as right


def balanced(rows: Sequence[T], right: Sequence[bool], most: int) -> list[T]:
    """Return up to so many rows in their order, the first right and the first wrong ones, in equal numbers as
    far as there are.
    """
    rights = [i for i, is_right in enumerate(right) if is_right]
    wrongs = [i for i, is_right in enumerate(right) if not is_right]
    count = min(len(rights), max(most // 2, most - len(wrongs)))
    return [rows[i] for i in sorted([*rights[:count], *wrongs[: most - count]])]
