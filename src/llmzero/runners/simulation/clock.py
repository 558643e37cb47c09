"""A discrete-event clock: stages side by side go on in the order of simulated time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Entry:
    """A stage under way: its number in order of start, when it acts next, and whether anyone polls it."""

    number: int
    moment: float
    watched: bool = True
    seen: bool = False


class Clock:
    """Gives each round of polling one turn: to the entry whose next moment is the earliest.

    A round is over when an entry is polled that was added no later than the one polled before it. So a driver
    that polls all of its stages gets news of exactly one, and can act on it before the next one continues. An
    entry that was not polled in a whole round does not delay the others.
    """

    def __init__(self) -> None:
        self.now = 0.0  # simulated seconds
        self._entries: dict[Any, Entry] = {}
        self._next: Any = None  # whose turn it is; None: to be computed
        self._added = 0
        self._last = -1  # number of the entry polled last
        self._taken = False  # whether this round's turn was taken

    def add(self, event: Any, moment: float, *, held: bool = False) -> None:
        """Add an entry that acts next at that moment; with `held` nobody has a turn in the round to come.

        That is for a driver that takes stages up: it has to act on their last news before time goes on.
        """
        self._entries[event] = Entry(self._added, moment, seen=True)  # as if polled: it begins in this round
        self._added += 1
        self._next, self._taken = None, held

    def move(self, event: Any, moment: float) -> None:
        """Change the moment at which an entry acts next."""
        self._entries[event].moment = moment
        self._next = None

    def remove(self, event: Any) -> None:
        """Remove an entry that has ended."""
        del self._entries[event]
        self._next = None

    def turn(self, event: Any) -> bool:
        """Return whether the polled entry may act now; time then advances to its moment."""
        entry = self._entries[event]
        if entry.number <= self._last:
            self._begin_round()
        self._last, entry.seen = entry.number, True
        if not entry.watched:
            entry.watched, self._next = True, None
        if self._taken:
            return False
        if self._next is None:
            watched = {event: entry for event, entry in self._entries.items() if entry.watched}
            self._next = min(watched, key=lambda event: watched[event].moment)
        if event is not self._next:
            return False
        self._taken = True
        self.now = max(self.now, entry.moment)
        return True

    def _begin_round(self) -> None:
        if not self._taken:  # the entry whose turn it was has not been polled
            for entry in self._entries.values():
                entry.watched = entry.seen
            self._next = None
        for entry in self._entries.values():
            entry.seen = False
        self._taken = False
