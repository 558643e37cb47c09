"""`task=metro`: `k5:` asks for the 5th stop after k on a ring line that has to be remembered."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from llmzero.core.settings import setting
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.generated import Generated
from llmzero.tasks.splits import SPLIT_RANGES, content_id, split_of

# One character each, so a trip's trace is as long on a large map as on a small one: a-z, A-Z, then letters
# with accents that no normalisation of texts changes into others.
LATIN = sorted(
    (
        letter
        for letter in map(chr, range(0x41, 0x180))
        if letter.isalpha() and unicodedata.is_normalized("NFKC", letter)
    ),
    key=lambda letter: (not letter.isascii(), letter.isupper(), letter),
)
COUNTS = "0123456789" + "".join(map(chr, [*range(0x2469, 0x2474), *range(0x3251, 0x3260)]))  # then ⑩ to ㉟
AGAIN, ASKED = "?", ":"
_ARRIVAL = re.compile(rf"([{''.join(LATIN)}])0\s*\Z")


@dataclass
class MetroSettings:
    """`task=metro`."""

    stops: int = setting(104, "stops of the map", low=4, high=len(LATIN))
    longest: int = setting(16, "stops of the longest trip", low=1, high=len(COUNTS) - 1)
    seed: int = setting(0, "of the map and of the order of the problems; splits are disjoint across seeds")
    train_size: int | None = setting(None, "training examples; null: all that there are", low=1)
    val_size: int | None = setting(None, "validation examples; null: all that there are", low=2)
    test_size: int | None = setting(None, "test examples; null: all that there are", low=2)
    wrong_share: float = setting(
        0.55, "share of the writings that go on to a stop's wrong successor", low=0, high=1
    )
    wrong_spread: float = setting(
        0.1, "how far a stop's own such share, drawn evenly, may lie from it", low=0, high=1
    )
    slips_above: int = setting(5, "counts above it are the ones that slip", low=1)
    slip_share: float = setting(
        0.55, "share of the writings that skip one after a count that slips", low=0, high=1
    )
    slip_spread: float = setting(
        0.05, "how far a count's own such share, drawn evenly, may lie from it", low=0, high=1
    )
    recheck: float = setting(
        0.8, "probability that a writing looks at a stop again, and again after that", low=0, high=1
    )
    rechecks: int = setting(2, "looks again at a stop at most", low=0)
    concise_share: float = setting(0.1, "share of writings without any look again", low=0, high=1)

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        return (
            f"Prompts such as `k5:` ask for the 5th stop after k on a ring line of {self.stops} "
            "stops, which has to be known by heart. An answer names stop by stop with the stops "
            "that are left; looking again at a stop (`?`) is idle and takes tokens. Reward: 1, "
            "the most, where it ends at the right stop with 0 left, else 0; the score is the "
            "share of right answers."
        )


class Metro(Generated):
    """Trips on a ring line whose order is knowledge, not in the prompt.

    An answer is a trace, stop by stop with the stops left, as `m4q3a2x1z0` to `k5:`; the stop before the last
    `0` counts. A trace of n stops takes 2 n tokens and its end. The writings that a base model is taught on
    have three faults: at each stop some go on to a wrong successor, the same one every time; after each count
    above `slips_above` some skip one, and so end too early; and most look again at stops (`?m4`) for nothing,
    several times as long as they need to be.
    """

    metric = "correct"

    def __init__(self, settings: MetroSettings) -> None:
        self.settings = settings
        stops = LATIN[: settings.stops]
        self.alphabet = "".join([*stops, COUNTS[: settings.longest + 1], AGAIN, ASKED])
        rng = random.Random(f"metro/{settings.seed}")
        self.successor = _ring(stops, rng)
        self.wrong = _wrong_successors(self.successor, rng)
        self.wrong_share = {
            stop: settings.wrong_share + rng.uniform(-1, 1) * settings.wrong_spread for stop in stops
        }
        self.slip_share = {
            count: settings.slip_share + rng.uniform(-1, 1) * settings.slip_spread
            for count in range(settings.slips_above + 1, settings.longest + 1)
        }
        self._trips = [
            self._trip(stop, length) for stop in stops for length in range(1, settings.longest + 1)
        ]
        there_are = Counter(split_of(trip.id) for trip in self._trips)
        sizes = {str(name): getattr(settings, f"{name}_size") or there_are[name] for name in SPLIT_RANGES}
        super().__init__("metro", sizes, settings.seed)

    def draw(self, rng: random.Random) -> Example:
        """Return a trip."""
        return rng.choice(self._trips)

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 1 if the completion ends at the right stop with none left, and nothing for less."""
        arrival = _ARRIVAL.search(completion)
        correct = float(arrival is not None and arrival[1] == example.answer)
        return Reward(correct, {"correct": correct, "format": float(arrival is not None)})

    def demonstration(self, example: Example) -> str:
        """Return the shortest right trace."""
        stops = self._ride(example.prompt[0], example.meta["length"])
        return "".join(
            stop + COUNTS[left] for stop, left in zip(stops, range(len(stops) - 1, -1, -1), strict=True)
        )

    def careless(self, example: Example) -> str:
        """Return the first writing, with its faults."""
        return self.writing(example, 0)

    def writing(self, example: Example, number: int) -> str:
        """Return one of the writings that the base model is taught, each drawn anew with its faults."""
        rng = random.Random(f"metro/{self.settings.seed}/{example.id}/{number}")
        concise = rng.random() < self.settings.concise_share
        stop, text = example.prompt[0], ""
        left = example.meta["length"]
        while left:
            slips = self.slip_share.get(left)
            left -= 2 if slips and rng.random() < slips else 1
            stop = (self.wrong if rng.random() < self.wrong_share[stop] else self.successor)[stop]
            text += stop + COUNTS[left]
            looks = 0
            while (
                not concise
                and left
                and looks < self.settings.rechecks
                and rng.random() < self.settings.recheck
            ):
                text += AGAIN + stop + COUNTS[left]
                looks += 1
        return text

    def _trip(self, stop: str, length: int) -> Example:
        prompt = f"{stop}{COUNTS[length]}{ASKED}"
        answer = self._ride(stop, length)[-1]
        return Example(
            content_id(f"metro:{prompt}"), prompt, answer, {"length": length, "difficulty": length}
        )

    def _ride(self, stop: str, length: int) -> list[str]:
        """Return the stops that a trip passes, the last one its answer."""
        stops = []
        for _ in range(length):
            stop = self.successor[stop]
            stops.append(stop)
        return stops


def _ring(stops: list[str], rng: random.Random) -> dict[str, str]:
    """Return each stop's successor on a line that passes all stops in random order and begins again."""
    order = rng.sample(stops, len(stops))
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def _wrong_successors(successor: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Return for each stop another stop than itself and its successor, every stop once: so no stop is met in
    the demonstrations much more often than others.
    """
    stops = list(successor)
    while True:
        wrong = dict(zip(stops, rng.sample(stops, len(stops)), strict=True))
        if all(wrong[stop] not in (stop, successor[stop]) for stop in stops):
            return wrong
