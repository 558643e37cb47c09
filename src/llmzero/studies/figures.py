"""Figures of comparisons and transfers, as PNG for the screen and PDF for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinct for the colour-blind too (Okabe and Ito 2008, darkened yellow); then repeated with other dashes.
COLOURS = ("#0072B2", "#D55E00", "#007A5E", "#AA4499", "#E69F00", "#56B4E9", "#333333")
DASHES = ("-", "--", ":")
DPI = 130
NO_MATH: Any = {"text.parse_math": False}  # a dollar sign in a name is a dollar sign
PANEL = (5.5, 3.6)  # inches
LINE = 0.32  # inches a method takes in an interval plot
AXES = {"stages": "stages", "flops": "compute, FLOPs", "gpu_seconds": "device seconds"}


def comparison_figures(directory: Path, comparison: dict[str, Any]) -> None:
    """Write the figures of `comparison.json`; none where nothing has finished."""
    if not comparison["runs"]:
        return
    curves = [of_method for of_task in comparison["curves"].values() for of_method in of_task.values()]
    for axis, name in AXES.items():
        if not all(axis in each for each in curves):
            continue  # compute is unknown of searches of earlier versions
        save_figure(directory / f"curves_{axis}", _curves(comparison, axis, name))
    save_figure(directory / "final_scores", _final_scores(comparison))
    if len(comparison["overall"]) > 1:
        save_figure(directory / "improvement", _improvement(comparison))


def _curves(comparison: dict[str, Any], axis: str, name: str) -> Figure:
    tasks, looks = comparison["tasks"], styles(comparison["methods"])
    figure, axes = panels(len(tasks), *PANEL)
    for task, panel in zip(tasks, axes, strict=True):
        for method, curves in comparison["curves"][task].items():
            curve, (colour, dash) = curves[axis], looks[method]
            panel.step(curve["at"], curve["mean"], dash, where="post", color=colour, label=method)
            panel.fill_between(
                curve["at"], curve["low"], curve["high"], step="post", color=colour, alpha=0.12, linewidth=0
            )
        panel.set(title=task, xlabel=name, ylabel="test score of the best so far")
    lines = {str(line.get_label()): line for panel in axes for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=6, fontsize="small")
    return figure


def _final_scores(comparison: dict[str, Any]) -> Figure:
    tables = {"all tasks, normalised": comparison["overall"]} if comparison["overall"] else {}
    tables |= {task: table for task, table in comparison["per_task"].items() if table}
    figure, axes = panels(len(tables), PANEL[0], 1.2 + LINE * len(comparison["methods"]))
    for (title, table), panel in zip(tables.items(), axes, strict=True):
        _intervals(panel, list(table), [entry["final"] for entry in table.values()], comparison["methods"])
        panel.set(title=title, xlabel="final test score, 95 % interval")
    return figure


def _improvement(comparison: dict[str, Any]) -> Figure:
    first, *others = comparison["methods"]
    figure, (panel,) = panels(1, PANEL[0], 1.2 + LINE * len(others))
    _intervals(
        panel,
        others,
        [comparison["overall"][other]["against"]["improvement"] for other in others],
        comparison["methods"],
    )
    panel.axvline(0.5, color="grey", linewidth=1, linestyle=":")
    panel.set(
        title=f"P({first} > method)", xlabel="probability of improvement, 95 % interval", xlim=(-0.02, 1.02)
    )
    return figure


def _intervals(
    panel: Axes, names: Sequence[str], intervals: Sequence[dict[str, float]], methods: Sequence[str]
) -> None:
    """Draw one interval a line, the first on top."""
    looks = styles(methods)
    for line, (name, interval) in enumerate(zip(names, intervals, strict=True)):
        colour = looks[name][0]
        panel.plot(
            [interval["low"], interval["high"]],
            [line, line],
            color=colour,
            linewidth=6,
            alpha=0.4,
            solid_capstyle="butt",
        )
        panel.plot(interval["value"], line, "|", color=colour, markersize=11, markeredgewidth=2)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="x", alpha=0.3)


def transfer_figure(directory: Path, transfer: dict[str, Any]) -> None:
    """Write the heat map of `transfer.json`: the gain of each strategy on each task."""
    strategies, tasks = transfer["strategies"], transfer["tasks"]
    gains = [[transfer["gains"][task][name]["mean"] for task in tasks] for name in strategies]
    numbers = [[float("nan") if gain is None else gain for gain in row] for row in gains]
    limit = max((abs(gain) for row in gains for gain in row if gain is not None), default=0.0) or 1.0
    figure, (panel,) = panels(1, 2.5 + 1.1 * len(tasks), 1.6 + 0.6 * len(strategies))
    image = panel.imshow(numbers, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    panel.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
    panel.set_yticks(range(len(strategies)), strategies)
    for row, line in enumerate(gains):
        for column, gain in enumerate(line):
            ink = "white" if gain is not None and abs(gain) > 0.7 * limit else "black"
            panel.text(
                column, row, "-" if gain is None else f"{gain:+.3f}", ha="center", va="center", color=ink
            )
    figure.colorbar(image, label="gain over the practitioner")
    save_figure(directory / "transfer", figure)


def styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a dash by method."""
    return {
        method: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, method in enumerate(methods)
    }


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels, each `width` by `height` inches, at most three side by side."""
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number) for number in range(1, count + 1)]


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG and PDF of that name."""
    import matplotlib as mpl

    with mpl.rc_context(NO_MATH):  # labels of ticks are made when the figure is drawn
        for kind in (".png", ".pdf"):
            figure.savefig(path.with_suffix(kind), dpi=DPI)
