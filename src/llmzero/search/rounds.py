"""Work in rounds, so that one thread carries on several searches and measurements at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from typing import TypeVar

from llmzero.core.errors import UserError
from llmzero.core.processes import interruptible_between_rounds
from llmzero.core.text import visible_line

log = logging.getLogger(__name__)

T = TypeVar("T")
# Each round looks once at all that is under way, without waiting; it yields whether anything was new.
Rounds = Generator[bool, None, T]

# Seconds until the next round, where one had nothing new: looking takes that share of the time, of a core and
# of a shared file system, within these limits.
SHARE = 0.02
SOONEST_S, POLL_S = 0.02, 0.2


def carry_out(rounds: Rounds[T]) -> T:
    """Do the rounds to their end and return their value; where this is interrupted, they are closed.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the round in hand was done. The second one raises at once.
    """
    with closing(rounds), interruptible_between_rounds() as interrupted:
        while not interrupted():
            began = time.monotonic()
            try:
                changed = next(rounds)
            except StopIteration as end:
                if interrupted():  # whoever has more to do than these rounds shall know
                    break
                value: T = end.value
                return value
            if not changed:
                time.sleep(min(max((time.monotonic() - began) / SHARE, SOONEST_S), POLL_S))
        raise KeyboardInterrupt


def side_by_side(works: Mapping[str, Rounds[T]], at_once: int) -> Rounds[dict[str, T]]:
    """Carry on several works together; return their values, by their names.

    They begin in their order, `at_once` of them, and the next one in the round in which one ends.

    Raises:
        UserError: that of the first work that failed, once those beside it and behind it have come to their
            ends.
    """
    waiting, begun = list(works), list[str]()
    values, failures = dict[str, T](), list[UserError]()
    with ExitStack() as stack:
        for work in works.values():
            stack.enter_context(closing(work))
        while waiting or begun:
            changed, due = False, list(begun)
            while due or (waiting and len(begun) < at_once):
                if not due:
                    begun.append(waiting[0])
                    due.append(waiting.pop(0))
                name = due.pop(0)
                try:
                    changed |= next(works[name])
                    continue
                except StopIteration as end:
                    values[name] = end.value
                except UserError as error:
                    failures.append(error)
                    log.warning("%s: %s; what is beside it goes on", name, visible_line(str(error)))
                begun.remove(name)
                changed = True
            if begun:
                yield changed
    if failures:
        raise failures[0]
    return values
