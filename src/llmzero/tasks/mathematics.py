"""Mathematics: equal fractions for the nano model, word problems, GSM8K and MATH. Answers are checked by math-verify."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from math import gcd
from typing import Any

from llmzero.core.settings import setting
from llmzero.tasks import answers, hub
from llmzero.tasks.base import Example, Reward, Split, weighted
from llmzero.tasks.generated import Generated, content_id, generated_sizes
from llmzero.tasks.settings import TIMEOUT_S, GeneratedTaskSettings
from llmzero.tasks.template import prompt_template
from llmzero.tasks.verified import Verified
from llmzero.tasks.word_problems import word_problem

LARGEST = 300
FACTORS = (2, 3)
_FRACTION = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")
SOURCES: dict[str, dict[str, str]] = {
    "gsm8k": {"path": "openai/gsm8k", "name": "main", "question": "question", "answer": "answer"},
    "math": {
        "path": "EleutherAI/hendrycks_math",
        "name": "algebra",
        "question": "problem",
        "answer": "solution",
    },
}


@dataclass
class MathSettings(GeneratedTaskSettings):
    """`task=math`."""

    source: str = setting(
        "generated",
        "of full difficulty: generated word problems, or a published data set",
        choices=("generated", *SOURCES),
    )
    path: str | None = setting(
        None, "a copy of the published data set, a directory or file that `datasets` loads; null is the hub"
    )
    subset: str | None = setting(
        None, "part of the published data set, such as a subject of MATH; null is main or algebra"
    )
    workers: int = setting(1, "processes that check answers", low=1)


def mathematics(settings: MathSettings) -> Fractions | WordProblems | Published:
    """Return the task that the settings describe. A template makes prompts of full difficulty from `question`."""
    if settings.difficulty == "full" and settings.source != "generated":
        return Published(settings)
    sizes = generated_sizes(settings.sizes())
    if settings.difficulty == "nano":
        return Fractions(sizes, settings.seed)
    return WordProblems(sizes, settings.seed, settings.workers, settings.template)


class Fractions(Generated):
    """Equal fractions, in characters: `3/14:` asks for `6/28`, `9/42` or another multiple, by less than 10."""

    metric = "correct"
    alphabet = "0123456789/:"

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        super().__init__("math/nano", sizes, seed)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem; None where the fraction can be reduced."""
        below = rng.randint(11, LARGEST)
        above = rng.randint(1, below - 1)
        if gcd(above, below) > 1:
            return None
        factor = rng.choice(FACTORS)
        meta = {"above": above, "below": below, "factor": factor}
        return Example(
            content_id(f"fraction:{above}/{below}"),
            f"{above}/{below}:",
            f"{above * factor}/{below * factor}",
            meta,
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for a larger fraction than the given one, of less than ten times its parts, and 0.9 more where it is equal to that."""
        found, (above, below) = (
            _FRACTION.fullmatch(completion.strip(" \n")),
            (example.meta["above"], example.meta["below"]),
        )
        if not found or not below < int(found[2]) < 10 * below:
            return weighted(0.0, 0.0)
        return weighted(1.0, float(int(found[1]) * below == int(found[2]) * above))

    def demonstration(self, example: Example) -> str:
        """Return the multiple that the problem was drawn with."""
        return example.answer

    def careless(self, example: Example) -> str:
        """Return the fraction with that factor added above and below, as somebody writes who confuses the rules."""
        return f"{example.meta['above'] + example.meta['factor']}/{example.meta['below'] + example.meta['factor']}"


class _Stated(Verified):
    """Answers in words: 0.1 for stating one where it was asked for, 0.9 more for the right one."""

    def __init__(self, workers: int, template: str | None) -> None:
        super().__init__("math", TIMEOUT_S, workers)
        self.template = prompt_template("math", template)

    def asked(self, content: str, question: str, answer: str) -> Example:
        """Return a question as a problem; `content` is what makes it distinct."""
        return Example(content_id(content), self.template.render(question=question), answer)

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Reward completions; one that states no answer earns nothing."""
        found = [answers.stated(completion) for completion in completions]
        judged = iter(
            self.compared(
                [
                    (text, example.answer)
                    for text, example in zip(found, examples, strict=True)
                    if text is not None
                ]
            )
        )
        return [weighted(0.0, 0.0) if text is None else weighted(1.0, next(judged)) for text in found]


class WordProblems(Generated, _Stated):
    """Generated grade-school problems of two to four steps."""

    def __init__(self, sizes: dict[str, int], seed: int, workers: int, template: str | None) -> None:
        Generated.__init__(self, "math/full", sizes, seed)
        _Stated.__init__(self, workers, template)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem with an answer that is a positive integer."""
        question, answer = word_problem(rng)
        return self.asked(f"word:{question}", question, str(answer)) if answer > 0 else None


class Published(_Stated):
    """A data set of the hub, or a copy of it. Its test split is our test split; its training split is divided by the hash of the problem."""

    def __init__(self, settings: MathSettings) -> None:
        super().__init__(settings.workers, settings.template)
        self.settings, self.sizes = settings, settings.sizes()
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        return self._splits()[name]

    def _load(self) -> dict[str, list[Example]]:
        known, path, subset = SOURCES[self.settings.source], self.settings.path, self.settings.subset
        rows = hub.splits("math", path or known["path"], None if path else subset or known["name"])
        found = hub.divided(self._examples(rows["train"], known), self._examples(rows["test"], known))
        return {name: list(islice(examples, self.sizes[name])) for name, examples in found.items()}

    def _examples(self, rows: Iterable[Mapping[str, Any]], known: Mapping[str, str]) -> Iterable[Example]:
        for row in rows:
            question, solution = str(row[known["question"]]).strip(), str(row[known["answer"]])
            answer = answers.stated(solution)
            if answer is not None:
                yield self.asked(" ".join(question.split()), question, answer.replace(",", ""))
