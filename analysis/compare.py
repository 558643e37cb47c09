"""Methods compared from searches that are there already: `python -m analysis.compare --help`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.curves import named
from analysis.load import Tables, load, parser_of, publish
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.studies.figures import comparison_figures
from llmzero.studies.methods import comparison
from llmzero.studies.runs import Run, Runs
from llmzero.studies.tables import comparison_table

REPLAY = "replay"  # searches of that method repeat a strategy, and search nothing

HELP = """\
Compare the methods of finished searches, as launchers/compare.py does for a study: final test scores, area under the best-so-far
curve, bootstrap intervals, probability of improvement, Wilcoxon tests with Holm's correction, compute saved, calls and dollars.

Searches count as of the same method where method, agent and stopper are the same, and are paired by their seeds. They need
search.test_incumbents=true; others are left out, and named. docs/comparison.md explains the numbers.
"""
EXAMPLES = """\
examples:
  python -m analysis.compare runs/nano
  python -m analysis.compare runs/mine runs/yours --first "llmzero, rules" --out compared
"""


def compared(tables: Tables, first: str | None = None) -> dict[str, Any]:
    """Return all numbers of a comparison; `first` is the method that is set against the others, else the one with most runs.

    Raises:
        UserError: there is nothing to compare, or two searches of one method on a task have the same seed.
    """
    searches = named(tables.searches)
    runs = list(_runs(searches))
    if not runs:
        raise UserError(
            "no finished search has test scores of its incumbents: run them with search.test_incumbents=true"
        )
    methods = list(pd.Series([each.method for each in runs]).value_counts(sort=True).index)
    if first is not None and first not in methods:
        raise UserError(f"--first {first!r}: must be one of {', '.join(map(repr, methods))}")
    leader = first or methods[0]
    methods = [leader, *(method for method in methods if method != leader)]
    tasks = list(dict.fromkeys(each.task for each in runs))
    budgets = {
        task: max(each.summary["budget"]["stages"] for each in runs if each.task == task) for task in tasks
    }
    others = set(searches["search"][searches["method"] != REPLAY])
    left_out = [
        f"{name} (or not with search.test_incumbents=true)"
        for name in sorted(others - {each.summary["search"] for each in runs})
    ]
    return comparison(Runs(runs, budgets), methods, tasks, sorted({each.seed for each in runs}), left_out)


def _runs(searches: pd.DataFrame) -> Iterator[Run]:
    """Yield the searches that have finished and measured their incumbents."""
    seen: dict[tuple[str, str, int], str] = {}
    for row in searches.to_dict("records"):
        summary = read_json(Path(row["search"]) / "summary.json") or {}
        if summary.get("state") != "finished" or "trajectory" not in (summary.get("test") or {}):
            continue
        place = (row["name"], row["task"], int(row["seed"]))
        if place in seen:
            raise UserError(
                f"{row['search']} and {seen[place]}: both are {row['name']} on {row['task']} with seed {row['seed']}; leave one out"
            )
        seen[place] = row["search"]
        yield Run.of(*place, {**summary, "search": row["search"]})


def main() -> None:
    """Print the table of the directories given, and write it with numbers and figures."""
    parser = parser_of("compare", HELP, EXAMPLES)
    parser.add_argument(
        "--first", metavar="METHOD", help="the method that is set against the others, as the table names it"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where comparison.json, comparison.md and the figures go"
    )
    given = parser.parse_args()
    found = compared(load(given.directories), given.first)
    publish("comparison", found, comparison_table(found), given.out)
    if given.out:
        comparison_figures(given.out, found)


if __name__ == "__main__":
    run_command(main)
