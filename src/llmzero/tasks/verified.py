"""Rewards for completions whose answer a verifier compares with the right one."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from llmzero.core.redaction import redacted
from llmzero.core.text import visible_line
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.guard import Guard
from llmzero.tasks.verdicts import OutsideVerifier, imported
from llmzero.tasks.verifiers import EXAMPLES, GUARDED, QUICK, UNSTATED, plain_numbers

SHOWN_CHARS = 100  # of an answer, in a message
TOLERANCE = 1e-6  # by which a verdict may leave [0, 1] in silence: rounding of single precision
log = logging.getLogger(__name__)


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
        self.verifier, self.timeout_s = verifier, timeout_s
        self.outside = verifier not in QUICK and verifier not in GUARDED
        self._quick, self._guard = QUICK.get(verifier), None
        self._said: set[str] = set()
        if self.outside:
            imported(verifier)
            function = OutsideVerifier(verifier)
            self._guard = Guard(function, timeout_s, workers, name=f"task.verifier={verifier}")
        elif verifier in GUARDED:
            self._guard = Guard(GUARDED[verifier], timeout_s, workers, EXAMPLES.get(verifier, ()))

    @property
    def quick(self) -> bool:
        """Whether the verifier is called in this process."""
        return self._guard is None

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
        """Return the verifier's score for each pair of a stated and a right answer; 0 where it fails.

        The first failure of a verifier from outside is logged.
        """
        judged = self.judged(pairs)
        failed = [(pair, problem) for pair, (_, problem) in zip(pairs, judged, strict=True) if problem]
        if self.outside and failed:
            (stated, answer), problem = failed[0]
            self.say_once(
                "failure", f"for {shown(stated)} and the right answer {shown(answer)} {problem}; that earns 0"
            )
        return [score for score, _ in judged]

    def judged(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, str]]:
        """Return the score of each pair, and an empty text; or 0 and why it was not judged."""
        if self._quick:
            return [(self._quick(*pair), "") for pair in pairs]
        assert self._guard is not None
        if self.outside and not self._guard.examples and pairs:
            self._guard.examples = [(pairs[0][1], pairs[0][1])]  # what it imports late takes none of its time
        scores = [plain_numbers(*pair) if self.verifier == "math" else None for pair in pairs]
        open_pairs = [pair for pair, score in zip(pairs, scores, strict=True) if score is None]
        guarded = iter(self._guard(open_pairs))
        return [self._verdict(next(guarded)) if score is None else (score, "") for score in scores]

    def _verdict(self, value: Any) -> tuple[float, str]:
        if value is None:
            return 0.0, f"it fails, or takes more than task.timeout_s={self.timeout_s:g} or its memory"
        score, problem = value if self.outside else (value, "")
        if problem:
            return 0.0, visible_line(redacted(problem))
        if not -TOLERANCE <= score <= 1 + TOLERANCE:
            self.say_once("bounds", f"returns {score:g}; verdicts are cut to the range from 0 to 1")
        return bounded(score), ""

    def close(self) -> None:
        """End the processes; the next call starts others."""
        if self._guard is not None:
            self._guard.close()

    def say_once(self, what: str, message: str) -> None:
        """Log what is to be known of the verifier, the first time that it comes up."""
        if what not in self._said:
            self._said.add(what)
            log.warning("task.verifier=%s: %s (said once)", self.verifier, visible_line(redacted(message)))


def bounded(value: float | None) -> float:
    """Return a verifier's score as a reward: within [0, 1], and 0 where it is no finite number."""
    return min(1.0, max(0.0, float(value))) if value is not None and math.isfinite(value) else 0.0


def shown(text: str) -> str:
    """Return the beginning of a text of others, quoted, on one line."""
    return f"'{visible_line(redacted(text))[:SHOWN_CHARS]}'"
