"""Text that is not ours, as it may stand on a terminal: shown, and never obeyed."""

from __future__ import annotations

import json
import unicodedata


def visible(text: object) -> str:
    r"""Return a text in which whatever a terminal would obey is written out, such as `\u001b` for an escape.

    Written out, as JSON does it, are control characters (C0 and C1), characters without a shape of their own
    (bidirectional overrides, zero-width ones), lone surrogates, and separators of lines other than `\n`.
    Line breaks and tabs stay.
    """
    return _written_out(str(text), kept="\n\t")


def visible_line(text: object) -> str:
    """Return a text on one line: as `visible`, with line breaks and tabs written out too."""
    return _written_out(str(text), kept="")


def _written_out(text: str, kept: str) -> str:
    if text.translate(dict.fromkeys(map(ord, kept))).isprintable():
        return text
    return "".join(c if c in kept or not _obeyed(c) else json.dumps(c)[1:-1] for c in text)


def _obeyed(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp")
