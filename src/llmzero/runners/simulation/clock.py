"""A discrete-event clock: stages side by side go on in the order of simulated time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Entry:
    """Something under way: its number in the order of coming, the simulated second of what it does next, and whether anyone looks at it."""

    number: int
    moment: float
    watched: bool = True
    seen: bool = False


class Clock:
    """Gives one turn to each round of looking at what is under way, to that whose next moment is the earliest.

    A round is over when something is looked at that came no later than what was looked at before it. So a driver that looks at all of its
    stages finds exactly one with news, and can act on it before the next goes on. What nobody looked at in a whole round holds nobody up.
    """

    def __init__(self) -> None:
        self.now = 0.0  # simulated seconds
        self._entries: dict[Any, Entry] = {}
        self._next: Any = None  # whose turn it is; None: it has to be found out
        self._came = 0
        self._last = -1  # number of what was looked at last
        self._taken = False  # whether this round's turn was

    def add(self, event: Any, moment: float) -> None:
        """Put something under way, which does something next at that moment."""
        self._entries[event] = Entry(self._came, moment)
        self._came += 1
        self._next, self._taken = None, False

    def move(self, event: Any, moment: float) -> None:
        """Say when something does something next."""
        self._entries[event].moment = moment
        self._next = None

    def remove(self, event: Any) -> None:
        """Take out what has ended."""
        del self._entries[event]
        self._next = None

    def turn(self, event: Any) -> bool:
        """Whether what is looked at may do what it does next; time then goes on to that moment."""
        entry = self._entries[event]
        if entry.number <= self._last:
            self._begin_round()
        self._last, entry.seen = entry.number, True
        if not entry.watched:
            entry.watched, self._next = True, None
        if self._taken or event is not self._whose_turn():
            return False
        self._taken = True
        self.now = max(self.now, entry.moment)
        return True

    def _whose_turn(self) -> Any:
        if self._next is None:
            watched = {event: entry for event, entry in self._entries.items() if entry.watched}
            self._next = min(watched, key=lambda event: watched[event].moment)
        return self._next

    def _begin_round(self) -> None:
        if not self._taken:  # whose turn it is has not been looked at
            for entry in self._entries.values():
                entry.watched = entry.seen
            self._next = None
        for entry in self._entries.values():
            entry.seen = False
        self._taken = False
