"""SSMR-Bench (arXiv 2509.04059), from the hub or a copy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import hub
from llmzero.tasks.base import Example
from llmzero.tasks.music_problems import Problem
from llmzero.tasks.music_questions import MusicQuestions, SheetMusic
from llmzero.tasks.splits import Split

HUB = "Sylence/SSMR-Bench"
SUBTASKS = {"beat": "rhythm"}  # the benchmark's name of a subtask -> ours, where they differ


class PublishedMusic(MusicQuestions):
    """The published benchmark as the test split.

    Training and validation problems are those of its training split; where it has none they are generated.

    Args:
        generated: the generator, whose template the benchmark's prompts have too.
        path: a copy of the benchmark, a directory or file that `datasets` loads; None loads it from the hub.
        subset: a configuration of it; None is its only one.
        sizes: examples in each split; None is all.
    """

    def __init__(
        self, generated: SheetMusic, path: str | None, subset: str | None, sizes: Mapping[str, int | None]
    ) -> None:
        self.template = generated.template
        self.generated, self.path, self.subset, self.sizes = generated, path or HUB, subset, sizes
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        examples = self._splits().get(name)
        return self.generated.split(name) if examples is None else examples

    def _load(self) -> dict[str, list[Example]]:
        rows = hub.splits("ssmr", self.path, self.subset)
        has_training = {"train", "test"} <= set(rows)
        test = self._examples(rows["test"] if "test" in rows else next(iter(rows.values())))
        splits = hub.divided(self._examples(rows["train"]) if has_training else (), test)
        if not has_training:
            splits = {"test": splits["test"]}
        return {name: list(islice(examples, self.sizes[name])) for name, examples in splits.items()}

    def _examples(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[Example]:
        for row in rows:
            problem = self._problem(row)
            choices = [problem.answer, *problem.wrong]
            random.Random(f"{problem.question}\n{problem.abc}\n{problem.answer}").shuffle(choices)
            yield self.example(problem, choices)

    def _problem(self, row: Mapping[str, Any]) -> Problem:
        """Return a row of the benchmark as a problem.

        Raises:
            UserError: a field is missing.
        """
        try:
            question, abc, answer = (
                str(row[name] or "").strip() for name in ("question", "abc_context", "correct_answer")
            )
            wrong = [str(row[f"incorrect_answer{number}"]).strip() for number in (1, 2, 3)]
            category = str(row["category"]).lower().split("-")[0]
        except KeyError as error:
            raise UserError(
                f"task=ssmr: a row of {self.path} has no field {error}; it has {', '.join(row)}"
            ) from error
        return Problem(SUBTASKS.get(category, category), question, abc, "letter", "", answer, wrong)
