"""Early stoppers that need no language model."""

from __future__ import annotations

from dataclasses import replace

from llmzero.core.stage import ValidationPoint
from llmzero.evidence.diagnosis import slope
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.proposal import StopDecision


class NeverStop:
    """Lets every stage run to its end."""

    interval_s = float("inf")

    def decide(self, evidence: Evidence) -> StopDecision:
        """Return that the stage goes on."""
        return StopDecision(False, "stopper=none")


class CurveStopper:
    """Stops a stage whose validation curve has no realistic chance of passing the best score of the search.

    A line through the stage's points, its start included, is carried on at its *optimistic* slope to the stage's end; score curves bend
    down, so a line is generous.

    Args:
        interval_s: seconds between two judgements.
        min_step: no judgement before this step.
        min_points: points needed, the start among them.
        lookahead: stage lengths beyond the end of this one in which its children may still catch up.
        z: standard errors of optimism in level and slope.
    """

    def __init__(
        self,
        interval_s: float = 1.0,
        min_step: int = 8,
        min_points: int = 3,
        lookahead: float = 0.0,
        z: float = 1.0,
    ) -> None:
        self.interval_s = interval_s
        self.min_step = min_step
        self.min_points = min_points
        self.lookahead = lookahead
        self.z = z

    def decide(self, evidence: Evidence) -> StopDecision:
        """Judge by the validation trajectory alone."""
        points = _trajectory(evidence)
        if (
            len(points) < self.min_points
            or points[-1].step < self.min_step
            or evidence.incumbent_score is None
        ):
            return StopDecision(False, "too early to tell")
        rate, error = slope(points)
        horizon = evidence.steps * (1 + self.lookahead) - points[-1].step
        level = sum(p.score for p in points) / len(points) + rate * (points[-1].step - points[0].step) / 2
        reach = (
            max(level, points[-1].score)
            + self.z * points[-1].stderr
            + max(0.0, rate + self.z * error) * horizon
        )
        details = {
            "level": level,
            "slope": rate,
            "slope_stderr": error,
            "reach": reach,
            "incumbent": evidence.incumbent_score,
        }
        hopeless = reach < evidence.incumbent_score
        verdict = "cannot reach" if hopeless else "may still reach"
        return StopDecision(
            hopeless,
            f"at best {reach:.3f} within {horizon:.0f} steps: {verdict} {evidence.incumbent_score:.3f}",
            details,
        )


def _trajectory(evidence: Evidence) -> list[ValidationPoint]:
    """Return the stage's validation points, after the score it began with, whose error is taken to be the first point's."""
    points = list(evidence.validation)
    if points and evidence.start_score is not None:
        points.insert(0, replace(points[0], step=0, score=evidence.start_score))
    return points
