"""Mathematical questions in words, whose answers math-verify checks."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.generated import Generated
from llmzero.tasks.math_word_problems import word_problem
from llmzero.tasks.settings import TIMEOUT_S
from llmzero.tasks.splits import content_id
from llmzero.tasks.template import prompt_template
from llmzero.tasks.verified import Verified


class MathQuestions(Verified):
    """Questions in words. The reward is 0.1 for stating an answer, and 0.9 more for the right one."""

    def __init__(self, workers: int, template: str | None) -> None:
        super().__init__("math", TIMEOUT_S, workers)
        self.template = prompt_template("math", template)

    def example(self, content: str, question: str, answer: str) -> Example:
        """Return a question as a problem; `content` is what makes it distinct."""
        return Example(content_id(content), self.template.render(question=question), answer)

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Reward completions; one that states no answer earns nothing."""
        stated = [answers.stated(completion) for completion in completions]
        pairs = [
            (text, example.answer) for text, example in zip(stated, examples, strict=True) if text is not None
        ]
        scores = iter(self.scores(pairs))
        return [weighted(0.0, 0.0) if text is None else weighted(1.0, next(scores)) for text in stated]


class WordProblems(Generated, MathQuestions):
    """Generated grade-school problems of two to four steps."""

    def __init__(self, sizes: dict[str, int], seed: int, workers: int, template: str | None) -> None:
        Generated.__init__(self, "math/full", sizes, seed)
        MathQuestions.__init__(self, workers, template)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem with an answer that is a positive integer."""
        question, answer = word_problem(rng)
        return self.example(f"word:{question}", question, str(answer)) if answer > 0 else None
