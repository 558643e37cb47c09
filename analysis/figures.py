"""Draws the figures of a study as PDF and PNG: `python -m analysis.figures --help`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from analysis.commands import search_parser
from analysis.curves import best_so_far, scores_on_test, with_method_names
from analysis.load import load_ended
from analysis.strategy_figure import strategies
from analysis.tables import Tables
from analysis.tree_figure import trees
from llmzero.cli import run_command
from llmzero.core.settings import path_argument
from llmzero.studies.figures import NO_MATH, panels, save_figure, styles
from llmzero.studies.statistics import band, step_function

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches, the width of a column of a paper
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    **NO_MATH,
}
GRID_POINTS = 100
COMPUTE = "compute, FLOPs"
TEST_SCORES = {
    "test_best": "best strategy",
    "test_constant": "best constant",
    "test_practitioner": "practitioner",
    "test_base": "base model",
}

HELP = """\
Draw the figures of a study from its searches, as PDF for papers and PNG for the screen:

  test_over_compute, test_over_cost
                  test score of the best by validation over compute and over device seconds
                  (search.test_incumbents=true)
  best_over_compute, best_so_far
                  best validation score over compute and over stages
  strategies      of each task the best strategy: its scores, and where each hyperparameter stands along it
  scaling         test scores of base, practitioner and best over models (searches of several models)
  tree            of each task the tree of the search that got furthest

Lines are means over searches, bands the 95 % interval of the mean. What the searches do not tell is left out,
and said.
"""
EXAMPLES = """\
examples:
  python -m analysis.figures runs/nano --out figures
  python -m analysis.figures runs/small runs/large --out figures
"""


def test_over(tables: Tables, cost: str, label: str) -> Figure | None:
    """Return test scores of the incumbents over a cost; None where no search measured both."""
    searches = with_method_names(tables.searches)
    points = {search: scores_on_test(search) for search in searches["search"]}
    complete = [
        len(table) > 0 and table[["stages", cost]].notna().all(axis=None) for table in points.values()
    ]
    return _curves(searches[complete], points, cost, "score", label, "test score")


def best_over(tables: Tables, cost: str, label: str) -> Figure | None:
    """Return best validation scores over a cost; None where no stage has ended of which it is known."""
    groups = best_so_far(tables).groupby("search")
    points = {str(search): table for search, table in groups if table[cost].notna().all()}
    searches = with_method_names(tables.searches)
    searches = searches[searches["search"].isin(points)]
    return _curves(searches, points, cost, "best", label, "best validation score")


def _curves(
    searches: pd.DataFrame, points: dict[str, pd.DataFrame], x: str, y: str, xlabel: str, ylabel: str
) -> Figure | None:
    """Return a panel for each task with a line for each method: the mean over its searches, and its interval.

    Args:
        searches: the searches, with their method names.
        points: of each search the points of its step function, in the columns `x` and `y`.
        x: a column of the points.
        y: another.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
    """
    if searches.empty:
        return None
    looks = styles(sorted(searches["name"].unique()))
    tasks = list(searches.groupby("task"))
    figure, axes = panels(len(tasks), COLUMN, 2.4)
    for (task, group), axis in zip(tasks, axes, strict=True):
        grid = np.linspace(0.0, max(points[search][x].max() for search in group["search"]), GRID_POINTS)
        for name, own in group.groupby("name"):
            curves = np.array(
                [
                    step_function(points[search][x].to_numpy(float), points[search][y].to_numpy(float), grid)
                    for search in own["search"]
                ]
            )
            (colour, dash), (middle, low, high) = looks[str(name)], band(curves)
            axis.step(grid, middle, dash, where="post", color=colour, label=f"{name} ({len(own)})")
            if len(curves) > 1:
                axis.fill_between(grid, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axis.set(title=task, xlabel=xlabel, ylabel=ylabel)
        axis.legend(frameon=False)
    return figure


def scaling(tables: Tables) -> Figure | None:
    """Return test scores over models, a panel for each task; None where there is but one model."""
    searches = with_method_names(tables.searches.dropna(subset=["test_best", "model"]))
    if searches["model"].nunique() < 2:
        return None
    tasks = list(searches.groupby("task"))
    looks = styles(list(TEST_SCORES))
    figure, axes = panels(len(tasks), COLUMN, 2.4)
    for (task, group), axis in zip(tasks, axes, strict=True):
        models = list(dict.fromkeys(group["model"]))
        for column, label in TEST_SCORES.items():
            if group[column].isna().all():
                continue
            colour, dash = looks[column]
            scores = [group.loc[group["model"] == model, column].dropna().astype(float) for model in models]
            axis.errorbar(
                models,
                [values.mean() for values in scores],
                [values.sem() if len(values) > 1 else 0.0 for values in scores],
                fmt=f"o{dash}",
                color=colour,
                label=label,
            )
        axis.set(title=task, xlabel="model", ylabel="test score")
        axis.legend(frameon=False)
    return figure


FIGURES: dict[str, Callable[[Tables], Figure | None]] = {
    "test_over_compute": lambda tables: test_over(tables, "flops", COMPUTE),
    "test_over_cost": lambda tables: test_over(tables, "gpu_seconds", "device seconds"),
    "best_over_compute": lambda tables: best_over(tables, "flops", COMPUTE),
    "best_so_far": lambda tables: best_over(tables, "stages", "stages"),
    "strategies": lambda tables: strategies(tables, COLUMN),
    "scaling": scaling,
    "tree": lambda tables: trees(tables, COLUMN),
}


def draw(tables: Tables) -> dict[str, Figure]:
    """Return by name the figures that the searches have data for."""
    with mpl.rc_context(STYLE):
        figures = {name: make(tables) for name, make in FIGURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def save_all(figures: dict[str, Figure], directory: Path) -> None:
    """Write figures into a directory, as PDF and PNG."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(directory / name, figure)


def main() -> None:
    """Draw the figures of the directories on the command line."""
    parser = search_parser("figures", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR", help="where the figures go"
    )
    arguments = parser.parse_args()
    figures = draw(load_ended(arguments.directories))
    save_all(figures, arguments.out)
    for name in FIGURES:
        if name in figures:
            print(f"{arguments.out / name}.pdf and .png")
        else:
            print(f"{name}: left out, the searches do not tell enough (see --help)")


if __name__ == "__main__":
    run_command(main)
