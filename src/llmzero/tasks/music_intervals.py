"""Questions about intervals."""

from __future__ import annotations

import random

from llmzero.tasks.music_answers import DEGREES, QUALITIES
from llmzero.tasks.music_notation import KEYS, ROOTS, in_abc, sheet, spoken, transposed
from llmzero.tasks.music_problems import Problem

INTERVALS = ("m2", "M2", "m3", "M3", "P4", "A4", "d5", "P5", "m6", "M6", "m7", "M7", "P8")
INTERVAL_NAMES = {name: f"{QUALITIES[name[0]][-1]} {DEGREES[int(name[1]) - 1]}" for name in INTERVALS}


def _pair(rng: random.Random) -> tuple[str, str, str, bool]:
    """Return a note, an interval, the note that far above or below, and whether above; none has two signs."""
    while True:
        first, interval, up = (
            f"{rng.choice(ROOTS)}{rng.choice('45')}",
            rng.choice(INTERVALS),
            rng.random() < 0.5,
        )
        second = transposed(first, interval if up else f"-{interval}")
        if len(second) < 4:
            return first, interval, second, up


def _interval_name(rng: random.Random) -> Problem:
    first, interval, second, _ = _pair(rng)
    key, together = rng.choice(KEYS), rng.random() < 0.3
    written = "".join(in_abc((first, second), key)) if together else " ".join(in_abc((first, second), key))
    question = "Which interval do these two notes form?"
    form = "quality and number, such as major seventh or M7"
    music = sheet(f"[{written}]2 |]" if together else f"{written} |]", key)
    return Problem(
        "interval",
        question,
        music,
        "interval",
        form,
        INTERVAL_NAMES[interval],
        tuple(INTERVAL_NAMES.values()),
    )


def _other_note(rng: random.Random) -> Problem:
    first, interval, second, up = _pair(rng)
    others = [transposed(second, by) for by in ("m2", "-m2", "A1", "-A1", "P8", "-P8", "M2")]
    note, answer, *wrong = (in_abc([name], "C")[0] for name in (first, second, *others))
    article = "an" if INTERVAL_NAMES[interval][0] in "aeiou" else "a"
    question = f"Which note is {article} {INTERVAL_NAMES[interval]} {'above' if up else 'below'} this one?"
    form = "the note in ABC notation with its octave, such as ^F or b'"
    return Problem("interval", question, sheet(f"{note} |]"), "abc", form, answer, wrong)


def _sounding(rng: random.Random) -> Problem:
    from music21.pitch import Pitch

    first, key = f"{rng.choice(ROOTS)}{rng.choice('45')}", rng.choice(KEYS)
    semitones = rng.randint(1, 11)
    names = [
        spoken(Pitch(first).transpose(shift).name)
        for shift in (semitones, semitones + 1, semitones - 1, semitones + 2, -semitones)
    ]
    question = (
        f"Which note is {semitones} semitone{'s' * (semitones > 1)} above this one? "
        "Any name of the note that sounds so is right."
    )
    return Problem(
        "interval",
        question,
        sheet(f"{in_abc([first], key)[0]} |]", key),
        "sound",
        "a note's name such as F#, without its octave",
        names[0],
        names[1:],
    )


MAKERS = (_interval_name, _other_note, _sounding)
