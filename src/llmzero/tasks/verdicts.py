"""Verifiers of others: called by their import path, and their verdicts as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from importlib import import_module
from numbers import Real
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks.verifiers import GUARDED, QUICK

PROBLEM_CHARS = 300  # of what a verifier says that went wrong
KINDS = "return a number from 0 to 1 (bool, int, float, or an array or tensor of one element)"


class OutsideVerifier:
    """The function `package.module.function` of (stated answer, right answer).

    It is imported where it is called, so that another process can be told of it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._function: Callable[[str, str], Any] | None = None

    def __call__(self, stated: str, answer: str) -> tuple[float | None, str]:
        """Return a verdict, and an empty text; or None and what went wrong, whatever the function raises.

        Raises:
            MemoryError: the call met a limit.
            UserError: there is no such function.
        """
        self._function = self._function or imported(self.path)
        try:
            return as_score(self._function(stated, answer)), ""
        except MemoryError:
            raise
        except NoVerdictError as error:
            return None, str(error)
        except BaseException as error:  # SystemExit and RecursionError, too
            return None, f"it raises {type(error).__name__}: {_short(error)}"


class NoVerdictError(Exception):
    """A verifier returned something else than a finite number."""


def as_score(value: Any) -> float:
    """Return a number of any kind, or the one element of an array or tensor, as a float.

    Raises:
        NoVerdictError: it is none, or not finite.
    """
    number = value
    if not isinstance(value, Real | Decimal) and callable(getattr(value, "item", None)):
        try:
            number = value.item()  # NumPy's and PyTorch's
        except Exception as error:
            raise _refused(value) from error
    if not isinstance(number, Real | Decimal):
        raise _refused(value)
    try:
        score = float(number)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise _refused(value) from error
    if not math.isfinite(score):
        raise _refused(value)
    return score


def _refused(value: Any) -> NoVerdictError:
    kind = type(value)
    shape = f" of shape {tuple(value.shape)}" if getattr(value, "shape", ()) else ""
    try:
        shown = "" if value is None or shape else f" {_short(repr(value))}"
    except Exception:  # of a type whose texts fail
        shown = ""
    name = "None" if value is None else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return NoVerdictError(f"it returns {name}{shape}{shown}: it must {KINDS}")


def imported(path: str) -> Any:
    """Return the function named `package.module.function`.

    Raises:
        UserError: there is none.
    """
    module, _, name = path.rpartition(".")
    remedy = f"must be one of {', '.join([*QUICK, *GUARDED])}, or package.module.function"
    if not module:
        raise UserError(f"task.verifier={path}: {remedy}")
    try:
        function = getattr(import_module(module), name)
    except Exception as error:  # whatever the import of somebody's module raises
        problem = f"{type(error).__name__}: {_short(error)}"
        raise UserError(f"task.verifier={path}: {problem}; {remedy} that Python can import") from error
    if not callable(function):
        raise UserError(f"task.verifier={path}: {remedy}, and that is no function")
    return function


def _short(text: object) -> str:
    return " ".join(str(text).split())[:PROBLEM_CHARS]
