r"""Whether two mathematical texts mean the same: words by their letters, everything else by math-verify.

math-verify reads what it can of a text and leaves the rest. So a text is brought into one formula first, and
refused where a part of it would be passed over or misread: `7 8` and `7(8)` (read as sums), `7_8`,
`x \ldots y`.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

from llmzero.tasks.numbers import spelled

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)(?![A-Za-z])\s?\{([^{}]*)\}")
_WORD = r"(?:[^\W\d_]+|\d{1,2}:\d\d)"
_WORDS = re.compile(rf"{_WORD}(?:[\s,'-]+{_WORD})*")
_SENTENCE = re.compile(r"[A-Za-z\s,:'-]*\$([^$]+)\$[A-Za-z\s.,]*")  # The length is $\sqrt{2}$ meters.
_MIXED = re.compile(r"(?<![\d.,])(\d{1,9}) {1,3}(\d{1,9})/(\d{1,9})(?![\d.])")
_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d.])")
_MISREAD = re.compile(
    r"(?<![_^\d.,])[\d.,]*\d[ \n'\"`]+\d|\d_(?!\s?(?:\{\s?\d{1,2}\s?\}|\d(?!\d)))|\d[eE][-+]?\d"
    r"|[\d)]\s?(?:\([\d.]+\)|\[[\d.]+\])|(?<!frac)\d\s?\{[\d.]+\}|[^\x20-\x7e\n]"
    r"|\\(?:displaystyle|[lcd]?dots|[vh]?phantom|tag|label)(?![A-Za-z])"
)
# No answers, and minutes of work: 10^{99999}, 99999!, ------1, and what is nested deeper than any answer.
_ENDLESS = re.compile(r"\^\s?\{?\s?[-+]?\d{5,}|(?<!\d)\d{5,}\s?[)}]?\s?!|(?:[-+]\s?){4}")
MAX_NESTING = 12
_BASE = re.compile(r"(?<=\d)_\s?(\{\s?\d{1,2}\s?\}|\d)")
_SIGNS = {
    "π": "\\pi ",
    "∞": "\\infty ",
    "√": "\\sqrt ",
    "×": "\\times ",
    "·": "\\cdot ",
    "÷": "\\div ",
    "≤": "\\le ",
}
_SIGNS |= {
    "≥": "\\ge ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "θ": "\\theta ",
    "±": "\\pm ",
    "≠": "\\ne ",
}
_SIGNS |= {
    "∅": "\\emptyset ",
    "\\varnothing": "\\emptyset ",
    "α": "\\alpha ",
    "β": "\\beta ",
}


def equal(stated: str, answer: str) -> bool:
    """Return whether a stated answer means what the right one does."""
    words, right_words = _words(stated), _words(answer)
    if words and words == right_words:
        return True
    formula, right = _formula(stated), _formula(answer)
    if formula is None or right is None or _mismatch(formula, right):
        return False
    return _verified(_BASE.sub("", formula), _BASE.sub("", right))


def _words(text: str) -> str | None:
    """Return a text that is words or times of day alone, in lower case and without its marks; else None."""
    text = _TEXT.sub(r"\1", _BOX.sub("", text)).replace(".", "").strip(" \n\t$*{}")
    text = text[1:-1] if re.fullmatch(r"\([A-Za-z]\)", text) else text
    return (
        ", ".join(" ".join(part.split()) for part in text.casefold().split(","))
        if _WORDS.fullmatch(text)
        else None
    )


def _formula(text: str) -> str | None:
    """Return a text as one formula without its delimiters; None where it cannot be taken as a whole."""
    text = _BOX.sub("", text).strip()
    sentence = _SENTENCE.fullmatch(text)
    text = (
        sentence[1] if sentence and not text.startswith("$") else text.replace("\\$", " ").replace("$", " ")
    )
    text = _TEXT.sub(lambda match: f"({match[1]})" if re.search(r"\d", match[1]) else match[0], text)
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    text = _GROUPS.sub(
        lambda match: match[0].replace(" ", ""), _MIXED.sub(r"\1\\frac{\2}{\3}", spelled(text))
    )
    for sign, command in (("×", "\\times "), ("≈", "\\approx ")):
        text = text.replace(sign, command)
    readable = not (_MISREAD.search(text) or _ENDLESS.search(text)) and _nesting(text) <= MAX_NESTING
    return text.strip() if readable else None


def _nesting(text: str) -> int:
    """Return how deep brackets of any kind stand within each other."""
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(accumulate(steps), default=0)


def _mismatch(formula: str, right: str) -> bool:
    r"""Return whether two formulas differ in what math-verify overlooks: {1, 3} and (1, 3), 12_5 and 12_7."""
    kinds = {"\\{": "set", "(": "tuple", "[": "tuple"}
    kind, right_kind = (
        next((kinds[m] for m in kinds if text.startswith(m)), "") for text in (formula, right)
    )
    bases, right_bases = ([base.strip("{ }") for base in _BASE.findall(text)] for text in (formula, right))
    return bool((kind and right_kind and kind != right_kind) or (bases and bases != right_bases))


def _verified(formula: str, right: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    def parsed(text: str) -> Any:
        config = [LatexExtractionConfig()]
        return parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)

    expected, expressions = parsed(right), parsed(formula)
    return bool(expected and expressions) and bool(verify(expected, expressions, timeout_seconds=None))
