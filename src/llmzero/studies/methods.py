"""The numbers of a comparison, by method: `comparison.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from llmzero.core.errors import UserError
from llmzero.search.final_test import FAILED
from llmzero.studies.runs import Run, Runs, finished_runs
from llmzero.studies.statistics import (
    Array,
    band,
    holm,
    improvement,
    interquartile_mean,
    interval,
    mean_interval,
    ranks,
    step_function,
    wilcoxon,
)
from llmzero.studies.study import Study

TIME_POINTS = 100
LLM = {"calls": "llm_calls", "tokens": "llm_tokens", "dollars": "llm_dollars"}
STOPPER = ("stopped", "saved_gpu_seconds", "audited", "false_kills")

Value = Callable[[Run], float]
Scaled = Callable[[Run, float], float]  # a test score of a run, normalised or as it is


def check_budgets(study: Study) -> None:
    """Raise `UserError` where methods have different budgets on a task: they could not be compared."""
    for task in study.tasks:
        first, *others = (pair for pair in study.pairs if pair.task == task)
        for pair in others:
            differing = [
                key
                for key, limit in asdict(first.config.budget).items()
                if getattr(pair.config.budget, key) != limit
            ]
            if differing:
                key = f"budget.{differing[0]}"
                limits = " and ".join(
                    f"{getattr(one.config.budget, differing[0])} for methods.{one.row}"
                    for one in (first, pair)
                )
                raise UserError(
                    f"{key} on tasks.{task}: is {limits}; "
                    "give all methods the same, in common or with the task"
                )


def compared(study: Study) -> dict[str, Any]:
    """Return all numbers of a comparison."""
    runs = Runs(finished_runs(study), _stage_budgets(study))
    unfinished = [str(cell) for cell in study.unfinished]
    numbers = comparison(runs, study.rows, study.tasks, study.seeds, unfinished)
    return {**numbers, FAILED: study.failed}


def comparison(
    runs: Runs,
    rows: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    unfinished: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of `comparison.json`.

    `rows` are the methods; the first is compared with each other one. A method without a finished search on a
    task is left out there, and that task is left out of `overall`, so that it compares on the same tasks.
    """
    methods = {task: [method for method in rows if runs.on(task, method)] for task in tasks}
    complete = [task for task in tasks if methods[task] == list(rows)]
    return {
        "methods": list(rows),
        "tasks": list(tasks),
        "complete_tasks": complete,
        "seeds": list(seeds),
        "budget_stages": runs.budgets,
        "unfinished": list(unfinished),
        "per_task": {
            task: _table(runs, [task], methods[task], rows[0], lambda run, score: score) for task in tasks
        },
        "overall": _table(runs, complete, rows, rows[0], runs.normalised) if complete else {},
        "curves": {task: _curves(runs, task, methods[task]) for task in tasks},
        "runs": [_run_entry(runs, run) for run in runs.runs],
    }


def _stage_budgets(study: Study) -> dict[str, int]:
    """Return each task's budget in stages, or where there is no such limit the most that a search trained."""
    limits = {pair.task: pair.config.budget.stages for pair in study.pairs}
    trained = dict.fromkeys(study.tasks, 1)
    for cell in study.cells:
        if summary := cell.summary():
            trained[cell.pair.task] = max(trained[cell.pair.task], summary["budget"]["stages"])
    return {task: limits[task] or trained[task] for task in study.tasks}


def _table(
    runs: Runs, tasks: Sequence[str], methods: Sequence[str], first: str, scaled: Scaled
) -> dict[str, Any]:
    """Return the numbers of each method on some tasks; `against` is None where `first` has no runs there."""

    def final(run: Run) -> float:
        return scaled(run, run.final)

    scores = {method: _scores(runs, tasks, method, final) for method in methods}
    rank = _mean_ranks(runs, tasks, methods)
    against = _against(runs, tasks, methods, final) if first in methods else {}
    return {
        method: {
            "runs": sum(map(len, scores[method])),
            "final": asdict(mean_interval(scores[method])),
            "final_iqm": asdict(interval(interquartile_mean, scores[method])),
            "confirmed": _confirmed(runs, tasks, method, scaled),
            "area": asdict(mean_interval(_scores(runs, tasks, method, runs.area))),
            "rank": rank[method],
            "against": against.get(method),
            **_spent([run for task in tasks for run in runs.on(task, method)]),
        }
        for method in methods
    }


def _scores(runs: Runs, tasks: Sequence[str], method: str, value: Value) -> list[Array]:
    return [np.array([value(run) for run in runs.on(task, method)]) for task in tasks]


