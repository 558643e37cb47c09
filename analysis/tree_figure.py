"""The figure of the trees that the best strategies stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import pandas as pd

from analysis.curves import best_searches
from analysis.paths import path_of
from analysis.tables import Tables
from llmzero.studies.figures import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {
    "completed": "o",
    "stopped": "s",
    "failed": "X",
    "running": "D",
    "queued": "D",
    "proposing": "D",
    "withdrawn": ".",
}
SCORES = "viridis"  # light means good, in grey and for the colour-blind too


def trees(tables: Tables, width: float) -> Figure | None:
    """Return a panel for each task, `width` inches wide, with the tree of its best search, if there is one.

    Depth runs from left to right, every leaf has a line of its own, and the best path is bold.
    """
    best = list(best_searches(tables.searches))
    if not best:
        return None
    figure, axes = panels(len(best), width, 3.2)
    for (task, search), axis in zip(best, axes, strict=True):
        stages = tables.of([search["search"]]).stages
        _draw_tree(axis, stages, path_of(stages, search["best_node"]))
        axis.set(
            title=f"{task}\n{search['name']}, seed {search['seed']}", xlabel="stages from the base model"
        )
    keys = [
        mpl.lines.Line2D([], [], color="0.5", marker=marker, linestyle="", label=state)
        for state, marker in MARKERS.items()
        if state not in ("queued", "proposing", "withdrawn")
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, handletextpad=0.2)
    return figure


def _draw_tree(axis: Axes, stages: pd.DataFrame, best_path: list[str]) -> None:
    heights, depths = _heights(stages), stages.set_index("node")["depth"]
    for node, parent in zip(stages["node"], stages["parent"], strict=True):
        if isinstance(parent, str):
            bold = node in best_path
            axis.plot(
                [depths[parent], depths[node]],
                [heights[parent], heights[node]],
                color="black" if bold else "0.75",
                linewidth=1.8 if bold else 0.7,
                zorder=1 + bold,
            )
    scores = stages["score"].astype(float)
    norm = mpl.colors.Normalize(scores.min(), scores.max())
    for state, group in stages.groupby("state"):
        axis.scatter(
            group["depth"],
            [heights[node] for node in group["node"]],
            c=group["score"].astype(float),
            cmap=SCORES,
            norm=norm,
            plotnonfinite=True,
            marker=MARKERS[str(state)],
            s=26,
            zorder=3,
            edgecolors="0.3",
            linewidths=0.4,
        )
    colours = mpl.cm.ScalarMappable(norm, SCORES)
    axis.figure.colorbar(colours, ax=axis, label="validation score", shrink=0.6, pad=0.02)
    axis.set(yticks=[], xticks=range(int(stages["depth"].max()) + 1))
    axis.spines["left"].set_visible(False)


def _heights(stages: pd.DataFrame) -> dict[str, float]:
    """Return the height of each node: leaves in depth-first order, a parent midway between its children."""
    children = {node: list(group["node"]) for node, group in stages.groupby("parent")}
    walk, stack = [], [stages["node"].iloc[0]]
    while stack:
        walk.append(stack.pop())
        stack.extend(children.get(walk[-1], ()))
    heights: dict[str, float] = {}
    leaves = 0
    for node in reversed(walk):
        below = [heights[child] for child in children.get(node, ())]
        heights[node] = sum(below) / len(below) if below else float(leaves)
        leaves += not below
    return heights
