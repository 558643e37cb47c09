"""Training dynamics as plots, for models that see and for people.

Images have 1024 x 768 pixels, as the short side is what vision models scale to; letters are at least 12
pixels high there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any

from llmzero.evidence.diagnosis import GRADIENT_SPIKE_RATIO
from llmzero.evidence.dynamics import (
    NEGLIGIBLE,
    Range,
    healthy_range,
    is_still,
    number,
    numbered_rows,
    range_text,
    series,
)
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.path_plot import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Trail,
    draw_trails,
    level_trails,
    score_trails,
    tells_of_others,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES, DPI = (10.24, 7.68), 100
TEXT, TITLE, HEADLINE = 12.0, 14.0, 16.0  # points of 1.39 pixels; capitals are 0.73 of it
LEGEND_LINE = 17.5  # points
LEGEND_LETTERS = 22  # of labels that fit side by side
EDGE = 0.09  # inches around each panel
LINES = {"solid": (BLUE, "-"), "dashed": (ORANGE, "--")}
CROWD = 60  # points from which on single ones get no marker
SMALL_KL_NATS = 1e-3  # below it the axis is linear, as divergences begin at 0
FLAT = 0.04  # of its level: what a curve varies by at least on its axis
ROOM = 0.08  # above and below the curves, of the axis
STEP_ROOM = 0.03  # likewise left and right
SCORE_TITLE = "Validation score"
PATH_PANEL = "entropy"  # the panel whose metrics are drawn along the path, too

DRAWING = Lock()  # the library draws in one thread at a time

LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "borderaxespad": 0.1,
    "borderpad": 0.1,
    "frameon": False,
    "fontsize": TEXT,
    "labelspacing": 0.2,
    "columnspacing": 1.0,
    "handlelength": 2.2,
    "handletextpad": 0.5,
}


@dataclass(frozen=True)
class Plot:
    """An image of 1024 x 768 pixels, and what it shows in words."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Curve:
    """A metric as a line."""

    metric: str
    colour: str
    style: str


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows.

    Attributes:
        title: with the unit.
        name: what metrics call it that are drawn in it; empty for the one that shows the validation points.
        includes: values that the vertical axis spans at least.
        extra: draws what is no curve, and may choose the scale.
    """

    title: str
    name: str = ""
    includes: tuple[float, ...] = ()
    extra: Callable[[Axes, Evidence], None] | None = None

    def curves(self, evidence: Evidence) -> list[Curve]:
        """Return the recorded metrics that the catalogue puts here, those with solid lines first."""
        return [
            Curve(name, colour, style)
            for line, (colour, style) in LINES.items()
            for name, metric in evidence.metric_catalogue.items()
            if metric.plot == (self.name, line) and series(evidence, name)
        ]

    def recorded(self, evidence: Evidence) -> bool:
        """Whether there is something to show: a curve that changes, or has one value."""
        if not self.name:
            return bool(evidence.validation)
        columns = [[value for _, value in series(evidence, curve.metric)] for curve in self.curves(evidence)]
        return any(len(values) < 2 or not is_still(values) for values in columns)


def draw_plots(evidence: Evidence) -> list[Plot]:
    """Return the images `progress`, `stability` and `path` of a stage, unless nothing in them was recorded;
    panels whose curves do not change are left out.

    The same evidence gives the same bytes.
    """
    recorded = {
        name: [panel for panel in panels if panel.recorded(evidence)] for name, panels in IMAGES.items()
    }
    plots = []
    for name, panels in recorded.items():
        if panels:
            titles = "; ".join(panel.title for panel in panels)
            caption = f"{name.capitalize()} of stage {evidence.stage.node_id} over its steps: {titles}."
            with DRAWING:
                plots.append(Plot(name, caption, _png(draw_figure(name, panels, evidence))))
    if tells_of_others(evidence):
        with DRAWING:
            plots.append(_path_plot(evidence))
    return plots


def _path_plot(evidence: Evidence) -> Plot:
    """Return scores and levels along the path beside those of other stages."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    trails = path_panels(evidence)
    name = evidence.stage.node_id
    figure = Figure(
        figsize=INCHES, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=EDGE, w_pad=EDGE)
    )
    figure.suptitle(f"The path to {name}, and others", fontsize=HEADLINE, fontweight="bold")
    steps = [step for panel in trails.values() for trail in panel for step, _ in trail.points]
    margin = max(0.5, STEP_ROOM * (max(steps) - min(steps)))
    for axes, (title, panel) in zip(
        figure.subplots(len(trails), 1, squeeze=False)[:, 0], trails.items(), strict=True
    ):
        axes.margins(y=ROOM)
        draw_trails(axes, panel)
        axes.set_xlim(min(steps) - margin, max(steps) + margin)
        _set_ticks(axes, "step since the base model")
        _set_title(axes, title)
    caption = (
        f"Path to stage {name} since the base model, beside the best path, stages beside it and from it: "
    )
    return Plot("path", f"{caption}{'; '.join(trails)}.", _png(figure))


