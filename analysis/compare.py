"""Compares methods by searches that have finished: `python -m analysis.compare --help`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.commands import publish, search_parser
from analysis.curves import with_method_names
from analysis.load import load
from analysis.tables import Tables
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.settings import path_argument
from llmzero.studies.figures import comparison_figures
from llmzero.studies.methods import comparison
from llmzero.studies.runs import Run, Runs
from llmzero.studies.tables import comparison_table
from llmzero.tree.outcomes import read_summary

REPLAY = "replay"  # the method that repeats a strategy and searches nothing

HELP = """\
Compare the methods of finished searches, as launchers/compare.py does for a study: final test scores, area
under the best-so-far curve, bootstrap intervals, probability of improvement, Wilcoxon tests with Holm's
correction, compute saved, calls and dollars.

Searches count as of the same method where method, agent and stopper are the same, and are paired by their
seeds. They need search.test_incumbents=true; others are left out, and named. docs/comparison.md explains the
numbers.
"""
EXAMPLES = """\
examples:
  python -m analysis.compare runs/nano
  python -m analysis.compare runs/mine runs/yours --first "llmzero, rules" --out compared
"""


def compare(tables: Tables, first: str | None = None) -> dict[str, Any]:
    """Return the content of `comparison.json`.

    Args:
        tables: the searches.
        first: the method that the others are compared with; by default the one with most runs.

    Raises:
        UserError: there is nothing to compare, or two searches of one method on a task have the same seed.
    """
    searches = with_method_names(tables.searches)
    runs = list(_runs(searches))
    if not runs:
        raise UserError(
            "no finished search has test scores of its incumbents: run them with search.test_incumbents=true"
        )
    methods = list(pd.Series([run.method for run in runs]).value_counts(sort=True).index)
    if first is not None and first not in methods:
        raise UserError(f"--first {first!r}: must be one of {', '.join(map(repr, methods))}")
    first = first or methods[0]
    methods = [first, *(method for method in methods if method != first)]
    tasks = list(dict.fromkeys(run.task for run in runs))
    budgets = {
        task: max(run.summary["budget"]["stages"] for run in runs if run.task == task) for task in tasks
    }
    candidates = set(searches["search"][searches["method"] != REPLAY])
    unfinished = [
        f"{name} (or not with search.test_incumbents=true)"
        for name in sorted(candidates - {run.summary["search"] for run in runs})
    ]
    return comparison(Runs(runs, budgets), methods, tasks, sorted({run.seed for run in runs}), unfinished)


def _runs(searches: pd.DataFrame) -> Iterator[Run]:
    """Yield the searches that have finished and have test scores of their incumbents."""
    directories: dict[tuple[str, str, int], str] = {}
    for row in searches.to_dict("records"):
        directory = row["search"]
        summary = read_summary(Path(directory)) or {}
        if summary.get("state") != "finished" or "trajectory" not in (summary.get("test") or {}):
            continue
        name, task, seed = row["name"], row["task"], int(row["seed"])
        if other := directories.get((name, task, seed)):
            raise UserError(
                f"{directory} and {other}: both are {name} on {task} with seed {seed}; leave one out"
            )
        directories[name, task, seed] = directory
        yield Run.of(name, task, seed, {**summary, "search": directory})


def main() -> None:
    """Print the table, and write it with numbers and figures where --out says."""
    parser = search_parser("compare", HELP, EXAMPLES)
    parser.add_argument(
        "--first", metavar="METHOD", help="the method that is set against the others, as the table names it"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="where comparison.json, comparison.md and the figures go",
    )
    arguments = parser.parse_args()
    report = compare(load(arguments.directories), arguments.first)
    publish("comparison", report, comparison_table(report), arguments.out)
    if arguments.out:
        comparison_figures(arguments.out, report)


if __name__ == "__main__":
    run_command(main)
