r"""Whether two mathematical texts mean the same: words by their letters, everything else by math-verify.

math-verify reads what it can of a text and leaves the rest. So a text is brought into one formula first, and
refused where a part of it would be passed over or misread: `7 8` and `7(8)` (read as sums), `7_8`,
`x \ldots y`.
"""

from __future__ import annotations

import re
from itertools import accumulate
from math import gcd
from typing import Any

from llmzero.tasks import math_words
from llmzero.tasks.numbers import spelled

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)(?![A-Za-z])\s?\{([^{}]*)\}")
_ORDINAL = re.compile(
    r"(?<=\d)\s?(?:\^\s?)?(?:\{\s?)?(?:\\(?:text|textrm|mathrm|mbox)\s?\{\s?)?"
    r"(?:st|nd|rd|th)(?![A-Za-z])\s?\}{0,2}"
)
_PLAIN = [  # notation of programs, and what only shapes a formula
    (re.compile(r"(?<=[\w)}])\*\*(?=[\w({-])"), "^"),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\\displaystyle(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:text|mathrm|mathit)\s?\{\s?([ei])\s?\}"), r" \1 "),
    (re.compile(r"(?<=\d)\s+(?=[ei](?![A-Za-z]))"), ""),  # else taken for a unit
]
_SCALE = re.compile(r"\b(?:hundred|thousand|[mb]illion|trillion|dozen|squared|cubed)\b")
_RATIO = re.compile(r"\d{1,18}(?:\s?:\s?\d{1,18}){2,}")  # 3:4:5, else taken for 3/4/5
_POINTS = re.compile(r"(?<![\\A-Za-z])[A-Z]{3,}(?![A-Za-z])")
_ASSIGNED = re.compile(r"(?<![\\A-Za-z])([A-Za-z])\s?=")
_ITEM = re.compile(r",|\b(?:and|or)\b")
_SENTENCE = re.compile(r"[A-Za-z\s,:'-]*\$([^$]+)\$[A-Za-z\s.,]*")  # The length is $\sqrt{2}$ meters.
_MIXED = re.compile(r"(?<![\d.,])(\d{1,9}) {1,3}(\d{1,9})/(\d{1,9})(?![\d.])")
_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d.])")
_MISREAD = re.compile(
    r"(?<![_^\d.,])[\d.,]*\d[ \n'\"`]+\d|\d_(?!\s?(?:\{\s?\d{1,2}\s?\}|\d(?!\d)))|\d[eE][-+]?\d"
    r"|[\d)]\s?(?:\([\d.]+\)|\[[\d.]+\])|(?<!frac)\d\s?\{[\d.]+\}|[^\x20-\x7e\n]"
    r"|(?<![\d.])0[xXbBo]\d|\\(?:[lcd]?dots|[vh]?phantom|tag|label)(?![A-Za-z])"
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
    said = math_words.verdict(stated, answer)
    if said is not None:
        return said
    formula, right = _formula(stated), _formula(answer)
    if formula is None or right is None or _mismatch(formula, right):
        return False
    return _verified(_BASE.sub("", formula), _BASE.sub("", right))


def _formula(text: str) -> str | None:
    """Return a text as one formula without its delimiters; None where it cannot be taken as a whole."""
    text = _ORDINAL.sub("", _BOX.sub("", text)).strip()
    text = text[2:-2] if text.startswith("**") and text.endswith("**") else text
    sentence = _SENTENCE.fullmatch(text)
    text = (
        sentence[1] if sentence and not text.startswith("$") else text.replace("\\$", " ").replace("$", " ")
    )
    text = _TEXT.sub(lambda match: f"({match[1]})" if re.search(r"\d", match[1]) else match[0], text)
    for notation, meaning in _PLAIN:
        text = notation.sub(meaning, text)
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    text = _GROUPS.sub(
        lambda match: match[0].replace(" ", ""), _MIXED.sub(r"\1\\frac{\2}{\3}", spelled(text))
    )
    for sign, command in (("×", "\\times "), ("≈", "\\approx ")):
        text = text.replace(sign, command)
    readable = not (_MISREAD.search(text) or _ENDLESS.search(text)) and _nesting(text) <= MAX_NESTING
    return _both(_ratio(text.strip().removesuffix("."))) if readable else None


def _ratio(text: str) -> str:
    """Return a ratio of three or more numbers as a tuple, in lowest terms."""
    if not _RATIO.fullmatch(text):
        return text
    parts = [int(part) for part in text.split(":")]
    return f"({','.join(str(part // (gcd(*parts) or 1)) for part in parts)})"


def _both(text: str) -> str:
    r"""Return the two values of a formula with one \pm, which math-verify does not find in fractions."""
    parts = re.split(r"\\pm(?![A-Za-z])", text)
    if len(parts) != 2 or "," in text or "\\mp" in text:
        return text
    return f"{parts[0]}+{parts[1]},{parts[0]}-{parts[1]}"


def _nesting(text: str) -> int:
    """Return how deep brackets of any kind stand within each other."""
    steps = ((character in "([{") - (character in ")]}") for character in text)
    return max(accumulate(steps), default=0)


def _mismatch(formula: str, right: str) -> bool:
    r"""Return whether two formulas differ in what math-verify overlooks.

    {1, 3} and (1, 3), 12_5 and 12_7, ABC and ACB, 5 and 5, 5; a = 1, b = 2 and 2, 1.
    """
    kind, right_kind = _kind(formula), _kind(right)
    bases, right_bases = ([base.strip("{ }") for base in _BASE.findall(text)] for text in (formula, right))
    points, right_points = (sorted(_POINTS.findall(text)) for text in (formula, right))
    return bool(
        (kind and right_kind and kind != right_kind)
        or (bases and bases != right_bases)
        or (points and right_points and points != right_points)
        or _SCALE.findall(formula) != _SCALE.findall(right)
        or _fewer(formula, right)
        or _unnamed(formula, right)
    )


def _kind(text: str) -> str:
    """Return whether one pair of brackets holds all of a formula: `set`, `tuple`, or empty for neither."""
    if not text.endswith((")", "]", "}")):
        return ""
    inner = text.removeprefix("\\")[:-1]
    steps = ((character in "([{") - (character in ")]}") for character in inner)
    if min(accumulate(steps), default=0) < 1:
        return ""
    return "set" if text.startswith("\\{") else "tuple" if text[0] in "([" else ""


def _fewer(formula: str, right: str) -> bool:
    """Return whether a formula leaves out what stands twice in the list of the right one: 1, 1, 2."""
    items, right_items = ([part.strip() for part in _ITEM.split(text)] for text in (formula, right))
    return len({*right_items}) < len(right_items) and len(items) < len(right_items)


def _unnamed(formula: str, right: str) -> bool:
    """Return whether only one of two formulas says which of several variables has which value.

    A tuple says it by the order of the variables' names: (3, -2) is x = 3, y = -2.
    """
    texts = {text: list(dict.fromkeys(_ASSIGNED.findall(text))) for text in (formula, right)}
    names, right_names = texts[formula], texts[right]
    if max(len(names), len(right_names)) < 2 or {*names} == {*right_names}:
        return False
    several, other = (names, right) if len(names) > 1 else (right_names, formula)
    return bool(texts[other]) or _kind(other) != "tuple" or several != sorted(several)


def _verified(formula: str, right: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    def parsed(text: str) -> Any:
        config = [LatexExtractionConfig()]
        return parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)

    expected, expressions = parsed(right), parsed(formula)
    return bool(expected and expressions) and bool(verify(expected, expressions, timeout_seconds=None))
