"""Which split a problem belongs to: the hash of its content decides, on every machine alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeVar

from llmzero.core.errors import UserError

T = TypeVar("T")
Split = Literal["train", "val", "test"]

# Share of the content-hash space that belongs to each split, in thousandths: [start, end).
SPLIT_RANGES: dict[Split, tuple[int, int]] = {"train": (0, 600), "val": (600, 800), "test": (800, 1000)}


def content_id(content: str) -> str:
    """Return the id of a problem, by its normalised content."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def split_of(content: str) -> Split:
    """Return the split a problem belongs to, by the hash of its normalised content."""
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % 1000
    return next(name for name, (start, end) in SPLIT_RANGES.items() if start <= bucket < end)


def first_of(examples: Sequence[T], name: Split, size: int | None, source: str) -> Sequence[T]:
    """Return the first examples of a split of a data set, which `source` names; all where `size` is None.

    Raises:
        UserError: there are fewer, or none.
    """
    if len(examples) < (size or 1):
        raise UserError(
            f"{source}: split {name} has {len(examples)} problems, and needs {size or 1}; "
            + (f"lower task.{name}_size, or add some" if size and examples else "add some")
        )
    return examples[:size]