def _confirmed(runs: Runs, tasks: Sequence[str], method: str, scaled: Scaled) -> dict[str, float] | None:
    """Return the mean test score of a method's confirmed strategies; None where a run has none."""
    of_tasks = [[(run, run.confirmed) for run in runs.on(task, method)] for task in tasks]
    if any(score is None for pairs in of_tasks for _, score in pairs):
        return None
    scores = [
        np.array([scaled(run, score) for run, score in pairs if score is not None]) for pairs in of_tasks
    ]
    return asdict(mean_interval(scores))


def _mean_ranks(runs: Runs, tasks: Sequence[str], methods: Sequence[str]) -> dict[str, float | None]:
    """Return mean ranks by final test score, over the tasks and seeds that all methods finished."""
    finals = {(run.method, run.task, run.seed): run.final for run in runs.runs}
    pairs = dict.fromkeys((run.task, run.seed) for run in runs.runs if run.task in tasks)
    rows = [[finals.get((method, task, seed)) for method in methods] for task, seed in pairs]
    complete = np.array([row for row in rows if None not in row], float)
    means = ranks(complete).mean(axis=0).tolist() if len(complete) else [None] * len(methods)
    return dict(zip(methods, means, strict=True))


def _against(runs: Runs, tasks: Sequence[str], methods: Sequence[str], final: Value) -> dict[str, Any]:
    """Return, by method, how far and how probably the first is above it, and p-values on the same seeds."""
    first, *others = methods
    ours = _scores(runs, tasks, first, final)
    theirs = {other: _scores(runs, tasks, other, final) for other in others}
    p_values = [wilcoxon(*_paired(runs, tasks, first, other, final)) for other in others]
    return {
        other: {
            "difference": asdict(mean_interval(ours, theirs[other])),
            "improvement": asdict(interval(improvement, ours, theirs[other])),
            "p_wilcoxon": p,
            "p_holm": corrected,
        }
        for other, p, corrected in zip(others, p_values, holm(p_values), strict=True)
    }


def _paired(runs: Runs, tasks: Sequence[str], a: str, b: str, value: Value) -> tuple[Array, Array]:
    """Return the scores of two methods on the tasks and seeds that both finished."""
    of_a, of_b = (
        {(run.task, run.seed): value(run) for task in tasks for run in runs.on(task, method)}
        for method in (a, b)
    )
    shared = [key for key in of_a if key in of_b]
    return np.array([of_a[key] for key in shared]), np.array([of_b[key] for key in shared])


def _spent(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the runs of a method cost, in the mean, and in sum what its early stopper did."""
    gpu_seconds = [run.summary["budget"]["gpu_seconds"] for run in runs]
    flops = [run.summary["budget"].get("flops") for run in runs]
    stopper = {key: sum(run.summary["stopper"][key] for run in runs) for key in STOPPER}
    planned = sum(gpu_seconds) + stopper["saved_gpu_seconds"]
    return {
        "gpu_seconds": float(np.mean(gpu_seconds)),
        "flops": None if None in flops else float(np.mean(flops)),
        "stopper": {**stopper, "saved_share": stopper["saved_gpu_seconds"] / planned if planned else 0.0},
        "llm": {
            name: float(np.mean([run.summary["budget"][key] for run in runs])) for name, key in LLM.items()
        },
    }


def _curves(runs: Runs, task: str, methods: Sequence[str]) -> dict[str, Any]:
    """Return the test scores that each method would have delivered over stages, compute and device seconds;
    compute is left out where it is unknown of a run.
    """
    own = [run for run in runs.runs if run.task == task]
    axes: dict[str, tuple[Array, Callable[[Run], Any]]] = {
        "stages": (np.arange(runs.budgets[task] + 1, dtype=float), lambda run: run.stages),
        "gpu_seconds": (_grid(own, "gpu_seconds"), lambda run: run.times),
    }
    if all(run.flops is not None for run in own):
        axes["flops"] = (_grid(own, "flops"), lambda run: run.flops)
    return {
        method: {
            name: _band(grid, [step_function(spent(run), run.scores, grid) for run in runs.on(task, method)])
            for name, (grid, spent) in axes.items()
        }
        for method in methods
    }


def _grid(runs: Sequence[Run], name: str) -> Array:
    """Return points up to the most that a run has spent."""
    return np.linspace(0.0, max((run.summary["budget"][name] for run in runs), default=0.0), TIME_POINTS)


def _band(grid: Array, curves: Sequence[Array]) -> dict[str, list[float]]:
    middle, low, high = band(np.array(curves))
    return {"at": grid.tolist(), "mean": middle.tolist(), "low": low.tolist(), "high": high.tolist()}


def _run_entry(runs: Runs, run: Run) -> dict[str, Any]:
    return {
        **{name: getattr(run, name) for name in ("method", "task", "seed", "base", "final")},
        "validation": run.summary["best"]["score"],
        "normalised": runs.normalised(run, run.final),
        "confirmed": run.confirmed,
        "area": runs.area(run),
    }
