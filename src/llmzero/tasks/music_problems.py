"""A question about sheet music in words, with its answer and wrong ones to choose from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmzero.tasks.music_answers import read

LETTER_FORM = "the letter of the right option"


@dataclass(frozen=True)
class Problem:
    """A question, what it is about, and its answer.

    Attributes:
        kind: how the answer is read, a key of `music_answers.READERS`.
        form: what the answer is to look like, in words.
        wrong: wrong answers, some of which become options of a multiple-choice question with four options.
    """

    subtask: str
    question: str
    abc: str
    kind: str
    form: str
    answer: str
    wrong: Sequence[str] = field(default_factory=tuple)


def options(problem: Problem, rng: random.Random) -> list[str] | None:
    """Return the right answer and three wrong ones, shuffled; None where fewer than three differ."""
    meanings = [
        (text if problem.kind == "letter" else read(problem.kind, text), text)
        for text in [*problem.wrong, problem.answer]
    ]
    distinct = {meaning: text for meaning, text in meanings if meaning is not None}
    del distinct[meanings[-1][0]]
    if len(distinct) < 3:
        return None
    chosen = [problem.answer, *rng.sample(list(distinct.values()), 3)]
    rng.shuffle(chosen)
    return chosen
