"""Questions about sheet music in ABC notation, made from music theory by music21: rhythm, chords, intervals and scales."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import accumulate

from llmzero.tasks.music_answers import CHORDS, DEGREES, QUALITIES, SCALES, chord_notes, read, scale_notes

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
METERS = ("2/4", "3/4", "4/4", "5/4", "6/8", "9/8", "12/8", "7/8", "3/8", "2/2")
UNITS = (Fraction(1, 4), Fraction(1, 8), Fraction(1, 16))
LENGTHS = (Fraction(1, 16), *(Fraction(n, 8) for n in (1, 2, 3, 4, 6)))  # of a note, as parts of a whole note
ROOTS = tuple(
    step + sign for step in STEPS for sign in ("", "#", "-") if step + sign not in ("E#", "B#", "F-", "C-")
)
INTERVALS = ("m2", "M2", "m3", "M3", "P4", "A4", "d5", "P5", "m6", "M6", "m7", "M7", "P8")
INTERVAL_NAMES = {name: f"{QUALITIES[name[0]][-1]} {DEGREES[int(name[1]) - 1]}" for name in INTERVALS}
ACCIDENTALS = {"--": "__", "-": "_", "": "=", "#": "^", "##": "^^"}
CHORD_NAMES = {kind: f" {names[-1]}" for kind, names in CHORDS.items()}
SCALE_NAMES = {kind: f" {names[-1]}" for kind, names in SCALES.items()}
LETTER_FORM = "the letter of the right option"


@dataclass(frozen=True)
class Problem:
    """A question, what it is about, and its answer.

    Attributes:
        kind: how the answer is read, a key of `music_answers.READERS`.
        form: what the answer is to look like, in words.
        wrong: answers that are not right, to choose from; with them it is a question of multiple choice, which has four options.
    """

    subtask: str
    question: str
    abc: str
    kind: str
    form: str
    answer: str
    wrong: Sequence[str] = field(default_factory=tuple)


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
    """Return notes of one bar, such as F#4, in ABC notation; an accidental is written where a reader could not know it from key and bar."""
    known, marked, found = signature(key), set[str](), []
    for name in names:
        step, sign, octave = name[0], name[1:-1], int(name[-1])
        if sign != known[step] or step in marked:
            marked.add(step)
        letter = step if octave < 5 else step.lower()
        found.append(
            (ACCIDENTALS[sign] if step in marked else "") + letter + "," * (4 - octave) + "'" * (octave - 5)
        )
    return found


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
    """Return a note's name as people write it: Bb for B-."""
    return name.replace("-", "b")


# --- rhythm ---


def _rhythm(total: Fraction, rng: random.Random) -> list[Fraction]:
    """Return lengths of notes that add up to a total."""
    found: list[Fraction] = []
    while total:
        found.append(rng.choice([value for value in LENGTHS if value <= total]))
        total -= found[-1]
    return found


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
    question = "Every bar of this music is complete. Which time signature fits? Any signature whose bars are as long is right."
    form = "a time signature such as 7/4"
    return Problem(
        "rhythm", question, sheet(" | ".join(bars) + " |]", key, None, unit), "meter", form, meter, METERS
    )


def _bar_lines(rng: random.Random) -> Problem:
    meter, key, unit = rng.choice(METERS), rng.choice(KEYS), rng.choice(UNITS)
    bars = [_rhythm(bar_length(meter), rng) for _ in range(rng.randint(3, 4))]
    music = _bar([value for bar in bars for value in bar], key, unit, rng)
    places = list(accumulate(len(bar) for bar in bars))
    question = (
        "The bar lines of this music are left out; all its bars are complete. After which notes do bar lines stand inside it? "
        "Count notes from 1, and leave out the end."
    )
    wrong = (
        [_listed(sorted(rng.sample(range(1, places[-1]), len(bars) - 1))) for _ in range(8)]
        if places[-1] > 5
        else ()
    )
    form = "the notes' numbers, such as 3, 5, 8"
    return Problem(
        "rhythm", question, sheet(music, key, meter, unit), "places", form, _listed(places[:-1]), wrong
    )


def _listed(places: Sequence[int]) -> str:
    return ", ".join(map(str, places))


