"""GSM8K and MATH, from the hub or a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from llmzero.tasks import answers, hub
from llmzero.tasks.base import Example
from llmzero.tasks.math_questions import MathQuestions
from llmzero.tasks.splits import Split


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub: its name, its default configuration, its columns of question and solution."""

    path: str
    subset: str
    question: str
    solution: str


DATA_SETS = {
    "gsm8k": DataSet("openai/gsm8k", "main", "question", "answer"),
    "math": DataSet("EleutherAI/hendrycks_math", "algebra", "problem", "solution"),
}


class PublishedMathematics(MathQuestions):
    """A published data set.

    Its test split is our test split; its training split is divided by the hash of the problem.

    Args:
        data_set: one of `DATA_SETS`.
        path: a copy of it, a directory or file that `datasets` loads; None loads it from the hub.
        subset: a configuration of the data set on the hub; None is the default one.
        sizes: examples in each split; None is all.
        workers: processes that check answers.
        template: a Jinja file that makes the prompt of `question`; None is the task's own.
    """

    def __init__(
        self,
        data_set: DataSet,
        path: str | None,
        subset: str | None,
        sizes: Mapping[str, int | None],
        workers: int,
        template: str | None,
    ) -> None:
        super().__init__(workers, template)
        self.data_set, self.path, self.subset, self.sizes = data_set, path, subset, sizes
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        return self._splits()[name]

    def _load(self) -> dict[str, list[Example]]:
        subset = None if self.path else self.subset or self.data_set.subset
        rows = hub.splits("math", self.path or self.data_set.path, subset)
        splits = hub.divided(self._examples(rows["train"]), self._examples(rows["test"]))
        return {name: list(islice(examples, self.sizes[name])) for name, examples in splits.items()}

    def _examples(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[Example]:
        for row in rows:
            question = str(row[self.data_set.question]).strip()
            answer = answers.stated(str(row[self.data_set.solution]))
            if answer is not None:
                yield self.example(" ".join(question.split()), question, answer.replace(",", ""))
