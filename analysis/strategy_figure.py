"""The figure of the best strategies: scores and hyperparameters along the best path of each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import pandas as pd

from analysis.curves import best_searches, scores_on_test
from analysis.paths import path_of
from analysis.tables import Tables
from llmzero.studies.figures import styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = ("capacity", "regularization", "optimization")


def strategies(tables: Tables, width: float) -> Figure | None:
    """Return a column of panels for each task, `width` inches wide; None where no search has trained a stage.

    The upper panel shows scores along the best path, the lower ones the positions of the hyperparameters that
    change along it, a panel for each group.
    """
    best = list(best_searches(tables.searches))
    if not best:
        return None
    figure = mpl.figure.Figure(figsize=(width * len(best), 6.6), layout="constrained")
    axes = figure.subplots(
        1 + len(GROUPS), len(best), sharex="col", squeeze=False, height_ratios=[1.4, 1, 1, 1]
    )
    for column, (task, search) in enumerate(best):
        own = tables.of([search["search"]])
        path = path_of(own.stages, search["best_node"])
        borders = _draw_scores(axes[0, column], own, path)
        axes[0, column].set(title=f"{task}\n{search['name']}, seed {search['seed']}", ylabel="score")
        for row, group in enumerate(GROUPS, 1):
            looks = styles(sorted(tables.changes.loc[tables.changes["group"] == group, "parameter"].unique()))
            changes = own.changes[own.changes["group"] == group]
            _draw_positions(axes[row, column], changes, path, borders, looks)
            axes[row, column].set(ylabel=group)
        axes[-1, column].set(xlabel="GRPO steps")
    return figure


def _draw_scores(axis: Axes, own: Tables, path: list[str]) -> list[float]:
    """Draw validation and test scores along a path; return the GRPO steps at which its stages end.

    Each stage is drawn up to the step from which its child goes on.
    """
    validations = [own.validation[own.validation["node"] == node] for node in path]
    starts = [float(points["global_step"].min()) for points in validations[1:]]
    best_step = own.stages.set_index("node")["best_step"].get(path[-1])
    segments = [
        points[points["global_step"] < start] for points, start in zip(validations, starts, strict=False)
    ]
    segments.append(validations[-1][validations[-1]["step"] <= best_step])
    line = pd.concat(segments)
    axis.plot(line["global_step"], line["score"], color="#0072B2", label="validation")
    borders = [float(points["global_step"].max()) for points in segments]
    test = scores_on_test(str(own.searches["search"].iloc[0])).set_index("node")["score"]
    tested = [(step, test[node]) for node, step in zip(path, borders, strict=True) if node in test.index]
    steps, scores = [step for step, _ in tested], [score for _, score in tested]
    axis.plot(steps, scores, "o", color="#D55E00", markersize=4, label="test")
    _draw_borders(axis, borders)
    axis.legend(frameon=False)
    return borders


def _draw_borders(axis: Axes, borders: list[float]) -> None:
    """Draw a line wherever a stage ends and another begins."""
    for border in borders[1:-1]:
        axis.axvline(border, color="0.85", linewidth=0.8, zorder=0)


def _draw_positions(
    axis: Axes,
    changes: pd.DataFrame,
    path: list[str],
    borders: list[float],
    looks: dict[str, tuple[str, str]],
) -> None:
    """Draw where the parameters that change along a path stand in each stage; a marker is where they began.

    Args:
        axis: the panel.
        changes: the search's changes of parameters of one group.
        path: the nodes of the path.
        borders: the GRPO steps at which its stages end.
        looks: colour and dash of each parameter.
    """
    own = changes[changes["node"].isin(path)]
    for name, rows in own.groupby("parameter"):
        after = rows.set_index("node")["position_after"]
        levels = [float(rows.sort_values("depth")["position_before"].iloc[0])]
        for node in path[1:]:
            levels.append(float(after.get(node, levels[-1])))
        colour, dash = looks[str(name)]
        axis.stairs(
            levels[1:], borders, baseline=None, color=colour, linestyle=dash, linewidth=1.5, label=str(name)
        )
        axis.plot(0, levels[0], ">", color=colour, markersize=3, clip_on=False)
    axis.set(ylim=(-0.06, 1.06), yticks=[0, 1], yticklabels=["low", "high"])
    _draw_borders(axis, borders)
    if len(own):
        axis.legend(frameon=False, fontsize=6, ncols=2, loc="best")
    else:
        axis.text(0.5, 0.5, "unchanged", transform=axis.transAxes, ha="center", va="center", color="0.5")
