"""Questions about scales."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmzero.tasks.music_answers import SCALES, scale_notes
from llmzero.tasks.music_notation import KEYS, ROOTS, STEPS, in_abc, sheet, spoken, transposed
from llmzero.tasks.music_problems import LETTER_FORM, Problem

SCALE_NAMES = {kind: f" {names[-1]}" for kind, names in SCALES.items()}


def _scale(rng: random.Random) -> tuple[str, str, list[str]]:
    """Return a tonic, a kind of scale, its notes up to the next tonic with octaves; no double accidentals."""
    while True:
        tonic, kind = rng.choice(ROOTS), rng.choice(tuple(SCALES))
        notes = scale_notes(tonic, kind)
        if all(len(name) < 3 for name in notes):
            octaves = [4 + (STEPS.index(tonic[0]) + degree) // 7 for degree in range(8)]
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
    question = (
        "With the key signature of C, which of these is the ascending "
        f"{spoken(tonic)}{SCALE_NAMES[kind]} scale?"
    )
    return Problem("scale", question, "", "letter", LETTER_FORM, runs.pop(), wrong)


def _changed(notes: Sequence[str], rng: random.Random) -> tuple[list[str], int]:
    """Return a scale with one wrong note, which is none of its ends, and the index of that note."""
    index = rng.randint(1, 6)
    sign = notes[index][1:-1]
    name = transposed(notes[index], {"#": "-A1", "-": "A1"}.get(sign) or rng.choice(("A1", "-A1")))
    return [*notes[:index], name, *notes[index + 1 :]], index


def _wrong_note(rng: random.Random) -> Problem:
    tonic, kind, notes = _scale(rng)
    key, (changed, index) = rng.choice(KEYS), _changed(notes, rng)
    question = (
        f"One note of this {spoken(tonic)}{SCALE_NAMES[kind]} scale is wrong. "
        "Which note should stand in its place?"
    )
    wrong = [spoken(name[:-1]) for name in (changed[index], *notes)]
    return Problem(
        "scale",
        question,
        sheet(_run(changed, key), key),
        "note",
        "a note's name such as F#",
        spoken(notes[index][:-1]),
        wrong,
    )


MAKERS = (_scale_name, _scale_choice, _wrong_note)
