from __future__ import annotations

import random
import struct
import sys
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import Metric, metric_catalogue, usual_entries
from llmzero.core.stage import ValidationPoint
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.path_plot import BLUE, GREEN, ORANGE, PURPLE
from llmzero.evidence.plots import IMAGES, draw_figure, draw_plots, path_panels
from tests.conftest import METRICS
from tests.unit.evidence.test_dynamics import staged

DRAWN = {metric.name for metric in METRICS.values() if metric.plot}
PLAIN = (
    "unit",
    "healthy",
    "meaning",
    "unhealthy",
)  # what a catalogue said of a metric before there were flags

CAPITAL = 0.729  # height of a capital letter of the font, in ems


@pytest.fixture
def evidence(catalogue: Catalogue, metrics: dict[str, Metric]) -> Evidence:
    """Return a stage of 25 steps of which everything was recorded, all of it below the healthy bounds."""
    rng = random.Random(0)
    rows = [
        {
            "step": i,
            **{name: rng.uniform(0.001, 0.009) for name in sorted(DRAWN)},
            "entropy": rng.uniform(0.3, 0.5),
        }
        for i in range(1, 26)
    ]
    return staged(catalogue, metrics, rows, [0.3, 0.35, 0.4, 0.38, 0.42])


def column(evidence: Evidence, **columns: float) -> Evidence:
    """Return the evidence with metrics set to a value at the last step."""
    return replace(evidence, metrics=[*evidence.metrics[:-1], {**evidence.metrics[-1], **columns}])


def only(evidence: Evidence, *names: str) -> Evidence:
    """Return the evidence with no validation and no metrics but these."""
    return replace(
        evidence,
        validation=[],
        metrics=[{name: row[name] for name in ("step", *names)} for row in evidence.metrics],
    )


def colours(png: bytes) -> set[tuple[int, int, int]]:
    image = Image.open(BytesIO(png)).convert("RGB")
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def shows(png: bytes, colour: str) -> bool:
    return tuple(round(255 * part) for part in to_rgb(colour)) in colours(png)


def chunks(png: bytes) -> list[str]:
    """Return the names of a PNG's chunks."""
    names, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.append(png[at + 4 : at + 8].decode())
        at += 12 + length
    return names


def drawn(name: str, evidence: Evidence) -> Figure:
    figure = draw_figure(name, [panel for panel in IMAGES[name] if panel.recorded(evidence)], evidence)
    FigureCanvasAgg(figure).draw()
    return figure


def axes_of(figure: Figure, title: str) -> Axes:
    (match,) = [axes for axes in figure.axes if axes.get_title("left").startswith(title)]
    return match


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


# --- images ---


def test_there_are_two_images_of_the_size_that_vision_models_scale_to(evidence: Evidence) -> None:
    plots = draw_plots(evidence)
    assert [plot.name for plot in plots] == ["progress", "stability"]
    for plot in plots:
        assert plot.png.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", plot.png[16:24]) == (1024, 768)
        assert "0003" in plot.caption


def test_the_same_evidence_gives_the_same_bytes_without_metadata(evidence: Evidence) -> None:
    first, again = (
        draw_plots(evidence),
        draw_plots(replace(evidence, metrics=[dict(row) for row in evidence.metrics])),
    )
    assert first == again
    assert {"tEXt", "iTXt", "zTXt", "tIME"}.isdisjoint(chunks(first[0].png))
    assert draw_plots(column(evidence, reward_mean=0.5))[0].png != first[0].png


def test_panels_and_images_without_data_are_left_out(evidence: Evidence) -> None:
    (plot,) = draw_plots(only(evidence, "entropy"))
    assert plot.name == "stability"
    assert plot.caption == "Stability of stage 0003 over its steps: Entropy of the policy [nats]."
    assert [plot.name for plot in draw_plots(replace(evidence, metrics=[]))] == ["progress"]
    assert draw_plots(replace(evidence, metrics=[], validation=[])) == []
    assert (
        draw_plots(replace(evidence, metrics=[{"step": 1, "kl": None, "entropy": "high"}], validation=[]))
        == []
    )


def test_panels_fill_the_image_however_many_there_are(evidence: Evidence) -> None:
    (alone,) = (axes.get_position() for axes in drawn("stability", only(evidence, "entropy")).axes)
    assert alone.width > 0.8 and alone.height > 0.7
    upper, lower = (axes.get_position() for axes in drawn("stability", only(evidence, "entropy", "kl")).axes)
    assert lower.y1 < upper.y0 and min(lower.width, upper.width) > 0.8
    first, second, last = (
        axes.get_position() for axes in drawn("progress", replace(evidence, validation=[])).axes
    )
    assert first.y0 == pytest.approx(second.y0)
    assert last.y1 < first.y0 and last.width > first.width + second.width


