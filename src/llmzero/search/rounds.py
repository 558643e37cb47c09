"""Work in rounds, so that one thread carries on several searches and measurements at once."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
# Each round looks once at all that is under way, without waiting; it yields whether anything was new.
Rounds = Generator[bool, None, T]

POLL_S = 0.2  # between two rounds of which the first had nothing new


def carry_out(rounds: Rounds[T]) -> T:
    """Do the rounds to their end and return their value; where this is interrupted, they are closed."""
    with closing(rounds):
        while True:
            try:
                changed = next(rounds)
            except StopIteration as end:
                value: T = end.value
                return value
            if not changed:
                time.sleep(POLL_S)
