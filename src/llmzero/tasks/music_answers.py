"""The meaning of answers about music: notes, intervals, chords, scales, meters, durations in any spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from functools import cache, lru_cache

from llmzero.tasks import choices
from llmzero.tasks.answers import MAX_ANSWER_CHARS

MAX_CHARS = 64  # of an answer
SIGNS = {
    "": "",
    "natural": "",
    "=": "",
    "#": "#",
    "sharp": "#",
    "^": "#",
    "b": "-",
    "flat": "-",
    "_": "-",
    "##": "##",
    "x": "##",
    "double sharp": "##",
    "^^": "##",
    "bb": "--",
    "double flat": "--",
    "__": "--",
}  # as people and ABC write them -> as music21 does
CHORDS = {
    "major": ("", "maj", "major"),
    "minor": ("m", "min", "minor"),
    "diminished": ("dim", "o", "°", "diminished"),
    "augmented": ("aug", "+", "augmented"),
    "dominant-seventh": ("7", "dom7", "dominant 7", "dominant 7th", "dominant seventh"),
    "major-seventh": ("maj7", "major 7", "major 7th", "major seventh"),
    "minor-seventh": ("m7", "min7", "minor 7", "minor 7th", "minor seventh"),
    "half-diminished-seventh": (
        "m7b5",
        "min7b5",
        "ø",
        "ø7",
        "half-diminished",
        "half-diminished 7th",
        "half-diminished seventh",
    ),
    "diminished-seventh": ("dim7", "o7", "°7", "diminished 7", "diminished 7th", "diminished seventh"),
}  # as music21 calls them -> as people write them, the fullest name last; M is maj
SCALES = {
    "Major": ("", "maj", "ionian", "major"),
    "Minor": ("m", "min", "minor", "aeolian", "natural minor"),
    "HarmonicMinor": ("harmonic minor",),
    "Dorian": ("dorian",),
    "Phrygian": ("phrygian",),
    "Lydian": ("lydian",),
    "Mixolydian": ("mixolydian",),
}  # music21's classes without `Scale` -> as people write them, the usual name last
QUALITIES = {
    "P": ("p", "perf", "perfect"),
    "M": ("maj", "major"),
    "m": ("m", "min", "minor"),
    "A": ("a", "aug", "augmented"),
    "d": ("d", "dim", "diminished"),
}
DEGREES = ("unison", "second", "third", "fourth", "fifth", "sixth", "seventh", "octave")
METERS = {"C": "4/4", "common time": "4/4", "C|": "2/2", "cut time": "2/2"}

_NAME = r"(?P<letter>[A-Ga-g])[ -]?(?P<sign>##|#|x|bb|b|double[ -]sharp|double[ -]flat|sharp|flat|natural|)"
_NOTE = re.compile(_NAME)
_NAMED = re.compile(rf"{_NAME}(?![#b])(?P<rest>.*)")
_ABC = re.compile(r"(?P<sign>\^\^|\^|__|_|=|)(?P<letter>[A-Ga-g])(?P<octave>,{0,3}|'{0,3})")
_INTERVAL = re.compile(
    rf"(?P<quality>[A-Za-z]+)[ -]?(?P<number>[1-8]|{'|'.join(DEGREES)})(?:st|nd|rd|th)?", re.ASCII
)
_METER = re.compile(r"[1-9]\d?/(?:1|2|4|8|16|32)", re.ASCII)
_FRACTION = re.compile(r"([1-9]\d?)/(1|2|4|8|16|32)", re.ASCII)
_VALUE = re.compile(r"(?P<dots>(?:dotted )?)(?P<value>whole|half|quarter|eighth|16th)(?: note)?")
_PLACES = re.compile(r"\d{1,3}(?:(?:, | and |,| )\d{1,3}){0,15}", re.ASCII)


def read(kind: str, text: str) -> Hashable:
    """Return the meaning of a text, to be compared; None where it is no answer of this kind."""
    return _read(kind, text) if len(text) <= (MAX_ANSWER_CHARS if kind == "letter" else MAX_CHARS) else None


@lru_cache(4096)
def _read(kind: str, text: str) -> Hashable:
    return READERS[kind](" ".join(text.replace("♯", "#").replace("♭", "b").split()))


def same(kind: str, text: str, answer: str) -> bool:
    """Return whether a text has the meaning of the answer."""
    meaning = read(kind, text)
    return meaning is not None and meaning == read(kind, answer)


def _letter(text: str) -> str | None:
    """Return the option that a text names, also together with the option's text."""
    letter = choices.read(text)
    return letter if letter in ("A", "B", "C", "D") else None


