"""The figures of a study, as PDF and PNG, each as wide as a column: `python -m analysis.figures --help`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from analysis.curves import Array, best_so_far, named, path_of, scores_on_test
from analysis.load import Tables, load, parser_of
from llmzero.cli import run_command
from llmzero.studies.figures import panels, save_figure, styles
from llmzero.studies.statistics import band, step_function

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches
LOOK: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
}
GROUPS = ("capacity", "regularization", "optimization")
STATES = {"completed": "o", "stopped": "s", "failed": "X", "running": "D", "queued": "D"}
SCORES = "viridis"  # light is good, in grey and for the colour-blind too
GRID_POINTS = 100

HELP = """\
Draw the figures of a study from its searches, as PDF for papers and PNG for the screen:

  test_over_cost        test score of the best by validation over device seconds   (searches with search.test_incumbents=true)
  best_so_far           best validation score over stages
  strategies            of each task the best strategy: its scores, and where each hyperparameter stands along it, by group
  scaling               test scores of base, practitioner and best over models     (searches of several models)
  tree                  of each task the tree of the search that got furthest

Lines are means over searches, bands their bootstrap 95 % interval. What the searches do not tell is left out, and said.
"""
EXAMPLES = """\
examples:
  python -m analysis.figures runs/nano --out figures
  python -m analysis.figures runs/small runs/large --out figures
"""


# --- what was reached, over cost ---


def test_over_cost(tables: Tables) -> Figure | None:
    """Return test scores of the best by validation over device seconds; None where no search measured them along its way."""
    searches = named(tables.searches)
    points = {search: scores_on_test(search) for search in searches["search"]}
    known = searches[
        [len(points[search]) > 0 and points[search]["stages"].notna().all() for search in searches["search"]]
    ]
    return _curves(known, points, "gpu_seconds", "score", "device seconds", "test score")


def best_over_stages(tables: Tables) -> Figure | None:
    """Return best validation scores over stages."""
    rows = best_so_far(tables)
    points = dict(list(rows.groupby("search")))
    known = named(tables.searches)
    return _curves(
        known[known["search"].isin(points)], points, "stages", "best", "stages", "best validation score"
    )


def _curves(
    searches: pd.DataFrame, points: dict[str, pd.DataFrame], x: str, y: str, across: str, up: str
) -> Figure | None:
    """Return a panel for each task with a line for each method: the mean over its searches."""
    if searches.empty:
        return None
    looks = styles(sorted(searches["name"].unique()))
    tasks = list(searches.groupby("task"))
    figure, axes = panels(len(tasks), COLUMN, 2.4)
    for (task, group), axis in zip(tasks, axes, strict=True):
        grid = np.linspace(0.0, max(points[search][x].max() for search in group["search"]), GRID_POINTS)
        for name, own in group.groupby("name"):
            colour, dash = looks[str(name)]
            _line(
                axis,
                grid,
                [_on(points[search], x, y, grid) for search in own["search"]],
                colour,
                dash,
                f"{name} ({len(own)})",
            )
        axis.set(title=task, xlabel=across, ylabel=up)
        axis.legend(frameon=False)
    return figure


def _on(points: pd.DataFrame, x: str, y: str, grid: Array) -> Array:
    return step_function(points[x].to_numpy(float), points[y].to_numpy(float), grid)


def _line(axis: Axes, grid: Array, curves: list[Array], colour: str, dash: str, label: str) -> None:
    middle, low, high = band(np.array(curves))
    axis.step(grid, middle, dash, where="post", color=colour, label=label)
    if len(curves) > 1:
        axis.fill_between(grid, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


# --- the best strategy of each task ---


def furthest(searches: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield each task with its search of the highest validation score."""
    usable = named(searches[searches["best_depth"].fillna(0) > 0])
    for task, group in usable.groupby("task"):
        yield str(task), group.loc[group["best_score"].astype(float).idxmax()]


