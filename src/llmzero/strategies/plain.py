"""What files of strategies and rules may hold: plain data within bounds, each field of its own type.

Such files come from anybody. What is in them is compared, copied and printed, and never looked up, imported
or interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from llmzero.core.compute import MOST_FLOPS

LONGEST_TEXT = 2000  # characters
LARGEST = 10**15  # of numbers
DEEPEST = 12  # lists and mappings in one another
MOST_VALUES = 100_000  # of a document
MOST_ENTRIES = 1000  # stages or clauses of a file
WORDS, LONGEST_WORD = 40, 200  # of a list of words; characters of each
SHOWN = 120  # characters of a value in a message

SCALAR = f"a text of up to {LONGEST_TEXT} characters, a finite number, true, false or null"
ALLOWED_WORDS = f"a list of words: at most {WORDS} texts of up to {LONGEST_WORD} characters"

Check = tuple[Callable[[Any], bool], str]  # whether a value is right, and what is allowed, in words


def shown(value: Any) -> str:
    """Return a value as messages show it: in one line, without control characters, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no number of more than 4300 digits
        text = "what cannot be printed"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def named(key: Any) -> str:
    """Return a key as messages name it: as it is where it is short and printable."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= SHOWN else shown(key)


def problems(entry: Mapping[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """Return what is wrong with the fields of an entry that are there."""
    return [
        f"{name}={shown(entry[name])}: must be {allowed}"
        for name, (right, allowed) in checks.items()
        if name in entry and not right(entry[name])
    ]


def not_plain(key: str, value: Any) -> list[str]:
    """Return what in the value of a key is no plain data, or beyond the bounds, each by its dotted key."""
    found: list[str] = []
    for count, (where, part, depth) in enumerate(_parts(value, key, 0)):
        if count == MOST_VALUES:
            return [*found, f"{key}: holds more than {MOST_VALUES} values"]
        if isinstance(part, dict | list):
            if depth > DEEPEST:
                return [*found, f"{where}: must not hold lists and mappings deeper than {DEEPEST}"]
        elif not (is_scalar(part) or is_compute(part)):
            found.append(f"{where}={shown(part)}: must be {SCALAR}; write dates and the like in quotes")
    return found


def _parts(value: Any, where: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Yield a value and all below it, keys too, each before what it holds, with dotted key and depth."""
    yield where, value, depth
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            place = f"{where}.{named(key)}"
            yield place, key, depth
            yield from _parts(item, place, depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from _parts(item, f"{where}.{number}", depth + 1)


def is_scalar(value: Any) -> bool:
    """Return whether a value is a text, a finite number, a truth value or None, and not huge."""
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    return value is None or isinstance(value, bool) or is_finite(value)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that is finite and not huge, and no truth value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (isinstance(value, int) or math.isfinite(value)) and abs(value) <= LARGEST


def is_compute(value: Any) -> bool:
    """Return whether a value is an amount of compute in FLOPs, which is larger than other numbers."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= MOST_FLOPS


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 0 that is not huge."""
    return isinstance(value, int) and is_finite(value) and value >= 0


def are_words(value: Any) -> bool:
    """Return whether a value is a list of short texts."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= WORDS
        and all(isinstance(word, str) and len(word) <= LONGEST_WORD for word in value)
    )


def words(value: Any) -> tuple[str, ...]:
    """Return the texts of a list, as many and as much of them as files hold; nothing of anything else."""
    texts = [item for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else []
    return tuple(text[:LONGEST_WORD] for text in texts[:WORDS])


def or_null(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return the check that lets None pass, too."""
    return lambda value: value is None or right(value)
