"""Keeps the verifiers of reasoning-gym from running code: some pass what a model wrote to Python's `eval`."""

from __future__ import annotations

import ast
import sys
from typing import Any

# These evaluate problems of their own, never an answer.
OWN_PROBLEMS = (
    "reasoning_gym.arithmetic.basic_arithmetic",
    "reasoning_gym.arithmetic.bitwise_arithmetic",
    "reasoning_gym.arithmetic.gsm_symbolic",
)
_FUNCTIONS = ("sqrt", "cbrt", "root", "real_root")  # of SymPy; its others are classes of expressions
_BUILTINS = (abs, max, min, pow)
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Tuple, ast.List, ast.Call, ast.keyword),
    *(ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop),
)


def restrict() -> None:
    """Have this process evaluate literals and formulas alone, in reasoning-gym and in SymPy's parser."""
    from sympy.parsing import sympy_parser

    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym.") and not name.startswith(OWN_PROBLEMS):
            vars(module)["eval"] = ast.literal_eval
    sympy_parser.eval_expr = formula


def formula(code: Any, local_dict: dict[str, Any], global_dict: dict[str, Any]) -> Any:
    """Return the value of an expression that SymPy's parser made of a text; it stands in for `eval_expr`.

    Raises:
        ValueError: it is more than numbers, symbols, operators and functions of SymPy.
    """
    tree = ast.parse(code, mode="eval")
    names = {**global_dict, **local_dict}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise ValueError(f"{type(node).__name__} is no part of a formula")
        if isinstance(node, ast.Name) and not _harmless(names.get(node.id)):
            raise ValueError(f"{node.id} is no part of a formula")
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Call):
            raise ValueError("a formula calls functions by their names")
    return eval(compile(tree, "<formula>", "eval"), {"__builtins__": {}, **names})


def _harmless(value: Any) -> bool:
    """Return whether a name of a formula stands for an expression, or for a function that makes one."""
    import sympy

    if isinstance(value, type):
        return issubclass(value, sympy.Basic)
    return isinstance(value, sympy.Basic) or value in (
        *_BUILTINS,
        *(vars(sympy)[name] for name in _FUNCTIONS),
    )
