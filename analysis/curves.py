"""What searches had reached after each stage: the rows behind figures and comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.load import Tables
from analysis.paths import path_to
from llmzero.core.files import read_json

Array = NDArray[np.float64]

TOLD_APART = (
    "agent",
    "stopper",
)  # what a method's name is joined by where searches of one method differ in it


def named(searches: pd.DataFrame) -> pd.DataFrame:
    """Return the searches with a column `name`: the method, with agent and stopper where searches of one method differ in them."""
    name = searches["method"].astype(str)
    for part in TOLD_APART:
        several = searches.groupby("method")[part].transform("nunique") > 1
        name = name.where(~several, name + ", " + searches[part].astype(str))
    return searches.assign(name=name, task=searches["task"].fillna("no task").astype(str))


def best_so_far(tables: Tables) -> pd.DataFrame:
    """Return for each search and each stage that ended, in this order, what was spent by then and the best validation score.

    The base model comes first, after 0 stages.
    """
    ended = tables.stages.dropna(subset=["finished_order"]).sort_values(["search", "finished_order"])
    trained = ended["parent"].notna()
    by = ended["search"]
    return pd.DataFrame(
        {
            "search": by,
            "node": ended["node"],
            "stages": trained.groupby(by).cumsum(),
            "gpu_seconds": ended["gpu_seconds"].where(trained, 0.0).fillna(0.0).groupby(by).cumsum(),
            "best": ended["score"].fillna(-np.inf).groupby(by).cummax(),
        }
    )


def scores_on_test(search: str) -> pd.DataFrame:
    """Return the test scores of a search: of the base model, and of each stage that was the best by validation when it ended.

    They are in the directory of a search that ran with `search.test_incumbents=true`; of others there are base and best alone.
    """
    test = read_json(Path(search) / "test.json") or {}
    ends = (
        [{"node_id": "0000", "stages": 0, "gpu_seconds": 0.0, **test["base"]}, test["best"]] if test else []
    )
    points = test.get("trajectory", [{**end, "stages": end.get("stages")} for end in ends])
    return pd.DataFrame(points, columns=["node_id", "stages", "gpu_seconds", "score", "stderr"]).rename(
        columns={"node_id": "node"}
    )


def path_of(stages: pd.DataFrame, end: str) -> list[str]:
    """Return the nodes from the base model to a node of a search, whose stages these are."""
    return path_to(
        {
            node: parent if isinstance(parent, str) else None
            for node, parent in zip(stages["node"], stages["parent"], strict=True)
        },
        end,
    )
