"""Verifiers: whether a stated answer equals the right one. Nothing that a model wrote is executed."""

from __future__ import annotations

import re
from collections.abc import Callable

from llmzero.tasks import choices, math_answers, numbers
from llmzero.tasks.answers import MAX_ANSWER_CHARS

# Behind a right answer of mathematics: \text{ cm}^2, but no time of day.
_UNIT = re.compile(
    r"\d\}?\s*\\(?:text|textrm|mbox)\s?\{\s*(?![ap]\.?\s?m\b|[A-Za-z]\s*\}$)[A-Za-z][A-Za-z\s./-]*\}"
    r"(?:\s?\^\s?\{?\s?[23]\s?\}?)?\s*$"
)

Verifier = Callable[[str, str], float]  # (stated answer, right answer) -> score from 0 to 1


def exact(stated: str, answer: str) -> float:
    """Compare texts, up to white space."""
    return float(" ".join(stated.split()) == " ".join(answer.split()))


def numeric(stated: str, answer: str) -> float:
    """Compare the one number of a stated answer with the right one, by `numbers.same`."""
    number, right = numbers.only(stated), numbers.read(answer)
    return float(number is not None and right is not None and numbers.same(number, right))


def choice(stated: str, answer: str) -> float:
    """Compare the one letter of a stated answer with the right one's."""
    right = choices.read(answer)
    return float(right is not None and choices.only(stated) == right)


def regex(stated: str, answer: str) -> float:
    """Match a whole text with the answer, a regular expression."""
    return float(re.fullmatch(answer, stated.strip(), re.DOTALL) is not None)


def plain_numbers(stated: str, answer: str) -> float | None:
    """Compare two texts that are numbers as a whole; None where one is not."""
    number, right = numbers.read(stated), numbers.read(answer)
    return float(numbers.same(number, right)) if number is not None and right is not None else None


def math(stated: str, answer: str) -> float:
    """Compare mathematical expressions: numbers as `numeric` does, all else by `math_answers`."""
    number, right = numbers.only(stated), numbers.read(answer)
    if right is None and _UNIT.search(answer):
        right = numbers.only(answer)
    if number is not None and right is not None:
        return float(numbers.same(number, right))
    return float(len(stated) <= MAX_ANSWER_CHARS and math_answers.equal(stated, answer))


# What a completion answers that states nothing; all others are compared as a whole.
UNSTATED: dict[str, Callable[[str], str]] = {"numeric": numbers.last, "choice": choices.last}
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
