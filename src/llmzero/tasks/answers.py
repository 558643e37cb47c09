"""The answer that a completion states: in an <answer> tag, a LaTeX box or a line of ####."""

from __future__ import annotations

import re

MAX_COMPLETION_CHARS = 100_000  # the end of a longer completion counts
MAX_ANSWER_CHARS = 512
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")


def stated(completion: str) -> str | None:
    """Return the answer that a completion states; None where it states none.

    It stands in the last <answer> tag; without tags in the last LaTeX box; without either in the last line of
    ####.
    """
    text = completion[-MAX_COMPLETION_CHARS:]
    tags = _TAG.findall(text)
    if tags:
        return str(tags[-1]).strip()
    box = _boxed(text)
    if box is not None:
        return box.strip()
    hashes = _HASHES.findall(text)
    return str(hashes[-1]).strip() if hashes else None


def _boxed(text: str) -> str | None:
    """Return the content of the last LaTeX box; None where no box is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for position, character in enumerate(text[begin : begin + MAX_ANSWER_CHARS], begin):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[begin:position]
    return None
