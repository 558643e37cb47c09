"""A path of stages as a plot: how it went beside the best path, its siblings, and stages from its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from llmzero.evidence.dynamics import Points
from llmzero.evidence.evidence import Evidence, StageView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, GREY = (
    "#0072B2",
    "#D55E00",
    "#007A5E",
    "#AA4499",
    "#888888",
)  # the colour-blind see them as different, too
Course = Callable[[StageView], Points]  # of a stage: steps since the base model, and values


@dataclass(frozen=True)
class Trail:
    """A line over steps since the base model; of those with the same label, one is named in the legend."""

    label: str
    colour: str
    style: str
    points: Points


def score_trails(evidence: Evidence) -> list[Trail]:
    """Return validation scores along the path, the best path, and its siblings and children."""
    base = next((view.score for view in evidence.path[:1] if view.parent_id is None), None)
    start = [(0, base)] if base is not None else []
    return _trails(evidence, lambda view: [(p.global_step, p.score) for p in view.points], start)


def level_trails(evidence: Evidence, metric: str) -> list[Trail]:
    """Return levels of a metric along the same stages, over the first and the last third of each."""

    def course(view: StageView) -> Points:
        if metric not in view.levels or not view.points:
            return []
        begun, (first, last) = _begun(view), view.levels[metric]
        return [(begun + round(view.steps / 6), first), (begun + round(5 * view.steps / 6), last)]

    return _trails(evidence, course, [])


def tells_of_others(evidence: Evidence) -> bool:
    """Whether there is more to show than the stage by itself."""
    return len(score_trails(evidence)) > 1 or len([view for view in evidence.path if view.points]) > 1


def draw_trails(axes: Axes, trails: Sequence[Trail]) -> None:
    """Draw lines, each kind of which is named once."""
    named: set[str] = set()
    for trail in trails:
        axes.plot(
            *zip(*trail.points, strict=True),
            color=trail.colour,
            linestyle=trail.style,
            linewidth=2.5 if trail.colour in (BLUE, ORANGE) else 1.5,
            marker="o",
            markersize=5 if trail.colour in (BLUE, ORANGE) else 3,
            label=None if trail.label in named else trail.label,
        )
        named.add(trail.label)


def _trails(evidence: Evidence, course: Course, start: Points) -> list[Trail]:
    """Return the lines that hold a point beside those they start with, this path's last, on top."""
    stage = evidence.stage
    own = [view.node_id for view in evidence.path]
    best = evidence.best_path
    if [view.node_id for view in best] == own[: len(best)]:  # nothing of it would be seen
        best = ()
    siblings = [
        view
        for view in evidence.history
        if view.parent_id == stage.parent_id and view.node_id != stage.node_id and view.parent_id is not None
    ]
    found = [
        *(Trail(f"beside {stage.node_id}", GREY, ":", course(view)) for view in siblings),
        *(Trail(f"tried from {stage.node_id}", PURPLE, "-", course(view)) for view in evidence.children),
    ]
    for label, colour, style, path in (
        ("best path", ORANGE, "--", best),
        (f"path to {stage.node_id}", BLUE, "-", evidence.path),
    ):
        points = list(_along(path, course))
        found.append(Trail(label, colour, style, [*start, *points] if points else []))
    return [trail for trail in found if trail.points]


def _along(path: Sequence[StageView], course: Course) -> Iterator[tuple[int, float]]:
    """Yield the points of a path's stages, each as far as the next one goes on from it."""
    trained = [view for view in path if view.points]
    for view, following in pairwise([*trained, None]):
        assert view is not None
        end = _begun(following) if following is not None else None
        yield from ((step, value) for step, value in course(view) if end is None or step <= end)


def _begun(view: StageView) -> int:
    """Return the steps since the base model at which a stage with validations began."""
    return view.points[0].global_step - view.points[0].step
