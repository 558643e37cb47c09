"""Sheet music in a few characters, for the nano model: short problems with several right answers each."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.generated import Generated
from llmzero.tasks.splits import content_id

LETTERS = "CDEFGAB"
NATURAL = (0, 2, 4, 5, 7, 9, 11)  # semitones of the letters above C
ACCIDENTALS = {"_": -1, "": 0, "^": 1}
NOTES = tuple(sign + letter for letter in LETTERS for sign in ACCIDENTALS)
PROMPT_NOTES = ("C", "^C", "D", "_E", "E", "F", "^F", "G", "^G", "_A", "A", "_B", "B")
INTERVALS = {
    "m2": (1, 1),
    "M2": (1, 2),
    "m3": (2, 3),
    "M3": (2, 4),
    "P4": (3, 5),
    "d5": (4, 6),
    "P5": (4, 7),
    "m6": (5, 8),
    "M6": (5, 9),
}
INTERVALS |= {"m7": (6, 10), "M7": (6, 11)}  # name -> (letters up, semitones up)
ASKED_INTERVALS = ("M2", "m3", "M3", "P4", "P5", "m6", "M6", "m7")
TRIADS = {
    "M": ("M3", "P5"),
    "m": ("m3", "P5"),
    "o": ("m3", "d5"),
}  # major, minor, diminished: intervals above the root
SCALES = {
    "M": ("M2", "M3", "P4", "P5", "M6", "M7"),
    "m": ("M2", "m3", "P4", "P5", "m6", "m7"),
    "h": ("M2", "m3", "P4", "P5", "m6", "M7"),
    "d": ("M2", "m3", "P4", "P5", "M6", "m7"),
}  # major, natural minor, harmonic minor, Dorian: intervals above the tonic
METERS = {"3/4": 6, "4/4": 8, "6/8": 6, "9/8": 9, "5/4": 10}  # eighth notes of a bar
_NOTE = re.compile("[_^]?[A-G]")
_LENGTH = re.compile(r"[A-G](\d?)", re.ASCII)

Meta = dict[str, Any]
Drawn = tuple[str, str, Meta]  # prompt, an answer, details for the reward


def above(note: str, interval: str) -> str | None:
    """Return the note an interval above another, in ABC without octaves; None if it needs two signs."""
    letters, semitones = INTERVALS[interval]
    start = LETTERS.index(note[-1])
    letter = (start + letters) % 7
    shift = NATURAL[start] + ACCIDENTALS[note[:-1]] + semitones - NATURAL[letter]
    return next(
        (sign + LETTERS[letter] for sign, own in ACCIDENTALS.items() if (shift - own) % 12 == 0), None
    )


def spelled(kinds: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, list[str]]]:
    """Return kind -> root -> notes, for every root that needs no double accidental."""
    made = {
        kind: {root: [root, *(above(root, step) for step in steps)] for root in NOTES}
        for kind, steps in kinds.items()
    }
    return {
        kind: {root: [note for note in notes if note] for root, notes in roots.items() if None not in notes}
        for kind, roots in made.items()
    }


CHORD_NOTES = spelled(TRIADS)
SCALE_NOTES = spelled(SCALES)


@dataclass(frozen=True)
class Subtask:
    """How problems are drawn, the form of an answer, whether it is right, and a thoughtless one."""

    draw: Callable[[random.Random], Drawn | None]
    form: re.Pattern[str]
    right: Callable[[Meta, str], bool]
    careless: Callable[[Meta], str]


def _draw_rhythm(rng: random.Random) -> Drawn | None:
    """`4/4|A2F+3:` asks for three notes that complete the bar; lengths are eighths."""
    meter, count = rng.choice(tuple(METERS)), rng.randint(2, 3)
    lengths = [rng.randint(1, 3) for _ in range(rng.randint(2, 3))]
    missing = METERS[meter] - sum(lengths)
    if missing <= count:
        return None
    cuts = sorted(rng.sample(range(1, missing), count - 1))
    completion = [end - start for start, end in zip([0, *cuts], [*cuts, missing], strict=True)]
    bar, answer = _bar(lengths, rng), _bar(completion, rng)
    return (
        f"{meter}|{bar}+{count}:",
        answer,
        {"missing": missing, "count": count, "last": _NOTE.findall(bar)[-1]},
    )


def _bar(lengths: list[int], rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) + ("" if length == 1 else str(length)) for length in lengths)


def _completes(meta: Meta, text: str) -> bool:
    lengths = [int(length or 1) for length in _LENGTH.findall(text)]
    return len(lengths) == int(meta["count"]) and sum(lengths) == int(meta["missing"])


def _draw_chord(rng: random.Random) -> Drawn | None:
    """`[m|CEG_B:` asks for a minor triad, root first, that has two or three of these notes."""
    kind, melody = rng.choice(tuple(TRIADS)), _melody(PROMPT_NOTES, 4, rng)
    meta = {"kind": kind, "given": melody}
    answers = [answer for notes in CHORD_NOTES[kind].values() if _harmonises(meta, answer := "".join(notes))]
    return (f"[{kind}|{''.join(melody)}:", rng.choice(answers), meta) if answers else None


def _melody(notes: tuple[str, ...] | list[str], count: int, rng: random.Random) -> list[str]:
    return sorted(rng.sample(notes, count), key=NOTES.index)


def _harmonises(meta: Meta, text: str) -> bool:
    notes = _NOTE.findall(text)
    return CHORD_NOTES[meta["kind"]].get(notes[0]) == notes and len(set(notes) & set(meta["given"])) >= 2


def _draw_interval(rng: random.Random) -> Drawn:
    """`m3|C^FAB:` asks for one of these notes and the note a minor third above it."""
    name, melody = rng.choice(ASKED_INTERVALS), _melody(PROMPT_NOTES, 3, rng)
    answers = [lower + upper for lower in melody if (upper := above(lower, name))]
    return f"{name}|{''.join(melody)}:", rng.choice(answers), {"interval": name, "given": melody}


def _spans(meta: Meta, text: str) -> bool:
    lower, upper = _NOTE.findall(text)
    return lower in meta["given"] and above(lower, meta["interval"]) == upper


def _draw_scale(rng: random.Random) -> Drawn | None:
    """`Kh|D_EFB:` asks for the tonic of a harmonic minor scale with all of these notes (three at most)."""
    kind = rng.choice(tuple(SCALES))
    melody = _melody(rng.choice(list(SCALE_NOTES[kind].values())), rng.randint(3, 5), rng)
    meta = {"kind": kind, "given": melody}
    answers = [tonic for tonic in SCALE_NOTES[kind] if _holds(meta, tonic)]
    return (f"K{kind}|{''.join(melody)}:", rng.choice(answers), meta) if len(answers) <= 3 else None


def _holds(meta: Meta, text: str) -> bool:
    return set(meta["given"]) <= set(SCALE_NOTES[meta["kind"]].get(text, ()))


SUBTASKS = {
    "rhythm": Subtask(
        _draw_rhythm,
        re.compile("(?:[A-G][2-9]?){1,8}"),
        _completes,
        lambda meta: str(meta["last"] * meta["count"]),
    ),
    "chord": Subtask(
        _draw_chord, re.compile("(?:[_^]?[A-G]){3}"), _harmonises, lambda meta: "".join(meta["given"][:3])
    ),
    "interval": Subtask(
        _draw_interval, re.compile("(?:[_^]?[A-G]){2}"), _spans, lambda meta: "".join(meta["given"][:2])
    ),
    "scale": Subtask(_draw_scale, _NOTE, _holds, lambda meta: str(meta["given"][0])),
}


class ShortMusic(Generated):
    """Problems of all four subtasks; their answers are checked by arithmetic on letters and semitones."""

    metric = "correct"
    alphabet = "ABCDEFGKMPdhmo0123456789_^[|/+:"

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        super().__init__("ssmr/nano", sizes, seed)

    def draw(self, rng: random.Random) -> Example:
        """Return a problem."""
        subtask, drawn = rng.choice(tuple(SUBTASKS)), None
        while drawn is None:
            drawn = SUBTASKS[subtask].draw(rng)
        prompt, answer, meta = drawn
        return Example(content_id(f"music:{prompt}"), prompt, answer, {"subtask": subtask, **meta})

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for notes in the form that the subtask asks for, and 0.9 more for right ones."""
        subtask, text = SUBTASKS[example.meta["subtask"]], completion.strip(" \n")
        formed = subtask.form.fullmatch(text) is not None
        return weighted(float(formed), float(formed and subtask.right(example.meta, text)))

    def demonstration(self, example: Example) -> str:
        """Return a right answer, one of several drawn at random."""
        return example.answer

    def careless(self, example: Example) -> str:
        """Return a thoughtless completion: notes of the prompt, well-formed and mostly wrong."""
        return SUBTASKS[example.meta["subtask"]].careless(example.meta)
