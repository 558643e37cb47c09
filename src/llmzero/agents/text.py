"""Text to and from language models: cleaned, cut, fenced off as data."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from typing import Any

# Of prompts full of numbers, by a tokenizer that takes each digit for itself: others need fewer tokens.
CHARACTERS_A_TOKEN = 2.5


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text takes, rather too many than too few."""
    return math.ceil(len(text) / CHARACTERS_A_TOKEN)


def clean(text: Any, limit: int) -> str:
    """Return a text without control characters and lone surrogates, cut to `limit` characters."""
    whole = str(text)[: 4 * limit]
    printable = "".join(c for c in whole if c in "\n\t" or unicodedata.category(c)[0] != "C")
    return printable if len(printable) <= limit else f"{printable[: limit - 3].rstrip()}..."


def one_line(text: Any, limit: int) -> str:
    """Return a text on one line, cut to `limit` characters."""
    return clean(re.sub(r"\s+", " ", str(text)[: 4 * limit]).strip(), limit)


def fenced(text: str, kind: str) -> str:
    """Return untrusted text between marks that it cannot contain, as they depend on all of it."""
    mark = f"untrusted-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]}"
    return f"<{mark} kind={kind}>\n{text}\n</{mark}>"


def share(value: Any) -> float | None:
    """Return a number from 0 to 1; None for anything else."""
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if sensible else None


def value_text(value: Any) -> str:
    """Return a hyperparameter's value with the digits that matter."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
