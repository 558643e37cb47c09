"""Questions about meters, bar lines and note lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from llmzero.tasks.music_notation import KEYS, STEPS, bar_length, in_abc, length, sheet, signature
from llmzero.tasks.music_problems import Problem

METERS = ("2/4", "3/4", "4/4", "5/4", "6/8", "9/8", "12/8", "7/8", "3/8", "2/2")
UNITS = (Fraction(1, 4), Fraction(1, 8), Fraction(1, 16))
LENGTHS = (Fraction(1, 16), *(Fraction(n, 8) for n in (1, 2, 3, 4, 6)))  # of a note, as parts of a whole note


def _rhythm(total: Fraction, rng: random.Random) -> list[Fraction]:
    """Return lengths of notes that add up to a total."""
    lengths: list[Fraction] = []
    while total:
        lengths.append(rng.choice([value for value in LENGTHS if value <= total]))
        total -= lengths[-1]
    return lengths


def _bar(lengths: Sequence[Fraction], key: str, unit: Fraction, rng: random.Random) -> str:
    """Return a bar of notes of a key, a step or two from one to the next."""
    steps = accumulate((rng.randint(-2, 2) for _ in lengths), initial=rng.randint(2, 9))
    names = [f"{STEPS[step % 7]}{signature(key)[STEPS[step % 7]]}{4 + step // 7}" for step in steps]
    return " ".join(
        note + length(value, unit) for note, value in zip(in_abc(names[1:], key), lengths, strict=True)
    )


def _time_signature(rng: random.Random) -> Problem:
    meter, key, unit = rng.choice(METERS), rng.choice(KEYS), rng.choice(UNITS)
    bars = [_bar(_rhythm(bar_length(meter), rng), key, unit, rng) for _ in range(rng.randint(1, 3))]
    question = (
        "Every bar of this music is complete. Which time signature fits? "
        "Any signature whose bars are as long is right."
    )
    form = "a time signature such as 7/4"
    return Problem(
        "rhythm", question, sheet(" | ".join(bars) + " |]", key, None, unit), "meter", form, meter, METERS
    )


def _bar_lines(rng: random.Random) -> Problem:
    meter, key, unit = rng.choice(METERS), rng.choice(KEYS), rng.choice(UNITS)
    bars = [_rhythm(bar_length(meter), rng) for _ in range(rng.randint(3, 4))]
    music = _bar([value for bar in bars for value in bar], key, unit, rng)
    ends = list(accumulate(len(bar) for bar in bars))
    question = (
        "The bar lines of this music are left out; all its bars are complete. "
        "After which notes do bar lines stand inside it? Count notes from 1, and leave out the end."
    )
    wrong = (
        [_listed(sorted(rng.sample(range(1, ends[-1]), len(bars) - 1))) for _ in range(8)]
        if ends[-1] > 5
        else ()
    )
    form = "the notes' numbers, such as 3, 5, 8"
    return Problem(
        "rhythm", question, sheet(music, key, meter, unit), "places", form, _listed(ends[:-1]), wrong
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _odd_bar(rng: random.Random) -> Problem | None:
    meter, key, unit = rng.choice(METERS), rng.choice(KEYS), rng.choice(UNITS)
    full, position = bar_length(meter), rng.randint(1, 4)
    complete = rng.random() < 0.5
    others = [full + rng.choice((-1, 1)) * rng.choice((1, 2)) * Fraction(1, 8) for _ in range(4)]
    totals = [full if (number == position) == complete else other for number, other in enumerate(others, 1)]
    if min(totals) <= 0:
        return None
    bars = " | ".join(_bar(_rhythm(total, rng), key, unit, rng) for total in totals)
    odd = "is complete and the others are" if complete else "is not complete, that is"
    question = f"One bar of these four {odd} too short or too long. Which one?"
    return Problem(
        "rhythm",
        question,
        sheet(f"{bars} |]", key, meter, unit),
        "places",
        "the bar's number, 1 to 4",
        str(position),
    )


def _missing_length(rng: random.Random) -> Problem | None:
    meter, key, unit = rng.choice(METERS), rng.choice(KEYS), rng.choice(UNITS)
    value = rng.choice(LENGTHS)
    rest = bar_length(meter) - value
    if rest <= 0:
        return None
    music = _bar(_rhythm(rest, rng), key, unit, rng)
    question = "How long is the one note that must be added to complete this bar?"
    form = "a fraction of a whole note such as 5/8, or a note value such as dotted half"
    return Problem(
        "rhythm",
        question,
        sheet(music, key, meter, unit),
        "duration",
        form,
        str(value),
        [*map(str, LENGTHS), "1/32", "5/8"],
    )


MAKERS = (_time_signature, _bar_lines, _odd_bar, _missing_length)
