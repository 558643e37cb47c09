"""What searches had reached after each stage, for figures and tables: `python -m analysis.curves runs/a`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.commands import print_table, search_parser
from analysis.load import load_ended
from analysis.tables import Tables
from llmzero.cli import run_command
from llmzero.tree.outcomes import read_test

NEW = ("test_constant", "flops")  # columns that tables of earlier versions lack

HELP = """\
Print, as CSV, what each search had spent and its best validation score after each stage that ended. The base
model comes first, after 0 stages.
"""
EXAMPLES = """\
examples:
  python -m analysis.curves runs/countdown
  python -m analysis.curves runs/study > curves.csv
"""


def with_method_names(searches: pd.DataFrame) -> pd.DataFrame:
    """Return the searches with a column `name`, and without gaps in `task`.

    The name is the method, followed by agent and stopper where searches of that method differ in them.
    """
    name = searches["method"].astype(str)
    for part in ("agent", "stopper"):
        several = searches.groupby("method")[part].transform("nunique") > 1
        name = name.where(~several, name + ", " + searches[part].astype(str))
    new = {column: np.nan for column in NEW if column not in searches}
    return searches.assign(name=name, task=searches["task"].fillna("no task").astype(str), **new)


def best_so_far(tables: Tables) -> pd.DataFrame:
    """Return what each search had spent and its best validation score, after each stage that ended; `flops`
    is missing where it is unknown.

    Rows are ordered by search and by the end of stages. The base model comes first, after 0 stages.
    """
    ended = tables.stages.dropna(subset=["finished_order"]).sort_values(["search", "finished_order"])
    trained = ended["parent"].notna()
    by = ended["search"]
    seconds, scores = ended["gpu_seconds"].astype(float), ended["score"].astype(float)
    flops = ended.get("flops", pd.Series(np.nan, ended.index)).astype(float)
    return pd.DataFrame(
        {
            "search": by,
            "node": ended["node"],
            "stages": trained.groupby(by).cumsum(),
            "gpu_seconds": seconds.where(trained, 0.0).fillna(0.0).groupby(by).cumsum(),
            "flops": flops.where(trained, 0.0).groupby(by).cumsum(),
            "best": scores.fillna(-np.inf).groupby(by).cummax(),
        }
    )


def scores_on_test(search: str) -> pd.DataFrame:
    """Return the test scores of a search directory: of the base model, and of each incumbent.

    An incumbent is a stage that was the best by validation when it ended. A search without
    `search.test_incumbents=true` has scores of the base model and of the best stage alone.
    """
    test = read_test(Path(search)) or {}
    ends = []
    if test:
        ends = [
            {"node_id": "0000", "stages": 0, "gpu_seconds": 0.0, "flops": 0.0, **test["base"]},
            test["best"],
        ]
    points = test.get("trajectory", ends)
    table = pd.DataFrame(points, columns=["node_id", "stages", "gpu_seconds", "flops", "score", "stderr"])
    return table.rename(columns={"node_id": "node"})


def best_searches(searches: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield each task with its search of the highest validation score, if that beats its base model."""
    usable = with_method_names(searches[searches["best_depth"].fillna(0) > 0])
    for task, group in usable.groupby("task"):
        yield str(task), group.loc[group["best_score"].astype(float).idxmax()]


def main() -> None:
    """Print the rows of the directories on the command line."""
    arguments = search_parser("curves", HELP, EXAMPLES).parse_args()
    print_table(best_so_far(load_ended(arguments.directories)))


if __name__ == "__main__":
    run_command(main)
