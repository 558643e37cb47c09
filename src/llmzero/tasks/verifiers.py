"""Verifiers: whether a stated answer equals the right one. Nothing that a model wrote is executed."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from llmzero.tasks.answers import MAX_ANSWER_CHARS, MAX_COMPLETION_CHARS

RELATIVE_ERROR = Decimal("1e-6")
MAX_EXPONENT = 10_000  # of a number; sums and products of such never overflow
_WORDS = re.compile(
    r"(?!.*\d[eE][-+]?\d)[A-Za-z0-9\s.,:;!?'%$=/+-]*", re.ASCII | re.DOTALL
)  # of powers of ten (9e3) math-verify reads the 9
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d{1,30})?%?|[-+]?\.\d+",
    re.ASCII,
)
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-Z])\)?(?![A-Za-z'’])")

Verifier = Callable[[str, str], float]  # (stated answer, right answer) -> score from 0 to 1


def exact(stated: str, answer: str) -> float:
    """Compare texts, up to white space."""
    return float(" ".join(stated.split()) == " ".join(answer.split()))


def numeric(stated: str, answer: str) -> float:
    """Compare the last number of a text with the answer, up to a relative error of a millionth."""
    numbers = _NUMBER.findall(stated[-MAX_COMPLETION_CHARS:])
    value, right = (as_number(numbers[-1]) if numbers else None), as_number(answer)
    if value is None or right is None:
        return 0.0
    return float(abs(value - right) <= RELATIVE_ERROR * abs(right))


def as_number(text: str) -> Decimal | None:
    """Return a number written as an integer, decimal, fraction or percentage; None of anything else."""
    text = text.strip().strip("$").replace(",", "").replace(" ", "")
    if len(text) > MAX_ANSWER_CHARS:
        return None
    percent = text.endswith("%")
    numerator, slash, denominator = text.removesuffix("%").partition("/")
    try:
        value = Decimal(numerator) / (Decimal(denominator) if slash else 1)
    except ArithmeticError:  # no number, a division by zero, or one beyond what decimals hold
        return None
    if not value.is_finite() or abs(value.adjusted()) > MAX_EXPONENT:
        return None
    return value / 100 if percent else value


def choice(stated: str, answer: str) -> float:
    """Compare the last letter that stands alone, as B, (B) or B., with the answer's."""
    letters = _CHOICE.findall(stated[-MAX_COMPLETION_CHARS:])
    right = _CHOICE.findall(answer.strip().upper())
    return float(bool(letters) and bool(right) and letters[-1] == right[-1])


def regex(stated: str, answer: str) -> float:
    """Match a whole text with the answer, a regular expression."""
    return float(re.fullmatch(answer, stated.strip(), re.DOTALL) is not None)


def plain_numbers(stated: str, answer: str) -> float | None:
    """Compare two texts that are numbers and nothing else; None where one is not."""
    if not stated.isascii() or as_number(stated) is None or as_number(answer) is None:
        return None  # digits of other scripts are numbers to Python
    return numeric(stated.strip().strip("$"), answer)


def math(stated: str, answer: str) -> float:
    """Compare mathematical expressions by math-verify, which knows LaTeX, sets, intervals and equations.

    math-verify takes the first number of what it cannot read. So an answer that is neither words and numbers
    nor LaTeX as a whole earns nothing.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    if len(stated) > MAX_ANSWER_CHARS:
        return 0.0
    worded = _WORDS.fullmatch(stated) is not None
    right = parse(_as_latex(answer), parsing_timeout=None)
    expressions = parse(
        _as_latex(stated),
        parsing_timeout=None,
        **({} if worded else {"extraction_config": [LatexExtractionConfig()]}),
    )
    if not worded and all(isinstance(part, str) for part in expressions):
        return 0.0
    return float(bool(right and expressions) and verify(right, expressions, timeout_seconds=None))


def _as_latex(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"


# Quick verifiers run in the caller's process; the guarded ones may be slow or endless on some texts.
QUICK: dict[str, Verifier] = {"exact": exact, "numeric": numeric, "choice": choice}
GUARDED: dict[str, Verifier] = {"math": math, "regex": regex}
# What SymPy loads with its first set, interval, equation and matrix takes longer than any of them.
EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "math": [
        ("1/2", "0.5"),
        ("x^2+2x+1", "(x+1)^2"),
        ("x^2+3x", "5"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("\\sin(x)+\\frac{\\pi}{2}", "\\log(x)"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("(1,2]", "[1,2)"),
        ("x=9", "9"),
        ("x<3", "x>4"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
    ]
}
