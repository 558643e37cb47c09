"""What the path of a running stage may still become, beside the best path at the same depth and progress."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

from llmzero.core.stage import ValidationPoint
from llmzero.evidence.diagnosis import slope
from llmzero.evidence.evidence import Evidence, StageView

if TYPE_CHECKING:
    from llmzero.evidence.gain_model import Curve, GainModel

MOST_STAGES = 200  # that gains are learnt from: the latest


@dataclass(frozen=True)
class Outlook:
    """The numbers that a running stage is judged by; scores are validation scores.

    Attributes:
        share: of its length that the stage has behind it.
        level: its score now, by the line through its points, the start among them.
        rise, rise_stderr: what the rest of the stage is expected to gain: the line's slope, as far as its
            error allows, else what stages of this search gain.
        luck: by how much the best of the validations to come will lie above their mean, by chance alone.
        reach: the best score that it may end with: its best point so far, or level, rise and luck with some
            optimism.
        ahead: stages that may follow on the path.
        path: the best score on the path if the stage ends at `reach` and further stages gain as expected.
        incumbent: the best score of the search.
        lead: how far the stage stands above the best path's stage of the same depth at the same share of its
            length; None where that path is not so deep, or that stage was not validated.
        noise: the standard error of that difference.
    """

    share: float
    level: float
    rise: float
    rise_stderr: float
    luck: float
    reach: float
    ahead: int
    path: float
    incumbent: float
    lead: float | None
    noise: float


def trajectory(evidence: Evidence) -> list[ValidationPoint]:
    """Return the stage's validation points after its start, which gets the first point's error."""
    points = list(evidence.validation)
    if points and evidence.start_score is not None:
        points.insert(0, replace(points[0], step=0, score=evidence.start_score))
    return points


def outlook(evidence: Evidence, z: float) -> Outlook:
    """Return what may become of a running stage with a validation, in a search with a best score.

    Args:
        evidence: of the stage.
        z: standard errors of optimism in the rise.
    """
    points, incumbent = trajectory(evidence), evidence.incumbent_score
    assert points
    assert incumbent is not None
    base, last = evidence.path[0].score or 0.0, points[-1]
    spread = incumbent - base or 1.0
    curve = expected_gains(evidence.history, evidence.path[0], spread)
    share = min(1.0, last.step / evidence.steps) if evidence.steps else 1.0
    rise, error = _rise(evidence, points, share, curve, spread)
    level = fmean(p.score for p in points) + slope(points)[0] * (last.step - points[0].step) / 2
    luck = last.stderr * _highest(round((1 / share - 1) * len(evidence.validation)))
    best = max(point.score for point in evidence.validation)
    reach = path = max(best, level + max(0.0, rise) + luck + z * error)
    if evidence.ahead:
        further = replace(curve, deviation=0.0)
        height, momentum = (reach - base) / spread, (reach - points[0].score) / spread
        ahead = further.best_ahead(height, momentum, evidence.ahead, random.Random(0))
        path = max(reach, base + ahead * spread)
    peer = _at(share, evidence)
    return Outlook(
        share=share,
        level=level,
        rise=rise,
        rise_stderr=error,
        luck=luck,
        reach=reach,
        ahead=evidence.ahead,
        path=path,
        incumbent=incumbent,
        lead=last.score - peer.score if peer else None,
        noise=math.hypot(last.stderr, peer.stderr) if peer else last.stderr,
    )


def expected_gains(stages: Sequence[StageView], base: StageView, spread: float) -> Curve:
    """Return how stages are expected to gain, learnt from the completed ones as the search learns it.

    Args:
        stages: of the search, without the base model.
        base: the base model.
        spread: how far the best score lies above it, the unit of the curve.
    """
    from llmzero.evidence.gain_model import Curve, GainModel  # numpy, when a stage is judged

    model: GainModel = GainModel()
    views = {view.node_id: view for view in (base, *stages)}
    for stage in stages[-MOST_STAGES:]:
        parent = views.get(stage.parent_id or "")
        if stage.state == "completed" and stage.gain is not None and parent is not None:
            model.observe((parent.score or 0.0) - (base.score or 0.0), parent.gain or 0.0, stage.gain)
    _, weights, deviation = model.posterior(spread)
    return Curve(weights.tolist(), deviation)


def _rise(
    evidence: Evidence, points: Sequence[ValidationPoint], share: float, curve: Curve, spread: float
) -> tuple[float, float]:
    """Return what the rest of a stage is expected to gain, and the standard error of that.

    Two estimates, weighted by their precision: the line through the points, and the rest of what a stage from
    this parent gains in this search.
    """
    rate, error = slope(points)
    left = max(0, evidence.steps - points[-1].step)
    if share >= 1 or not left:
        return 0.0, 0.0
    parent = evidence.path[-2] if len(evidence.path) > 1 else evidence.path[0]
    height = (points[0].score - (evidence.path[0].score or 0.0)) / spread
    gain = curve.weights[0] + curve.weights[1] * height + curve.weights[2] * (parent.gain or 0.0) / spread
    usual = gain * spread * (1 - share)
    usual_variance = ((curve.deviation * spread) ** 2 + points[-1].stderr ** 2) * (1 - share)
    line, line_variance = rate * left, (error * left) ** 2
    trust = usual_variance / (usual_variance + line_variance)  # in the line
    return usual + trust * (line - usual), math.sqrt(trust * line_variance)


def _highest(draws: int) -> float:
    """Return the mean of the highest of so many standard normal draws (Blom, 1958); 0 of none."""
    return NormalDist().inv_cdf((draws - 0.375) / (draws + 0.25)) if draws > 0 else 0.0


def _at(share: float, evidence: Evidence) -> ValidationPoint | None:
    """Return where the best path's stage of the same depth stood at a share of its length, interpolated."""
    depth = evidence.stage.depth
    if not 0 < depth < len(evidence.best_path) or not evidence.best_path[depth].points:
        return None
    points = list(evidence.best_path[depth].points)
    start = evidence.best_path[depth - 1].score
    if start is not None:
        points.insert(0, replace(points[0], step=0, score=start))
    step = share * points[-1].step
    after = bisect_right([point.step for point in points], step)
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)]
    before, later = points[after - 1], points[after]
    weight = (step - before.step) / (later.step - before.step)
    return replace(later, score=before.score + weight * (later.score - before.score))