def _odd_bar(rng: random.Random) -> Problem | None:
    meter, key, unit = rng.choice(METERS), rng.choice(KEYS), rng.choice(UNITS)
    full, place = bar_length(meter), rng.randint(1, 4)
    complete = rng.random() < 0.5
    others = [full + rng.choice((-1, 1)) * rng.choice((1, 2)) * Fraction(1, 8) for _ in range(4)]
    totals = [full if (number == place) == complete else other for number, other in enumerate(others, 1)]
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
        str(place),
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


# --- chords ---


def _voicing(notes: Sequence[str], rng: random.Random) -> list[str]:
    """Return a chord's notes with octaves, from the lowest up, in any inversion."""
    turn = rng.randrange(len(notes))
    found, octave, last = [], 4, -1
    for name in (*notes[turn:], *notes[:turn]):
        octave += STEPS.index(name[0]) < last
        last = STEPS.index(name[0])
        found.append(f"{name}{octave}")
    return found


def _chord(rng: random.Random) -> tuple[str, str, tuple[str, ...]]:
    """Return a root, a kind of chord, and its notes, of which none needs a double accidental."""
    while True:
        root, kind = rng.choice(ROOTS), rng.choice(tuple(CHORDS))
        if all(len(name) < 3 for name in chord_notes(root, kind)):
            return root, kind, chord_notes(root, kind)


def _notated(notes: Sequence[str], key: str) -> str:
    return sheet(f"[{''.join(in_abc(notes, key))}]4 |]", key)


def _chord_name(rng: random.Random) -> Problem:
    root, kind, notes = _chord(rng)
    others = [rng.choice((root, rng.choice(notes))) for _ in range(12)]
    wrong = [spoken(other) + CHORD_NAMES[rng.choice(tuple(CHORDS))] for other in others]
    question = "Which chord is this? Its lowest note need not be its root."
    form = "root and kind, such as F# minor seventh or F#m7"
    return Problem(
        "chord",
        question,
        _notated(_voicing(notes, rng), rng.choice(KEYS)),
        "chord",
        form,
        spoken(root) + CHORD_NAMES[kind],
        wrong,
    )


def _chord_quality(rng: random.Random) -> Problem:
    _, kind, notes = _chord(rng)
    question = "Of which kind is this chord? Its lowest note need not be its root."
    wrong = [name.strip() for name in CHORD_NAMES.values()]
    form = "the kind without the root, such as minor seventh"
    return Problem(
        "chord",
        question,
        _notated(_voicing(notes, rng), rng.choice(KEYS)),
        "quality",
        form,
        CHORD_NAMES[kind].strip(),
        wrong,
    )


def _chord_root(rng: random.Random) -> Problem | None:
    root, kind, notes = _chord(rng)
    if kind in ("augmented", "diminished-seventh"):
        return None
    question = "What is the root of this chord? Its lowest note need not be its root."
    wrong = [spoken(name) for name in (*notes[1:], *(f"{root[0]}{sign}" for sign in ("", "#", "-")))]
    return Problem(
        "chord",
        question,
        _notated(_voicing(notes, rng), rng.choice(KEYS)),
        "note",
        "a note's name such as F#",
        spoken(root),
        wrong,
    )


def _missing_note(rng: random.Random) -> Problem:
    root, kind, notes = _chord(rng)
    voiced, missing = _voicing(notes, rng), rng.choice(notes)
    music = _notated([name for name in voiced if name[:-1] != missing], rng.choice(KEYS))
    question = f"Which note must be added to make this chord {spoken(root)}{CHORD_NAMES[kind]}?"
    wrong = [spoken(f"{transposed(missing, by)}") for by in ("m2", "M2", "-m2", "-M2", "A1", "-A1", "m3")]
    return Problem("chord", question, music, "note", "a note's name such as F#", spoken(missing), wrong)


# --- intervals ---


def _pair(rng: random.Random) -> tuple[str, str, str, bool]:
    """Return a note, an interval, the note so far above or below it, and whether it is above; neither needs a double accidental."""
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
    question = f"Which note is {_article(INTERVAL_NAMES[interval])} {'above' if up else 'below'} this one?"
    form = "the note in ABC notation with its octave, such as ^F or b'"
    return Problem("interval", question, sheet(f"{note} |]"), "abc", form, answer, wrong)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _sounding(rng: random.Random) -> Problem:
    first, key = f"{rng.choice(ROOTS)}{rng.choice('45')}", rng.choice(KEYS)
    semitones = rng.randint(1, 11)
    from music21.pitch import Pitch

    names = [
        spoken(Pitch(first).transpose(shift).name)
        for shift in (semitones, semitones + 1, semitones - 1, semitones + 2, -semitones)
    ]
    question = f"Which note is {semitones} semitone{'s' * (semitones > 1)} above this one? Any name of the note that sounds so is right."
    return Problem(
        "interval",
        question,
        sheet(f"{in_abc([first], key)[0]} |]", key),
        "sound",
        "a note's name such as F#, without its octave",
        names[0],
        names[1:],
    )


