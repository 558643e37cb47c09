"""Exact values of arithmetic expressions that a model wrote. Nothing is executed."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

MAX_EXPRESSION_CHARS = 256  # bounds parsing time for any completion
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(text: str, numbers: Sequence[int]) -> Fraction | None:
    """Return the exact value of an expression over `numbers`, each used at most once; None if it is not one.

    Only integers, + - * / and parentheses are allowed. The text is parsed to a syntax tree, its integers are
    checked against `numbers`, and only then is it computed, so time and size are bounded for any text.
    """
    text = " ".join(text.split())
    if len(text) > MAX_EXPRESSION_CHARS or not _EXPRESSION.fullmatch(text):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):
        return None
    used = Counter(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    if used - Counter(numbers):
        return None
    return _value(tree)


def _value(tree: ast.expr) -> Fraction | None:
    if isinstance(tree, ast.Constant):
        return Fraction(tree.value)  # type: ignore[arg-type]  # the expression pattern admits integers only
    if not isinstance(tree, ast.BinOp) or type(tree.op) not in _OPERATORS:
        return None
    left, right = _value(tree.left), _value(tree.right)
    if left is None or right is None or (isinstance(tree.op, ast.Div) and right == 0):
        return None
    return _OPERATORS[type(tree.op)](left, right)
