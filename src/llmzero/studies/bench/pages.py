"""The results of the bench for people: `bench.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmzero.studies.bench.summary import ALL
from llmzero.studies.tables import markdown

Scores = Mapping[str, Any]
NOTES = """\
Regret: validation score of the best alternative that was recorded minus that of the proposed stage, mean ±
standard error over points; of chance: as a share of what a random choice gives away. Test: test score of the
alternative that is best by validation minus that of the proposed stage. Path: best score below the best
alternative minus that below the proposed stage. docs/bench.md explains.
"""


def bench_page(record: Mapping[str, Any]) -> str:
    """Return `bench.md` of the content of `bench.json`."""
    points, summary = record["points"], record["summary"]
    matter = sum(point["matters"] for point in points.values())
    tasks = [task for task in summary if task != ALL]
    parts = [
        f"# Agent bench\n\n{len(points)} decision points of {', '.join(tasks)}; at {matter} of them "
        "the choice matters beyond noise.\n",
        NOTES,
        "## All tasks\n",
        _table(CHOICES, summary[ALL]),
        "## By task: regret, and regret of the path, as shares of chance\n",
        _by_task(summary, tasks),
    ]
    asked = {name: scores for name, scores in summary[ALL].items() if scores.get("validity")}
    if asked:
        parts += ["## Answers\n", _table(ANSWERS, asked)]
    foreseen = {name: scores for name, scores in asked.items() if scores.get("brier", {}).get("n")}
    if foreseen:
        parts += ["## What was expected\n", _table(FORESIGHT, foreseen)]
    return "\n".join(parts)


def _table(columns: Mapping[str, Callable[[Scores], str]], rows: Mapping[str, Scores]) -> str:
    body = [[name, *(text(scores) for text in columns.values())] for name, scores in rows.items()]
    return markdown(["agent", *columns], body)


def _by_task(summary: Mapping[str, Mapping[str, Scores]], tasks: list[str]) -> str:
    columns = [(task, kind) for task in tasks for kind in ("val", "path")]
    rows = [
        [name, *(_mean(summary[task][name][f"of_chance_{kind}"], 2) for task, kind in columns)]
        for name in summary[ALL]
    ]
    head = [task if kind == "val" else f"{task}, path" for task, kind in columns]
    return markdown(["agent", *head], rows)


def _mean(value: Mapping[str, Any], digits: int = 3) -> str:
    if value["mean"] is None:
        return "-"
    error = "" if value["stderr"] is None else f" ± {value['stderr']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{error}"


def _of(name: str, digits: int = 3) -> Callable[[Scores], str]:
    return lambda scores: _mean(scores[name], digits)


def _number(name: str, form: str) -> Callable[[Scores], str]:
    return lambda scores: "-" if scores[name] is None else format(scores[name], form)


def _counted(key: str, name: str) -> Callable[[Scores], str]:
    return lambda scores: str(scores[key][name])


CHOICES: Mapping[str, Callable[[Scores], str]] = {
    "points": lambda scores: str(scores["points"] - scores["unanswered"]),
    "regret": _of("regret_val"),
    "of chance": _of("of_chance_val", 2),
    "test": _of("regret_test"),
    "test, of chance": _of("of_chance_test", 2),
    "path": _of("regret_path"),
    "path, of chance": _of("of_chance_path", 2),
    "path, test": _of("regret_path_test"),
}
ANSWERS: Mapping[str, Callable[[Scores], str]] = {
    "valid at first": _counted("validity", "first"),
    "after repair": _counted("validity", "repaired"),
    "in part": _counted("validity", "part"),
    "never": _counted("validity", "never"),
    "continue": _counted("actions", "continue"),
    "close": _counted("actions", "close"),
    "elsewhere": _number("elsewhere", "d"),
    "not recorded": _number("not_recorded", "d"),
    "calls": _number("calls", "d"),
    "tokens": _number("tokens", ",d"),
    "dollars": _number("dollars", ".2f"),
    "seconds a call": _number("seconds_a_call", ".1f"),
}
FORESIGHT: Mapping[str, Callable[[Scores], str]] = {
    "Brier, parent": _of("brier"),
    "Brier, best": _of("brier_best"),
    "80 % intervals hold": _of("coverage", 2),
    "width": _of("width"),
    "score off by": _of("score_error"),
    "bias": _of("score_bias"),
    "directions right": _of("directions", 2),
}
