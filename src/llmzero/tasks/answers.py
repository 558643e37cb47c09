"""Where in a completion its answer stands, and whether it equals the right one. Nothing that a model wrote is executed."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

MAX_COMPLETION_CHARS = 100_000  # the end of a longer completion counts
MAX_ANSWER_CHARS = 512
RELATIVE_ERROR = Decimal("1e-6")
_WORDS = re.compile(
    r"(?!.*\d[eE][-+]?\d)[A-Za-z0-9\s.,:;!?'%$=/+-]*", re.ASCII | re.DOTALL
)  # of powers of ten (9e3) math-verify reads the 9
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d{1,30})?%?|[-+]?\.\d+",
    re.ASCII,
)
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-Z])\)?(?![A-Za-z'’])")

Verifier = Callable[[str, str], float]


def stated(completion: str) -> str | None:
    """Return the answer that a completion states, by its last <answer> tag, LaTeX box or line of ####, in this order; None without one."""
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
    """Return what stands in the last LaTeX box; None where there is none that closes."""
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


def exact(found: str, answer: str) -> float:
    """Compare texts, up to white space."""
    return float(" ".join(found.split()) == " ".join(answer.split()))


def numeric(found: str, answer: str) -> float:
    """Compare the last number of a text with the answer, up to a relative error of a millionth."""
    numbers = _NUMBER.findall(found[-MAX_COMPLETION_CHARS:])
    ours, right = (as_number(numbers[-1]) if numbers else None), as_number(answer)
    if ours is None or right is None:
        return 0.0
    return float(abs(ours - right) <= RELATIVE_ERROR * abs(right))


def as_number(text: str) -> Decimal | None:
    """Return a number written as an integer, decimal, fraction or percentage; None of anything else."""
    text = text.strip().strip("$").replace(",", "").replace(" ", "")
    if len(text) > MAX_ANSWER_CHARS:
        return None
    percent = text.endswith("%")
    numerator, slash, denominator = text.removesuffix("%").partition("/")
    try:
        value = Decimal(numerator) / (Decimal(denominator) if slash else 1)
    except (InvalidOperation, ZeroDivisionError):
        return None
    return (value / 100 if percent else value) if value.is_finite() else None


def choice(found: str, answer: str) -> float:
    """Compare the last letter that stands alone, as B, (B) or B., with the answer's."""
    ours, right = _CHOICE.findall(found[-MAX_COMPLETION_CHARS:]), _CHOICE.findall(answer.strip().upper())
    return float(bool(ours) and bool(right) and ours[-1] == right[-1])


def regex(found: str, answer: str) -> float:
    """Match a whole text with the answer, a regular expression."""
    return float(re.fullmatch(answer, found.strip(), re.DOTALL) is not None)


def plain_numbers(found: str, answer: str) -> float | None:
    """Compare two texts that are numbers and nothing else; None where one is not."""
    if (
        not found.isascii() or as_number(found) is None or as_number(answer) is None
    ):  # digits of other scripts are numbers to Python
        return None
    return numeric(found.strip().strip("$"), answer)


def math(found: str, answer: str) -> float:
    """Compare mathematical expressions by math-verify, which knows LaTeX, sets, intervals and equations.

    From what it cannot read it would take the first number: an answer that is neither words and numbers nor LaTeX as a whole earns nothing.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    if len(found) > MAX_ANSWER_CHARS:
        return 0.0
    worded = _WORDS.fullmatch(found) is not None
    right = parse(_as_mathematics(answer), parsing_timeout=None)
    ours = parse(
        _as_mathematics(found),
        parsing_timeout=None,
        **({} if worded else {"extraction_config": [LatexExtractionConfig()]}),
    )
    if not worded and all(isinstance(part, str) for part in ours):
        return 0.0
    return float(bool(right and ours) and verify(right, ours, timeout_seconds=None))


def _as_mathematics(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
