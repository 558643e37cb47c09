"""Rewards for completions whose answer is compared with a known one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.guard import Guard

# Quick ones run in this process; the others may be slow or endless on some texts.
QUICK = {"exact": answers.exact, "numeric": answers.numeric, "choice": answers.choice}
GUARDED = {"math": answers.math, "regex": answers.regex}


class Verified:
    """Compares the answer that a completion states with the right one.

    A completion without an <answer> tag, a LaTeX box or a line of #### is compared as a whole: `numeric` and `choice` take the last number
    or letter of it.

    Args:
        verifier: `exact`, `numeric`, `choice`, `regex` or `math`; or `package.module.function`, which takes (answer found, right answer) and
            returns a number from 0 to 1.
        timeout_s: of one comparison by a verifier that is not quick.
        workers: processes for those.
    """

    metric = "correct"

    def __init__(self, verifier: str, timeout_s: float, workers: int) -> None:
        self.verifier = verifier
        self._quick = QUICK.get(verifier)
        example = ("1/2", "0.5") if verifier == "math" else None
        self._guard = (
            None
            if self._quick
            else Guard(GUARDED.get(verifier) or imported(verifier), timeout_s, workers, example)
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 1 for the right answer; never raises."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Reward completions of as many examples."""
        stated = [answers.stated(completion) for completion in completions]
        found = [whole if part is None else part for part, whole in zip(stated, completions, strict=True)]
        scores = self.compared(
            [(ours, example.answer) for ours, example in zip(found, examples, strict=True)]
        )
        return [
            Reward(score, {"correct": score, "stated": float(part is not None)})
            for score, part in zip(scores, stated, strict=True)
        ]

    def compared(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return a score for each pair of an answer found and the right one."""
        if self._quick:
            return [self._quick(*pair) for pair in pairs]
        return self._guarded(pairs)

    def _guarded(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return scores by the guarded verifier; of `math`, numbers need none."""
        assert self._guard is not None
        known = [answers.plain_numbers(*pair) if self.verifier == "math" else None for pair in pairs]
        judged = iter(self._guard([pair for pair, score in zip(pairs, known, strict=True) if score is None]))
        return [bounded(next(judged)) if score is None else score for score in known]


def bounded(value: Any) -> float:
    """Return a verifier's value as a reward: within [0, 1], and 0 where it is no number."""
    number = float(value) if isinstance(value, int | float) else math.nan
    return min(1.0, max(0.0, number)) if math.isfinite(number) else 0.0


def imported(path: str) -> Any:
    """Return the function named `package.module.function`.

    Raises:
        UserError: there is none.
    """
    module, _, name = path.rpartition(".")
    known = ", ".join([*QUICK, *GUARDED])
    if not module:
        raise UserError(f"task.verifier={path}: must be one of {known}, or package.module.function")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"task.verifier={path}: {error}; must be one of {known}, or package.module.function that Python can import"
        ) from error
