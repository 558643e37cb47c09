"""Music in ABC notation: keys, notes, lengths and bars; names of notes are music21's."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

STEPS = "CDEFGAB"
KEYS = (
    "C",
    "G",
    "D",
    "A",
    "E",
    "F",
    "Bb",
    "Eb",
    "Ab",
    "Am",
    "Em",
    "Bm",
    "F#m",
    "C#m",
    "Dm",
    "Gm",
    "Cm",
    "Fm",
)
ROOTS = tuple(
    step + sign for step in STEPS for sign in ("", "#", "-") if step + sign not in ("E#", "B#", "F-", "C-")
)
ACCIDENTALS = {"--": "__", "-": "_", "": "=", "#": "^", "##": "^^"}


def sheet(body: str, key: str = "C", meter: str | None = None, unit: Fraction = Fraction(1, 4)) -> str:
    """Return a tune in ABC notation."""
    return "\n".join(["X:1", *([f"M:{meter}"] if meter else []), f"L:{unit}", f"K:{key}", body])


@cache
def signature(key: str) -> dict[str, str]:
    """Return the accidental that a key of ABC gives each step."""
    from music21.key import Key

    tonic = key.removesuffix("m").replace("b", "-")
    signs = {
        pitch.step: pitch.accidental.modifier
        for pitch in Key(tonic.lower() if key.endswith("m") else tonic).alteredPitches
    }
    return {step: signs.get(step, "") for step in STEPS}


def in_abc(names: Sequence[str], key: str) -> list[str]:
    """Return notes of one bar, such as F#4, in ABC notation; without accidentals that key or bar imply."""
    implied, marked, notes = signature(key), set[str](), []
    for name in names:
        step, sign, octave = name[0], name[1:-1], int(name[-1])
        if sign != implied[step] or step in marked:
            marked.add(step)
        accidental = ACCIDENTALS[sign] if step in marked else ""
        letter = step if octave < 5 else step.lower()
        notes.append(accidental + letter + "," * (4 - octave) + "'" * (octave - 5))
    return notes


def length(value: Fraction, unit: Fraction) -> str:
    """Return a note's length in ABC notation."""
    ratio = value / unit
    numerator = "" if ratio.numerator == 1 else str(ratio.numerator)
    return numerator if ratio.denominator == 1 else f"{numerator}/{ratio.denominator}"


@cache
def transposed(name: str, interval: str) -> str:
    """Return the note an interval above another; `-m3` is below."""
    from music21.pitch import Pitch

    return str(Pitch(name).transpose(interval).nameWithOctave)


@cache
def bar_length(meter: str) -> Fraction:
    """Return a bar's length as a part of a whole note."""
    from music21.meter import TimeSignature

    return Fraction(TimeSignature(meter).barDuration.quarterLength) / 4


def spoken(name: str) -> str:
    """Return the usual spelling of a note's name: Bb for B-."""
    return name.replace("-", "b")