def strategies(tables: Tables) -> Figure | None:
    """Return a column for each task: scores along the best path, and below the positions of the hyperparameters that change, by group."""
    found = list(furthest(tables.searches))
    if not found:
        return None
    figure = mpl.figure.Figure(figsize=(COLUMN * len(found), 6.6), layout="constrained")
    axes = figure.subplots(
        1 + len(GROUPS), len(found), sharex="col", squeeze=False, height_ratios=[1.4, 1, 1, 1]
    )
    for column, (task, search) in enumerate(found):
        own = tables.of([search["search"]])
        path = path_of(own.stages, search["best_node"])
        borders = _scores_along(axes[0, column], own, path)
        axes[0, column].set(title=f"{task}\n{search['name']}, seed {search['seed']}", ylabel="score")
        for row, group in enumerate(GROUPS, 1):
            looks = styles(sorted(tables.changes.loc[tables.changes["group"] == group, "parameter"].unique()))
            _positions_along(
                axes[row, column], own.changes[own.changes["group"] == group], path, borders, looks
            )
            axes[row, column].set(ylabel=group)
        axes[-1, column].set(xlabel="GRPO steps")
    return figure


def _scores_along(axis: Axes, own: Tables, path: list[str]) -> list[float]:
    """Draw validation along a path, each stage up to where the next one went on, and test scores; return where its stages end."""
    points = [own.validation[own.validation["node"] == node] for node in path]
    firsts = [float(of["global_step"].min()) for of in points[1:]]
    best = own.stages.set_index("node")["best_step"].get(path[-1])
    kept = [of[of["global_step"] < first] for of, first in zip(points, firsts, strict=False)]
    kept.append(points[-1][points[-1]["step"] <= best])
    line = pd.concat(kept)
    axis.plot(line["global_step"], line["score"], color="#0072B2", label="validation")
    borders = [float(of["global_step"].max()) for of in kept]
    measured = scores_on_test(str(own.searches["search"].iloc[0])).set_index("node")["score"]
    at = [
        (border, measured[node]) for node, border in zip(path, borders, strict=True) if node in measured.index
    ]
    axis.plot([x for x, _ in at], [y for _, y in at], "o", color="#D55E00", markersize=4, label="test")
    _mark(axis, borders)
    axis.legend(frameon=False)
    return borders


def _mark(axis: Axes, borders: list[float]) -> None:
    """Draw where a stage ends and another begins."""
    for border in borders[1:-1]:
        axis.axvline(border, color="0.85", linewidth=0.8, zorder=0)


def _positions_along(
    axis: Axes,
    changes: pd.DataFrame,
    path: list[str],
    borders: list[float],
    looks: dict[str, tuple[str, str]],
) -> None:
    """Draw where parameters that change along a path stand in each stage, between lowest and highest value; a mark is where they began."""
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
    _mark(axis, borders)
    if len(own):
        axis.legend(frameon=False, fontsize=6, ncols=2, loc="best")
    else:
        axis.text(0.5, 0.5, "unchanged", transform=axis.transAxes, ha="center", va="center", color="0.5")


# --- models ---


def scaling(tables: Tables) -> Figure | None:
    """Return test scores over models, a panel a task; None where there is but one model."""
    searches = named(tables.searches.dropna(subset=["test_best", "model"]))
    if searches["model"].nunique() < 2:
        return None
    tasks = list(searches.groupby("task"))
    figure, axes = panels(len(tasks), COLUMN, 2.4)
    for (task, group), axis in zip(tasks, axes, strict=True):
        models = list(dict.fromkeys(group["model"]))
        for (what, label), (colour, dash) in zip(SCALED.items(), styles(list(SCALED)).values(), strict=True):
            each = [group.loc[group["model"] == model, what].dropna().astype(float) for model in models]
            axis.errorbar(
                models,
                [x.mean() for x in each],
                [x.sem() if len(x) > 1 else 0.0 for x in each],
                fmt=f"o{dash}",
                color=colour,
                label=label,
            )
        axis.set(title=task, xlabel="model", ylabel="test score")
        axis.legend(frameon=False)
    return figure


SCALED = {"test_best": "best strategy", "test_practitioner": "practitioner", "test_base": "base model"}


# --- trees ---


