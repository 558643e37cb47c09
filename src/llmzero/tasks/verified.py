"""Rewards for completions whose answer a verifier compares with the right one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.guard import Guard
from llmzero.tasks.verifiers import EXAMPLES, GUARDED, QUICK, UNSTATED, plain_numbers


class Verified:
    """Compares the answer that a completion states with the right one.

    A completion that states none is compared as a whole: `numeric` and `choice` take the last number or
    letter of it.

    Args:
        verifier: `exact`, `numeric`, `choice`, `regex` or `math`; or `package.module.function`, which takes
            (stated answer, right answer) and returns a number from 0 to 1.
        timeout_s: seconds for one comparison by a verifier that is not quick.
        workers: processes for those.
    """

    metric = "correct"

    def __init__(self, verifier: str, timeout_s: float, workers: int) -> None:
        self.verifier = verifier
        self._quick = QUICK.get(verifier)
        self._guard = (
            None
            if self._quick
            else Guard(
                GUARDED.get(verifier) or imported(verifier), timeout_s, workers, EXAMPLES.get(verifier, ())
            )
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 1 for the right answer; never raises."""
        return self.rewards([example], [completion])[0]

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Reward one completion for each example."""
        stated = [answers.stated(completion) for completion in completions]
        unstated = UNSTATED.get(self.verifier, str)
        compared = [
            unstated(answers.final(whole)) if text is None else text
            for text, whole in zip(stated, completions, strict=True)
        ]
        scores = self.scores(
            [(text, example.answer) for text, example in zip(compared, examples, strict=True)]
        )
        return [
            Reward(score, {"correct": score, "stated": float(text is not None)})
            for score, text in zip(scores, stated, strict=True)
        ]

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the verifier's score for each pair of a stated and a right answer."""
        if self._quick:
            return [self._quick(*pair) for pair in pairs]
        assert self._guard is not None
        scores = [plain_numbers(*pair) if self.verifier == "math" else None for pair in pairs]
        open_pairs = [pair for pair, score in zip(pairs, scores, strict=True) if score is None]
        guarded = iter(self._guard(open_pairs))
        return [bounded(next(guarded)) if score is None else score for score in scores]


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
    remedy = f"must be one of {', '.join([*QUICK, *GUARDED])}, or package.module.function"
    if not module:
        raise UserError(f"task.verifier={path}: {remedy}")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"task.verifier={path}: {error}; {remedy} that Python can import") from error
