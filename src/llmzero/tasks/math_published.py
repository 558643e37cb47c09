"""GSM8K and MATH, from the hub or a copy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import answers, hub
from llmzero.tasks.base import Example
from llmzero.tasks.gold import ReadProblems, Rows, verified
from llmzero.tasks.math_questions import MathQuestions

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))", re.ASCII)


def _after_hashes(solution: str) -> str | None:
    """Return what stands behind the #### of a solution of GSM8K, whose numbers have commas."""
    _, hashes, answer = solution.rpartition("####")
    return _THOUSANDS.sub("", answer.strip()) if hashes else None


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub: its name, default configuration, columns of question and solution, and what
    reads the right answer off a solution.
    """

    path: str
    subset: str
    question: str
    solution: str
    answer: Callable[[str], str | None]


DATA_SETS = {
    "gsm8k": DataSet("openai/gsm8k", "main", "question", "answer", _after_hashes),
    "math": DataSet("EleutherAI/hendrycks_math", "algebra", "problem", "solution", answers.stated),
}


class PublishedMathematics(ReadProblems, MathQuestions):
    """A published data set.

    Its test split is our test split; its training split is divided by the hash of the problem.

    Args:
        data_set: one of `DATA_SETS`.
        path: a copy of it, a directory that `datasets` loads; None loads it from the hub.
        subset: a configuration of the data set on the hub; None is the default one.
        sizes: examples in each split; None is all.
        workers: processes that check answers.
        template: a Jinja file that makes the prompt of `question`; None is the task's own.
        unverified: what is done with problems whose right answers do not earn full marks for themselves.
    """

    def __init__(
        self,
        data_set: DataSet,
        path: str | None,
        subset: str | None,
        sizes: Mapping[str, int | None],
        workers: int,
        template: str | None,
        unverified: str,
    ) -> None:
        super().__init__(workers, template)
        self.data_set, self.path, self.subset, self.sizes = data_set, path, subset, sizes
        self.unverified = unverified
        self.source = f"task=math task.path={path or data_set.path}"
        self._splits = cache(self._load)

    def _load(self) -> dict[str, list[Example]]:
        subset = None if self.path else self.subset or self.data_set.subset
        data = hub.splits("math", self.path or self.data_set.path, subset)
        if missing := {"train", "test"} - set(data):
            raise UserError(
                f"{self.source}: has no split {' and '.join(sorted(missing))}; it needs train and test, such "
                "as a directory with train.jsonl and test.jsonl"
            )
        rows = Rows(self.source, self.unverified)
        for split in ("test", "train"):  # what the test has is not taught
            for number, row in enumerate(data[split]):
                self._add(rows, f"{split}[{number}]", row)
        return hub.divided((where.startswith("test"), example) for where, example in verified(self, rows))

    def _add(self, rows: Rows, where: str, row: Mapping[str, Any]) -> None:
        names = (self.data_set.question, self.data_set.solution)
        hub.columns("math", self.path or self.data_set.path, row, names)
        question, solution = (str(row[name] or "").strip() for name in names)
        answer = self.data_set.answer(solution)
        if question and answer:
            rows.add(where, self.example(" ".join(question.split()), question, answer))
        else:
            rows.leave(where, "states no answer" if question else "has no question")
