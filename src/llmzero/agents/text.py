"""Text to and from language models: cleaned, cut, fenced off as data, and searched for JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from typing import Any

from llmzero.core.files import too_deep

# Of prompts full of numbers, by a tokenizer that takes each digit for itself: others need fewer tokens.
CHARACTERS_A_TOKEN = 2.5
SEARCHED = 400_000  # characters of a reply in which JSON is looked for
STARTS = 200  # braces at which a JSON object may begin


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


def json_object(text: str, key: str) -> dict[str, Any] | None:
    """Return the last JSON object in a text that has a key, or any for an empty key, or None.

    Objects inside others do not count, and neither do such as are nested deeper than any answer. What comes
    before the last one are taken to be drafts.
    """
    decoder, answer, position, text = json.JSONDecoder(), None, 0, text[:SEARCHED]
    for _ in range(STARTS):
        start = text.find("{", position)
        if start < 0:
            break
        try:
            value, position = decoder.raw_decode(text, start)
            answer = value if (not key or key in value) and not too_deep(value) else answer
        except (ValueError, RecursionError):
            position = start + 1
    return answer


def share(value: Any) -> float | None:
    """Return a number from 0 to 1; None for anything else."""
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if sensible else None


def value_text(value: Any) -> str:
    """Return a hyperparameter's value with the digits that matter."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
