"""The finished cells of a comparison, in numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llmzero.studies.statistics import Array, normalised, step_function
from llmzero.studies.study import Study


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        stages, times, flops, scores: whenever another node became the best by validation: the stages, device
            seconds and compute spent until then, and its test score; `flops` None is unknown.
        base, final: test scores of the base model and of what the search delivered.
        summary: content of its `summary.json`.
    """

    method: str
    task: str
    seed: int
    stages: Array
    times: Array
    flops: Array | None
    scores: Array
    base: float
    final: float
    summary: dict[str, Any]

    @classmethod
    def of(cls, method: str, task: str, seed: int, summary: dict[str, Any]) -> Run:
        """Return the numbers of a finished search with `search.test_incumbents`."""
        test = summary["test"]
        points = test["trajectory"]
        stages, times, scores = (
            np.array([point[key] for point in points], float) for key in ("stages", "gpu_seconds", "score")
        )
        spent = [summary["budget"].get("flops"), *(point.get("flops") for point in points)]
        flops = None if None in spent else np.array(spent[1:], float)
        base, final = (test[name]["score"] for name in ("base", "best"))
        return cls(method, task, seed, stages, times, flops, scores, base, final, summary)

    @property
    def confirmed(self) -> float | None:
        """The mean test score over fresh seeds of what won its confirmation; None without one."""
        confirmation = self.summary["confirmation"]
        score: float | None = confirmation and confirmation["strategies"][confirmation["winner"]]["mean"]
        return score

    def over_stages(self, budget: int) -> Array:
        """Return the test score that it would have delivered after 1, 2, ... stages."""
        return step_function(self.stages, self.scores, np.arange(1, budget + 1, dtype=float))


def finished_runs(study: Study) -> list[Run]:
    """Return the runs of the finished cells, in the order of the study's cells."""
    return [
        Run.of(cell.pair.row, cell.pair.task, cell.seed, summary)
        for cell in study.cells
        if (summary := cell.summary()) is not None
    ]


@dataclass(frozen=True)
class Scale:
    """Normalises test scores of one task and seed: 0 is the base model, 1 the best of all methods."""

    low: float
    high: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Scale:
        """Return the scale of the runs of a task and a seed."""
        return cls(float(np.mean([run.base for run in runs])), max(float(run.scores.max()) for run in runs))

    def __call__(self, scores: Array) -> Array:
        """Return normalised scores."""
        return normalised(scores, self.low, self.high)


@dataclass(frozen=True)
class Runs:
    """All runs, and the stages that a search of each task may train."""

    runs: Sequence[Run]
    budgets: dict[str, int]

    @cached_property
    def scales(self) -> dict[tuple[str, int], Scale]:
        """The scale of each task and seed."""
        groups = defaultdict(list)
        for run in self.runs:
            groups[run.task, run.seed].append(run)
        return {key: Scale.of(group) for key, group in groups.items()}

    def on(self, task: str, method: str) -> list[Run]:
        """Return the runs of a method on a task, by seed."""
        return [run for run in self.runs if run.task == task and run.method == method]

    def area(self, run: Run) -> float:
        """Return the mean, over the stages of the budget, of the normalised test score delivered by then."""
        return float(self.scales[run.task, run.seed](run.over_stages(self.budgets[run.task])).mean())

    def normalised(self, run: Run, score: float) -> float:
        """Return a test score of a run on the scale of its task and seed."""
        return float(self.scales[run.task, run.seed](np.array(score)))