def path_panels(evidence: Evidence) -> dict[str, list[Trail]]:
    """Return what is drawn along a path, by the title of the panel."""
    panels = {SCORE_TITLE: score_trails(evidence)}
    for metric in evidence.metric_catalogue.values():
        if metric.level is not None and metric.plot is not None and metric.plot[0] == PATH_PANEL:
            unit = f" [{metric.unit}]" if metric.unit else ""
            panels[f"{metric.name}{unit}, levels over thirds of stages"] = level_trails(evidence, metric.name)
    return {title: trails for title, trails in panels.items() if trails}


def draw_figure(name: str, panels: Sequence[Panel], evidence: Evidence) -> Figure:
    """Return panels as a figure of 1024 x 768 pixels: from three on, two in a row, an odd last one alone."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    stage = evidence.stage
    figure = Figure(
        figsize=INCHES, dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=EDGE, w_pad=EDGE)
    )
    figure.suptitle(
        f"Stage {stage.node_id} (depth {stage.depth}, {stage.state}): {name}",
        fontsize=HEADLINE,
        fontweight="bold",
    )
    columns = 1 if len(panels) < 3 else 2
    grid = figure.add_gridspec(-(-len(panels) // columns), columns)
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        alone = column == 0 and i == len(panels) - 1
        _draw(figure.add_subplot(grid[row, :] if alone else grid[row, column]), panel, evidence)
    return figure


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    buffer = BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


# --- panels ---


def _draw(axes: Axes, panel: Panel, evidence: Evidence) -> None:
    """Draw a panel. A healthy range that all curves share is shaded; others stand in the curves' labels."""
    ranges = {
        curve: healthy_range(evidence, evidence.metric_catalogue[curve.metric])
        for curve in panel.curves(evidence)
    }
    shared = next(iter(ranges.values())) if len(set(ranges.values())) == 1 else None
    axes.margins(y=ROOM)
    for curve, healthy in ranges.items():
        _draw_curve(axes, curve, evidence, "" if shared else range_text(healthy))
    if panel.extra:
        panel.extra(axes, evidence)
    _set_limits(axes, panel, evidence)
    if shared and range_text(shared):
        _shade(axes, shared)
    for curve, healthy in ranges.items():
        _mark_bounds(axes, healthy, GREEN if shared else curve.colour)
    _set_ticks(axes)
    _set_title(axes, panel.title)


def _draw_curve(axes: Axes, curve: Curve, evidence: Evidence, healthy: str) -> None:
    points = series(evidence, curve.metric)
    label = f"{curve.metric} (healthy: {healthy})" if healthy else curve.metric
    marker = "o" if len(points) < CROWD else ""
    axes.plot(
        *zip(*points, strict=True),
        color=curve.colour,
        linestyle=curve.style,
        linewidth=2.5,
        marker=marker,
        markersize=5,
        label=label,
    )


def _shade(axes: Axes, healthy: Range) -> None:
    bottom, top = axes.get_ylim()
    low = min(max(healthy[0] or bottom, bottom), top)  # what is shown with a bound of 0 cannot go below it
    high = top if healthy[1] is None else min(max(healthy[1], bottom), top)
    axes.axhspan(low, high, color=GREEN, alpha=0.1, linewidth=0, label=f"healthy: {range_text(healthy)}")


def _mark_bounds(axes: Axes, healthy: Range, colour: str) -> None:
    bottom, top = axes.get_ylim()
    for bound in healthy:
        if bound and bottom < bound < top:
            axes.axhline(bound, color=colour, linestyle=":", linewidth=2)