# --- scales ---


def _scale(rng: random.Random) -> tuple[str, str, list[str]]:
    """Return a tonic, a kind of scale, and its notes from one tonic to the next with their octaves; none needs a double accidental."""
    while True:
        tonic, kind = rng.choice(ROOTS), rng.choice(tuple(SCALES))
        notes = scale_notes(tonic, kind)
        if all(len(name) < 3 for name in notes):
            octaves = [4 + (STEPS.index(tonic[0]) + place) // 7 for place in range(8)]
            return (
                tonic,
                kind,
                [f"{name}{octave}" for name, octave in zip((*notes, tonic), octaves, strict=True)],
            )


def _run(notes: Sequence[str], key: str) -> str:
    return " ".join(in_abc(notes, key)) + " |]"


def _scale_name(rng: random.Random) -> Problem:
    tonic, kind, notes = _scale(rng)
    key, falling = rng.choice(KEYS), rng.random() < 0.5
    wrong = [spoken(tonic) + SCALE_NAMES[other] for other in SCALES]
    question = "Which scale is this? It begins with its tonic."
    form = "tonic and kind, such as F# natural minor, E harmonic minor or D dorian"
    return Problem(
        "scale",
        question,
        sheet(_run(notes[::-1] if falling else notes, key), key),
        "scale",
        form,
        spoken(tonic) + SCALE_NAMES[kind],
        wrong,
    )


def _scale_choice(rng: random.Random) -> Problem:
    tonic, kind, notes = _scale(rng)
    runs = {_run(notes, "C")}
    wrong = [_run(_changed(notes, rng)[0], "C") for _ in range(8)]
    question = f"With the key signature of C, which of these is the ascending {spoken(tonic)}{SCALE_NAMES[kind]} scale?"
    return Problem("scale", question, "", "letter", LETTER_FORM, runs.pop(), wrong)


def _changed(notes: Sequence[str], rng: random.Random) -> tuple[list[str], int]:
    """Return a scale with one wrong note, which is none of its ends, and its place."""
    place = rng.randint(1, 6)
    sign = notes[place][1:-1]
    name = transposed(notes[place], {"#": "-A1", "-": "A1"}.get(sign) or rng.choice(("A1", "-A1")))
    return [*notes[:place], name, *notes[place + 1 :]], place


def _wrong_note(rng: random.Random) -> Problem:
    tonic, kind, notes = _scale(rng)
    key, (changed, place) = rng.choice(KEYS), _changed(notes, rng)
    question = f"One note of this {spoken(tonic)}{SCALE_NAMES[kind]} scale is wrong. Which note should stand in its place?"
    wrong = [spoken(name[:-1]) for name in (changed[place], *notes)]
    return Problem(
        "scale",
        question,
        sheet(_run(changed, key), key),
        "note",
        "a note's name such as F#",
        spoken(notes[place][:-1]),
        wrong,
    )


MAKERS: dict[str, tuple[Callable[[random.Random], Problem | None], ...]] = {
    "rhythm": (_time_signature, _bar_lines, _odd_bar, _missing_length),
    "chord": (_chord_name, _chord_quality, _chord_root, _missing_note),
    "interval": (_interval_name, _other_note, _sounding),
    "scale": (_scale_name, _scale_choice, _wrong_note),
}


def problem(rng: random.Random) -> Problem | None:
    """Return a problem of any subtask, or None where the draw came to nothing."""
    return rng.choice(MAKERS[rng.choice(tuple(MAKERS))])(rng)


def options(found: Problem, rng: random.Random) -> list[str] | None:
    """Return the right answer and three that are not, in any order; None where there are not three."""
    said = [
        (text if found.kind == "letter" else read(found.kind, text), text)
        for text in [*found.wrong, found.answer]
    ]
    distinct = {meaning: text for meaning, text in said if meaning is not None}
    del distinct[said[-1][0]]
    if len(distinct) < 3:
        return None
    chosen = [found.answer, *rng.sample(list(distinct.values()), 3)]
    rng.shuffle(chosen)
    return chosen