def _note(text: str) -> str | None:
    """Return a note's name without its octave; it may be in ABC notation."""
    match = _NOTE.fullmatch(text) or _ABC.fullmatch(text)
    return _name(match) if match else None


def _name(match: re.Match[str]) -> str:
    return match["letter"].upper() + SIGNS[match["sign"].replace("-", " ")]


def _sound(text: str) -> int | None:
    """Return the semitones of a note above C, in whichever octave."""
    from music21.pitch import Pitch

    name = _note(text)
    return None if name is None else int(Pitch(name).pitchClass)


def _abc(text: str) -> str | None:
    """Return the name of a note in ABC notation, with its octave."""
    match = _ABC.fullmatch(text)
    if match is None:
        return None
    octave = 4 + match["letter"].islower() + match["octave"].count("'") - match["octave"].count(",")
    return f"{_name(match)}{octave}"


def _interval(text: str) -> str | None:
    """Return the short name of an interval of at most an octave, such as m3."""
    from music21.interval import Interval, IntervalException

    match = _INTERVAL.fullmatch("perfect octave" if text.lower() == "octave" else _plain(text))
    quality = _meant(match["quality"], QUALITIES) if match else None
    if match is None or quality is None:
        return None
    number = match["number"] if match["number"].isdigit() else str(DEGREES.index(match["number"]) + 1)
    try:
        return str(Interval(quality + number).name)
    except IntervalException:  # there is no perfect third
        return None


def _plain(text: str) -> str:
    """Return a text in lower case, its M that stands for major spelled out."""
    return re.sub("^M(?![A-Za-z])", "maj", text).lower()


def _meant(text: str, names: Mapping[str, tuple[str, ...]]) -> str | None:
    return next((name for name, written in names.items() if text in written), None)


def _rooted(text: str, nouns: str, names: Mapping[str, tuple[str, ...]]) -> tuple[str, str] | None:
    """Return the root of a named chord or scale, and its kind."""
    match = _NAMED.fullmatch(text)
    kind = _meant(_plain(re.sub(f" ?(?:{nouns})$", "", match["rest"].strip(" -"))), names) if match else None
    return (_name(match), kind) if match and kind else None


def _chord(text: str) -> tuple[str, ...] | None:
    """Return a named chord's notes from the root up."""
    named = _rooted(text, "triad|chord", CHORDS)
    return chord_notes(*named) if named else None


def _scale(text: str) -> tuple[str, ...] | None:
    """Return a named scale's notes from the tonic up."""
    named = _rooted(text, "scale|mode|key", SCALES)
    return scale_notes(*named) if named else None


def _quality(text: str) -> str | None:
    return _meant(re.sub(" ?(?:triad|chord)$", "", _plain(text)), CHORDS) if text else None


@cache
def chord_notes(root: str, kind: str) -> tuple[str, ...]:
    """Return the names of a chord's notes; `kind` is a key of `CHORDS`."""
    from music21.harmony import ChordSymbol

    return tuple(pitch.name for pitch in ChordSymbol(root=root, kind=kind).pitches)


@cache
def scale_notes(tonic: str, kind: str) -> tuple[str, ...]:
    """Return the names of a scale's seven notes; `kind` is a key of `SCALES`."""
    from music21 import scale

    return tuple(pitch.name for pitch in getattr(scale, f"{kind}Scale")(tonic).pitches[:7])


def _meter(text: str) -> Fraction | None:
    """Return the length of a meter's bar, in quarter notes."""
    from music21.meter import TimeSignature

    meter = METERS.get(text, text.replace(" ", ""))
    return Fraction(TimeSignature(meter).barDuration.quarterLength) if _METER.fullmatch(meter) else None


def _duration(text: str) -> Fraction | None:
    """Return a note value, a name or a fraction of a whole note, in quarter notes."""
    from music21.duration import Duration

    fraction, named = (
        _FRACTION.fullmatch(text.replace(" ", "")),
        _VALUE.fullmatch(text.lower().replace("sixteenth", "16th")),
    )
    if fraction:
        return Fraction(4 * int(fraction[1]), int(fraction[2]))
    return Fraction(Duration(named["value"], dots=len(named["dots"]) // 7).quarterLength) if named else None


def _places(text: str) -> tuple[int, ...] | None:
    return tuple(map(int, re.findall(r"\d+", text))) if _PLACES.fullmatch(text) else None


READERS: Mapping[str, Callable[[str], Hashable]] = {
    "letter": _letter,
    "note": _note,
    "sound": _sound,
    "abc": _abc,
    "interval": _interval,
    "chord": _chord,
    "quality": _quality,
    "scale": _scale,
    "meter": _meter,
    "duration": _duration,
    "places": _places,
}