def _set_limits(axes: Axes, panel: Panel, evidence: Evidence) -> None:
    """Fix the limits: the same steps in every panel, and values such that a flat curve looks flat."""
    values = [value for curve in panel.curves(evidence) for _, value in series(evidence, curve.metric)]
    flat = (
        [edge + way * FLAT * abs(edge) for edge in (min(values), max(values)) for way in (-1, 1)]
        if values
        else []
    )
    steps = [*(point.step for point in evidence.validation), *(step for step, _ in numbered_rows(evidence))]
    margin = max(0.5, STEP_ROOM * (max(steps) - min(steps)))
    axes.update_datalim([(min(steps), value) for value in (*panel.includes, *flat)])
    axes.autoscale_view()
    axes.set_xlim(min(steps) - margin, max(steps) + margin)
    axes.set_ylim(*axes.get_ylim())


def _set_ticks(axes: Axes, counted: str = "step of the stage") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value + 0.0:.5g}")  # adding 0.0 makes -0.0 a 0.0
    axes.tick_params(labelsize=TEXT)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_xlabel(counted, fontsize=TEXT)
    axes.spines[["top", "right"]].set_visible(False)


def _set_title(axes: Axes, title: str) -> None:
    """Put the legend between title and axes, where it hides nothing; two labels side by side if they fit."""
    labels = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, labels)) <= LEGEND_LETTERS else 1
    axes.set_title(title, fontsize=TITLE, loc="left", pad=6 + LEGEND_LINE * -(-len(labels) // columns))
    axes.legend(ncols=columns, **LEGEND)


# --- what is no curve ---


def _validation(axes: Axes, evidence: Evidence) -> None:
    """Draw validation points with standard errors, where the stage began, and the search's best."""
    points = evidence.validation
    steps, scores, errors = [p.step for p in points], [p.score for p in points], [p.stderr for p in points]
    axes.plot(steps, scores, color=BLUE, linewidth=2.5, marker="o", markersize=6, label="score")
    axes.errorbar(steps, scores, errors, color=BLUE, fmt="none", elinewidth=2, capsize=5)
    if evidence.start_score is not None:
        axes.axhline(
            evidence.start_score,
            color=PURPLE,
            linestyle="--",
            linewidth=2,
            label=f"start {number(evidence.start_score)}",
        )
    if evidence.incumbent_score is not None:
        axes.axhline(
            evidence.incumbent_score,
            color=ORANGE,
            linestyle=":",
            linewidth=2.5,
            label=f"search best {number(evidence.incumbent_score)}",
        )


def _length_limit(axes: Axes, evidence: Evidence) -> None:
    limit = evidence.stage.hparams.get("max_completion_length")
    if limit is not None:
        axes.axhline(limit, color=PURPLE, linestyle=":", linewidth=2, label=f"limit {number(limit)}")


def _divergence_scale(axes: Axes, _evidence: Evidence) -> None:
    axes.set_yscale("symlog", linthresh=SMALL_KL_NATS)
    axes.set_ylabel("log scale", fontsize=TEXT)


def _gradient_scale(axes: Axes, evidence: Evidence) -> None:
    """Choose a log scale where spikes would flatten the rest."""
    norms = [value for _, value in series(evidence, "grad_norm")]
    if min(norms) > NEGLIGIBLE and max(norms) > GRADIENT_SPIKE_RATIO * median(norms):
        axes.set_yscale("log")
        axes.set_ylabel("log scale", fontsize=TEXT)


# --- the images ---

LEAST_SHARES = (0.0, 0.01)
IMAGES = {
    "progress": (
        Panel(f"{SCORE_TITLE} (± 1 standard error)", extra=_validation),
        Panel("Training reward and score", "reward"),
        Panel("Completion length [tokens]", "length", extra=_length_limit),
        Panel("Truncated completions, quiet groups [share]", "shares", LEAST_SHARES),
    ),
    "stability": (
        Panel("KL divergence [nats]", "divergence", (0.0, SMALL_KL_NATS), _divergence_scale),
        Panel("Entropy of the policy [nats]", "entropy"),
        Panel("Gradient norm before clipping", "gradient", extra=_gradient_scale),
        Panel("Clipped tokens [share]", "clipping", LEAST_SHARES),
    ),
}