@pytest.mark.parametrize("name", list(IMAGES))
def test_all_text_is_legible_and_within_the_image_and_legends_hide_nothing(
    evidence: Evidence, name: str
) -> None:
    figure = drawn(
        name,
        column(evidence, grad_norm=90.0, completion_length_max=123456.0, truncated_fraction=1.0, kl=30.0),
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    outline = figure.get_tightbbox(renderer)
    assert outline.x0 >= 0 and outline.x1 <= 10.24 and outline.y0 >= 0 and outline.y1 <= 7.68
    assert all(
        text.get_fontsize() * figure.dpi / 72 * CAPITAL >= 12
        for text in figure.findobj(Text)
        if text.get_text()
    )
    for axes in figure.axes:
        (title,) = [
            text
            for text in axes.findobj(Text)
            if text.get_text() and text.get_text() == axes.get_title("left")
        ]
        frame, legend = axes.get_window_extent(), axes.get_legend().get_window_extent(renderer)
        assert frame.width > 400 and frame.height > 200
        assert legend.y0 >= frame.y1 and legend.x1 <= frame.x1 + 1
        assert title.get_window_extent(renderer).y0 >= legend.y1 - 1


# --- panels ---


def test_the_validation_panel_shows_points_errors_start_and_the_best_of_the_search(
    evidence: Evidence,
) -> None:
    axes = axes_of(drawn("progress", evidence), "Validation")
    assert labels(axes) == ["score", "start 0.25", "search best 0.6"]
    assert list(axes.lines[0].get_xdata()) == [5, 10, 15, 20, 25]
    assert list(axes.lines[0].get_ydata()) == [0.3, 0.35, 0.4, 0.38, 0.42]
    (bars,) = axes.containers
    assert bars[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([0.29, 0.31])
    assert {
        line.get_ydata()[0] for line in axes.lines if line.get_label().startswith(("start", "search"))
    } == {0.25, 0.6}
    bottom, top = axes.get_ylim()
    assert bottom < 0.25 and top > 0.6


def test_lines_without_a_score_are_left_out(evidence: Evidence) -> None:
    bare = replace(evidence, metrics=[], start_score=None, incumbent_score=None)
    (plot,) = draw_plots(bare)
    assert shows(plot.png, BLUE) and not shows(plot.png, ORANGE) and not shows(plot.png, PURPLE)
    (plot,) = draw_plots(replace(bare, start_score=0.2, incumbent_score=0.7))
    assert shows(plot.png, ORANGE) and shows(plot.png, PURPLE)


def test_the_length_limit_of_the_stage_is_shown(evidence: Evidence) -> None:
    limit = evidence.stage.hparams["max_completion_length"]
    assert f"limit {limit}" in labels(axes_of(drawn("progress", evidence), "Completion length"))


def test_a_shared_healthy_range_is_shaded_as_far_as_the_axis_shows_it(evidence: Evidence) -> None:
    axes = axes_of(drawn("stability", column(evidence, clip_fraction_low=0.3)), "Clipped tokens")
    assert labels(axes) == ["clip_fraction_low", "clip_fraction_high", "healthy: 0 to 0.1"]
    (span,) = axes.patches
    assert span.get_y() == pytest.approx(axes.get_ylim()[0])
    assert span.get_y() + span.get_height() == pytest.approx(0.1)
    assert 0.1 in [line.get_ydata()[0] for line in axes.lines]
    calm = axes_of(drawn("stability", evidence), "Clipped tokens")
    assert calm.get_ylim()[1] < 0.02
    assert calm.patches[0].get_y() + calm.patches[0].get_height() == pytest.approx(calm.get_ylim()[1])


def test_a_lower_bound_is_shaded_upwards_and_an_unhealthy_axis_not_at_all(
    evidence: Evidence, metrics: dict[str, Metric]
) -> None:
    absolute = {**metrics, "entropy": replace(metrics["entropy"], healthy_ratio=(None, None))}
    evidence = replace(evidence, metric_catalogue=absolute)
    axes = axes_of(drawn("stability", column(evidence, entropy=0.01)), "Entropy")
    assert labels(axes) == ["entropy", "healthy: at least 0.05"]
    (span,) = axes.patches
    assert (span.get_y(), span.get_y() + span.get_height()) == pytest.approx((0.05, axes.get_ylim()[1]))
    cold = replace(evidence, metrics=[{"step": 1, "entropy": 0.01}, {"step": 2, "entropy": 0.02}])
    assert axes_of(drawn("stability", cold), "Entropy").patches[0].get_height() == 0


def test_a_fivefold_fall_is_not_painted_healthy(evidence: Evidence) -> None:
    fallen = replace(evidence, metrics=[{"step": i, "entropy": 2.0 / i} for i in (1, 2, 10)])
    axes = axes_of(drawn("stability", fallen), "Entropy")
    assert labels(axes) == ["entropy", "healthy: at least 0.8"]
    assert axes.patches[0].get_y() == pytest.approx(0.8)


# --- along the path ---


def stage(node_id: str, parent: str | None, begun: int, scores: list[float], **fields: Any) -> StageView:
    """Return a stage of 10 steps with two validations, that began at a step since the base model."""
    points = [ValidationPoint(5 * i, begun + 5 * i, s, 0.01, 100, 0.1) for i, s in enumerate(scores, 1)]
    values = {"score": max(scores), "parent_id": parent, "steps": 10, "points": points, **fields}
    return StageView(node_id, 1, "completed", {}, {}, **values)


@pytest.fixture
def branched(evidence: Evidence) -> Evidence:
    """The path 0001, 0003 (from step 5 of it), a best path 0001, 0002, and 0004 tried from 0003."""
    base = StageView("0000", 0, "completed", {}, {}, score=0.1)
    first = stage("0001", "0000", 0, [0.2, 0.15], levels={"entropy": (0.9, 0.6)})
    best = stage("0002", "0001", 5, [0.3, 0.5], levels={"entropy": (0.8, 0.7)})
    own = stage("0003", "0001", 5, [0.25, 0.3], levels={"entropy": (0.6, 0.2)})
    tried = stage("0004", "0003", 15, [0.26, 0.24])
    return replace(
        evidence,
        stage=own,
        path=[base, first, own],
        best_path=[base, first, best],
        children=[tried],
        history=[first, best, own, tried],
    )


def test_the_path_is_drawn_beside_the_best_one_its_siblings_and_what_was_tried_from_it(
    branched: Evidence,
) -> None:
    """Each stage as far as the next one went on from it, over steps since the base model."""
    panels = path_panels(branched)
    assert list(panels) == ["Validation score", "entropy [nats], levels over thirds of stages"]
    scores, levels = ({trail.label: trail.points for trail in panel} for panel in panels.values())
    assert scores == {
        "beside 0003": [(10, 0.3), (15, 0.5)],
        "tried from 0003": [(20, 0.26), (25, 0.24)],
        "best path": [(0, 0.1), (5, 0.2), (10, 0.3), (15, 0.5)],
        "path to 0003": [(0, 0.1), (5, 0.2), (10, 0.25), (15, 0.3)],
    }
    assert levels["path to 0003"] == [(2, 0.9), (7, 0.6), (13, 0.2)]
    assert "tried from 0003" not in levels


def test_the_best_path_is_not_drawn_beneath_the_path_that_it_is(branched: Evidence) -> None:
    """Views of a stage differ, as of some more is known: it is the stages that count."""
    again = [replace(view, children=9) for view in branched.path]
    labels = [trail.label for trail in path_panels(replace(branched, best_path=again))["Validation score"]]
    assert labels == ["beside 0003", "tried from 0003", "path to 0003"]


def test_an_image_of_the_path_comes_where_it_tells_of_other_stages(branched: Evidence) -> None:
    *_, plot = draw_plots(branched)
    assert plot.name == "path"
    assert struct.unpack(">II", plot.png[16:24]) == (1024, 768)
    assert shows(plot.png, ORANGE) and shows(plot.png, PURPLE) and shows(plot.png, BLUE)
    assert draw_plots(branched)[-1] == plot
    alone = replace(branched, path=[branched.stage], best_path=[branched.stage], children=[], history=[])
    assert [plot.name for plot in draw_plots(alone)] == ["progress", "stability"]


def test_curves_that_do_not_change_get_no_panel(evidence: Evidence) -> None:
    rows = [{"step": i, "entropy": 0.5, "kl": 0.1 * i} for i in range(1, 6)]
    (plot,) = draw_plots(replace(evidence, metrics=rows, validation=[]))
    assert plot.caption.endswith("KL divergence [nats].")
    still = [{"step": i, "entropy": 0.5} for i in range(1, 6)]
    assert draw_plots(replace(evidence, metrics=still, validation=[])) == []


def test_healthy_ranges_that_differ_are_named_with_their_curves(evidence: Evidence) -> None:
    axes = axes_of(drawn("progress", column(evidence, zero_variance_groups=0.9)), "Truncated")
    assert labels(axes) == [
        "truncated_fraction (healthy: 0 to 0.05)",
        "zero_variance_groups (healthy: 0 to 0.5)",
    ]
    assert {
        (line.get_color(), line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == ":"
    } == {(BLUE, 0.05), (ORANGE, 0.5)}
    assert not axes.patches


def test_a_catalogue_without_flags_is_drawn_as_ours(evidence: Evidence) -> None:
    bare = {name: {key: entry[key] for key in PLAIN} for name, entry in usual_entries().items()}
    plots = draw_plots(replace(evidence, metric_catalogue=metric_catalogue(bare)))
    assert plots == draw_plots(evidence)


def test_a_metric_is_drawn_where_its_catalogue_says(evidence: Evidence, metrics: dict[str, Metric]) -> None:
    moved = {**metrics, "loss": replace(metrics["loss"], plot=("entropy", "dashed"))}
    rows = [{**row, "loss": 0.5} for row in evidence.metrics]
    figure = drawn("stability", replace(evidence, metrics=rows, metric_catalogue=moved))
    assert [label.partition(" ")[0] for label in labels(axes_of(figure, "Entropy"))][:2] == [
        "entropy",
        "loss",
    ]
    (plot,) = draw_plots(replace(evidence, metric_catalogue={}))
    assert plot.caption.endswith("Validation score (± 1 standard error).")


def test_without_healthy_ranges_nothing_is_called_healthy(
    evidence: Evidence, metrics: dict[str, Metric]
) -> None:
    none = (None, None)
    bare = {name: replace(metric, healthy=none, healthy_ratio=none) for name, metric in metrics.items()}
    plots = draw_plots(replace(evidence, metric_catalogue=bare))
    assert [plot.caption for plot in plots] == [plot.caption for plot in draw_plots(evidence)]
    for axes in drawn("stability", replace(evidence, metric_catalogue=bare)).axes:
        assert not any("healthy" in label for label in labels(axes))
        assert GREEN not in [line.get_color() for line in axes.lines]


def test_gradient_norms_get_a_log_scale_for_spikes_only(evidence: Evidence) -> None:
    def scale(evidence: Evidence) -> str:
        return axes_of(drawn("stability", evidence), "Gradient").get_yscale()

    assert scale(evidence) == "linear"
    assert scale(column(evidence, grad_norm=5.0)) == "log"
    assert (
        scale(replace(evidence, metrics=[{"grad_norm": value} for value in (0.0, 1.0, 1.0, 9.0)])) == "linear"
    )  # a log scale has no 0


def test_divergences_of_any_size_can_be_told_apart(evidence: Evidence) -> None:
    axes = axes_of(drawn("stability", column(evidence, kl=3.0)), "KL")
    heights = [axes.transData.transform((0, value))[1] for value in (0.0, 0.001, 0.01, 0.1, 1.0)]
    assert all(b - a > 20 for a, b in pairwise(heights))


def test_a_single_step_is_visible(evidence: Evidence) -> None:
    (line,) = (
        drawn("stability", replace(evidence, validation=[], metrics=[{"step": 1, "entropy": 0.5}]))
        .axes[0]
        .lines
    )
    assert line.get_marker() == "o"


def test_all_panels_share_their_steps_and_flat_metrics_are_not_magnified(evidence: Evidence) -> None:
    rows = [{"step": i, "entropy": 0.5 + 1e-3 * i, "kl": 0.1 + 1e-3 * i} for i in range(3, 8)]
    figure = drawn("stability", replace(evidence, metrics=rows))
    for axes in figure.axes:
        assert axes.get_xlim() == pytest.approx((3 - 0.03 * 22, 25 + 0.03 * 22))
    entropy = axes_of(figure, "Entropy")
    bottom, top = entropy.get_ylim()
    assert top - bottom >= 0.04
    assert all(
        float(tick.get_text()) == pytest.approx(at)
        for tick, at in zip(entropy.get_yticklabels(), entropy.get_yticks(), strict=True)
    )


values = st.one_of(
    st.none(), st.floats(), st.floats(0, 1), st.sampled_from([0.0, -1.0, 1e99, 5e-324, "text", True, 10**400])
)


@pytest.mark.filterwarnings("error")
@settings(max_examples=20)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(sorted(DRAWN)), values), max_size=4),
    scores=st.lists(st.floats(0, 1), max_size=3),
)
def test_any_rows_can_be_drawn_without_a_warning(
    catalogue: Catalogue, metrics: dict[str, Metric], rows: list[dict[str, Any]], scores: list[float]
) -> None:
    for plot in draw_plots(staged(catalogue, metrics, rows, scores)):
        assert struct.unpack(">II", plot.png[16:24]) == (1024, 768)


def test_drawing_leaves_global_state_alone(evidence: Evidence) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_plots(evidence)
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
