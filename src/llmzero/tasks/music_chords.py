"""Questions about chords."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmzero.tasks.music_answers import CHORDS, chord_notes
from llmzero.tasks.music_notation import KEYS, ROOTS, STEPS, in_abc, sheet, spoken, transposed
from llmzero.tasks.music_problems import Problem

CHORD_NAMES = {kind: f" {names[-1]}" for kind, names in CHORDS.items()}


def _voicing(notes: Sequence[str], rng: random.Random) -> list[str]:
    """Return a chord's notes with octaves, from the lowest up, in any inversion."""
    turn = rng.randrange(len(notes))
    voiced, octave, last = [], 4, -1
    for name in (*notes[turn:], *notes[:turn]):
        octave += STEPS.index(name[0]) < last
        last = STEPS.index(name[0])
        voiced.append(f"{name}{octave}")
    return voiced


def _chord(rng: random.Random) -> tuple[str, str, tuple[str, ...]]:
    """Return a root, a kind of chord, and its notes, without double accidentals."""
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


MAKERS = (_chord_name, _chord_quality, _chord_root, _missing_note)
