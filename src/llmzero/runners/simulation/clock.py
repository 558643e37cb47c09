"""A discrete-event clock: stages side by side make their next steps in the order of simulated time."""

from __future__ import annotations

from typing import Protocol


class Event(Protocol):
    """Something under way on the clock, with the moment of what it does next, in simulated seconds."""

    moment: float


class Clock:
    """Gives one turn to each round of looking at what is under way, to that whose next event is the earliest.

    A round is over when something is looked at that was added no later than what was looked at before. So a driver that looks at all of its
    stages finds exactly one with news, and can act on it before the next event. What nobody looked at in a whole round holds nobody up.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: dict[Event, int] = {}  # in the order of their addition
        self._added = 0
        self._last = -1  # number of what was looked at last
        self._seen: set[Event] = set()  # in this round
        self._unwatched: set[Event] = set()
        self._turned = False  # whether this round's turn was taken

    def add(self, event: Event) -> None:
        """Put something under way, now."""
        self._waiting[event] = self._added
        self._added += 1
        self._turned = False

    def remove(self, event: Event) -> None:
        """Take out what has ended."""
        del self._waiting[event]

    def turn(self, event: Event) -> bool:
        """Whether what is looked at may do what it does next; the clock then stands at that moment."""
        number = self._waiting[event]
        if number <= self._last:
            self._begin_round()
        self._last = number
        self._seen.add(event)
        self._unwatched.discard(event)
        watched = [other for other in self._waiting if other not in self._unwatched]
        if self._turned or event is not min(watched, key=lambda other: other.moment):
            return False
        self._turned = True
        self.now = max(self.now, event.moment)
        return True

    def _begin_round(self) -> None:
        if not self._turned:
            self._unwatched = self._waiting.keys() - self._seen
        self._seen.clear()
        self._turned = False
