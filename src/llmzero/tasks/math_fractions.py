"""Equal fractions, in characters, for the nano model: `3/14:` asks for `6/28`, `9/42` or another multiple."""

from __future__ import annotations

import random
import re
from math import gcd

from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.generated import Generated
from llmzero.tasks.splits import content_id

MAX_DENOMINATOR = 300
FACTORS = (2, 3)
_FRACTION = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")


class Fractions(Generated):
    """Equal fractions, in characters; the factor has to be less than 10."""

    metric = "correct"
    alphabet = "0123456789/:"

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        super().__init__("math/nano", sizes, seed)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem; None where the fraction can be reduced."""
        below = rng.randint(11, MAX_DENOMINATOR)
        above = rng.randint(1, below - 1)
        if gcd(above, below) > 1:
            return None
        factor = rng.choice(FACTORS)
        return Example(
            content_id(f"fraction:{above}/{below}"),
            f"{above}/{below}:",
            f"{above * factor}/{below * factor}",
            {"above": above, "below": below, "factor": factor},
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for a denominator more than once and less than 10 times as large, 0.9 more if equal."""
        above, below = example.meta["above"], example.meta["below"]
        match = _FRACTION.fullmatch(completion.strip(" \n"))
        if not match or not below < int(match[2]) < 10 * below:
            return weighted(0.0, 0.0)
        return weighted(1.0, float(int(match[1]) * below == int(match[2]) * above))

    def demonstration(self, example: Example) -> str:
        """Return the multiple that the problem was drawn with."""
        return example.answer

    def careless(self, example: Example) -> str:
        """Return a thoughtless completion: the factor is added above and below, instead of multiplied."""
        above, below, factor = (example.meta[name] for name in ("above", "below", "factor"))
        return f"{above + factor}/{below + factor}"
