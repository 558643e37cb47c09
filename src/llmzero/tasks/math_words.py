r"""Right answers that are words, names, dates or times of day: compared by their letters, not as products.

math-verify takes letters for symbols: for it `CBE` is `BCE`, and `9 a.m.` is `9 p.m.`.
"""

from __future__ import annotations

import re

_MARKS = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)(?![A-Za-z])\s?\{([^{}]*)\}")
_TIME = r"\d{1,2}:\d\d(?::\d\d)?"
_WORD = rf"(?:[^\W\d_]+|{_TIME})"
_WORDS = re.compile(rf"{_WORD}(?:[\s,'-]+{_WORD})*")
_CALENDAR = re.compile(
    rf"(?<![\w:]){_TIME}(?![\w:])|\d\s?[ap]\s?m\b|\b(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|january|february|march|april|may|june|july|august|september|october|november|december)\b",
    re.IGNORECASE,
)
# Several quantities are no number: 3 hours and 20 minutes.
_QUANTITIES = re.compile(
    r"\d\s*(?!(?:and|or|by|to|mod|times|plus|minus|over)\b)[A-Za-z]{2,}[A-Za-z\s,]*\d", re.ASCII
)
_PART = re.compile(r"[^\W\d_]+|[\d./]+")
_DATED = re.compile(r"[\w\s,':-]+")
_HALF = re.compile(r"(?<=\d)\s*([ap])\s?m\b", re.IGNORECASE)
# A word or a name of points; up to three small letters may be a product.
_NAME = re.compile(r"\b[^\W\d_]*(?:[A-Z][^\W\d_]|[^\W\d_][A-Z]|[^\W\d_]{4})[^\W\d_]*\b")


def verdict(stated: str, answer: str) -> bool | None:
    """Return whether a stated answer says what the right one does; None where no words decide it."""
    plain, right = _plain(stated), _plain(answer)
    if right is not None and plain == right:
        return not _symbols(stated, answer)
    texts = _unmarked(stated), _unmarked(answer)
    if any(map(_CALENDAR.search, texts)):
        return False
    if any(map(_QUANTITIES.search, texts)):
        first, second = ([part for part in _PART.findall(text.casefold()) if part != "and"] for text in texts)
        return first == second
    named = right is not None and (_NAME.search(texts[1]) or _TEXT.search(answer))
    return False if named else None


def _symbols(stated: str, answer: str) -> bool:
    """Return whether two texts are a small and a capital letter: x and X, while text{c} and (c) are C."""
    first, second = (text.strip(" $") for text in (stated, answer))
    return len(first) == len(second) == 1 and first != second


def _unmarked(text: str) -> str:
    text = _TEXT.sub(r"\1", _MARKS.sub("", text)).replace(".", "").strip(" \n\t$*{}")
    return re.sub(r"\s*:\s*", ":", _HALF.sub(r" \1m", text))


def _plain(text: str) -> str | None:
    """Return a text that is words, a date or a time alone, in lower case without its marks; else None."""
    plain = _unmarked(text)
    bracketed = re.fullmatch(r"\(([A-Za-z])\)", plain)
    plain = bracketed[1] if bracketed else plain
    if not (_WORDS.fullmatch(plain) or (_CALENDAR.search(plain) and _DATED.fullmatch(plain))):
        return None
    return ", ".join(" ".join(part.split()) for part in plain.casefold().split(","))
