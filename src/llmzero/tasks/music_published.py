"""SSMR-Bench (arXiv 2509.04059), from the hub or a copy."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from llmzero.tasks import hub
from llmzero.tasks.base import Example
from llmzero.tasks.gold import ReadProblems, Rows
from llmzero.tasks.music_problems import Problem
from llmzero.tasks.music_questions import MusicQuestions, SheetMusic
from llmzero.tasks.splits import Split

HUB = "Sylence/SSMR-Bench"
WRONG = ("incorrect_answer1", "incorrect_answer2", "incorrect_answer3")
COLUMNS = ("question", "abc_context", "correct_answer", *WRONG, "category")
SUBTASKS = {"beat": "rhythm"}  # the benchmark's name of a subtask -> ours, where they differ


class PublishedMusic(ReadProblems, MusicQuestions):
    """The published benchmark as the test split.

    Training and validation problems are those of its training split; where it has none they are generated.

    Args:
        generated: the generator, whose template the benchmark's prompts have too.
        path: a copy of the benchmark, a directory or file that `datasets` loads; None loads it from the hub.
        subset: a configuration of it; None is its only one.
        sizes: examples in each split; None is all.
        unverified: what is done with rows that are no problems.
    """

    def __init__(
        self,
        generated: SheetMusic,
        path: str | None,
        subset: str | None,
        sizes: Mapping[str, int | None],
        unverified: str,
    ) -> None:
        self.template = generated.template
        self.generated, self.path, self.subset, self.sizes = generated, path or HUB, subset, sizes
        self.source, self.unverified = f"task=ssmr task.path={self.path}", unverified
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        return super().split(name) if name in self._splits() else self.generated.split(name)

    def _load(self) -> dict[str, list[Example]]:
        data = hub.splits("ssmr", self.path, self.subset)
        has_training = {"train", "test"} <= set(data)
        tests = "test" if "test" in data else next(iter(data))
        rows = Rows(self.source, self.unverified)
        for split in (tests, "train") if has_training else (tests,):  # what the test has is not taught
            for number, row in enumerate(data[split]):
                self._add(rows, f"{split}[{number}]", row)
        rows.settle()
        splits = hub.divided((where.startswith(f"{tests}["), example) for where, example in rows.examples)
        return splits if has_training else {"test": splits["test"]}

    def _add(self, rows: Rows, where: str, row: Mapping[str, Any]) -> None:
        """Add a row of the benchmark as a problem; a letter is always an example of itself."""
        hub.columns("ssmr", self.path, row, COLUMNS)
        texts = {name: str(row[name] or "").strip() for name in COLUMNS}
        question, abc, answer = (texts[name] for name in ("question", "abc_context", "correct_answer"))
        choices = [answer, *(texts[name] for name in WRONG)]
        if missing := [name for name in COLUMNS if name != "abc_context" and not texts[name]]:
            return rows.leave(where, f"has no {', '.join(missing)}")
        if answer in choices[1:]:
            return rows.leave(where, f"its right answer {answer!r} is one of its wrong ones")
        category = texts["category"].lower().split("-")[0]
        subtask = SUBTASKS.get(category, category)
        problem = Problem(subtask, question, abc, "letter", "", answer, choices[1:])
        random.Random(f"{question}\n{abc}\n{answer}").shuffle(choices)
        return rows.add(where, self.example(problem, choices), answer)