def trees(tables: Tables) -> Figure | None:
    """Return for each task the tree of the search that got furthest: depth across, a leaf a line, the best path in bold."""
    found = list(furthest(tables.searches))
    if not found:
        return None
    figure, axes = panels(len(found), COLUMN, 3.2)
    for (task, search), axis in zip(found, axes, strict=True):
        stages = tables.of([search["search"]]).stages
        _tree(axis, stages, path_of(stages, search["best_node"]))
        axis.set(
            title=f"{task}\n{search['name']}, seed {search['seed']}", xlabel="stages from the base model"
        )
    keys = [
        mpl.lines.Line2D([], [], color="0.5", marker=mark, linestyle="", label=state)
        for state, mark in STATES.items()
        if state != "queued"
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, handletextpad=0.2)
    return figure


def _tree(axis: Axes, stages: pd.DataFrame, best: list[str]) -> None:
    rows = dict(zip(stages["node"], _rows(stages), strict=True))
    known = stages.set_index("node")
    for node, parent in zip(stages["node"], stages["parent"], strict=True):
        if isinstance(parent, str):
            thick = node in best
            ends = [[known["depth"][n] for n in (parent, node)], [rows[n] for n in (parent, node)]]
            axis.plot(
                *ends, color="black" if thick else "0.75", linewidth=1.8 if thick else 0.7, zorder=1 + thick
            )
    scores = stages["score"].astype(float)
    norm = mpl.colors.Normalize(scores.min(), scores.max())
    for state, group in stages.groupby("state"):
        look = {"c": group["score"].astype(float), "cmap": SCORES, "norm": norm, "plotnonfinite": True}
        heights = [rows[node] for node in group["node"]]
        axis.scatter(
            group["depth"],
            heights,
            marker=STATES[str(state)],
            s=26,
            zorder=3,
            edgecolors="0.3",
            linewidths=0.4,
            **look,
        )
    axis.figure.colorbar(
        mpl.cm.ScalarMappable(norm, SCORES), ax=axis, label="validation score", shrink=0.6, pad=0.02
    )
    axis.set(yticks=[], xticks=range(int(stages["depth"].max()) + 1))
    axis.spines["left"].set_visible(False)


def _rows(stages: pd.DataFrame) -> list[float]:
    """Return the height of each node: leaves one below the other, in the order of a walk, and a parent midway between its children."""
    children = {node: list(group["node"]) for node, group in stages.groupby("parent")}
    heights: dict[str, float] = {}
    for node in reversed(_walk(stages["node"].iloc[0], children)):
        below = [heights[child] for child in children.get(node, ())]
        heights[node] = sum(below) / len(below) if below else -float(sum(n not in children for n in heights))
    return [-heights[node] for node in stages["node"]]


def _walk(root: str, children: dict[str, list[str]]) -> list[str]:
    """Return a node and all below it, parents before their children."""
    found, open_nodes = [], [root]
    while open_nodes:
        found.append(open_nodes.pop())
        open_nodes.extend(children.get(found[-1], ()))
    return found


FIGURES: dict[str, Callable[[Tables], Figure | None]] = {
    "test_over_cost": test_over_cost,
    "best_so_far": best_over_stages,
    "strategies": strategies,
    "scaling": scaling,
    "tree": trees,
}


def draw(tables: Tables) -> dict[str, Figure]:
    """Return the figures that there are data for, by name."""
    with mpl.rc_context(LOOK):
        drawn = {name: make(tables) for name, make in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def save_all(figures: dict[str, Figure], directory: Path) -> None:
    """Write figures into a directory, as PDF and PNG."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(directory / name, figure)


def main() -> None:
    """Draw the figures of the directories given."""
    parser = parser_of("figures", HELP, EXAMPLES)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the figures go")
    given = parser.parse_args()
    drawn = draw(load(given.directories))
    save_all(drawn, given.out)
    for name in FIGURES:
        print(
            f"{given.out / name}.pdf and .png"
            if name in drawn
            else f"{name}: left out, the searches do not tell enough (see --help)"
        )


if __name__ == "__main__":
    run_command(main)
