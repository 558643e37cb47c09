"""Early stoppers that need no language model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmzero.core.settings import setting
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


@dataclass
class StopperSettings:
    """What early stoppers have in common."""

    interval_s: float = setting(1.0, "seconds between two judgements of a stage", low=0)
    min_step: int = setting(8, "no judgement before this step", low=1)
    audit_fraction: float = setting(
        0.0,
        "share of the stages to be stopped that run on, to see what stopping would have lost",
        low=0,
        high=1,
    )


@dataclass
class CurveStopperSettings(StopperSettings):
    """`stopper=curve`."""

    min_points: int = setting(3, "points needed, the start among them", low=2)
    lookahead: float = setting(
        0.0, "stage lengths beyond the end of this one in which its children may still catch up", low=0
    )
    z: float = setting(1.0, "standard errors of optimism in level and slope", low=0)


class CurveStopper:
    """Stops a stage whose validation curve has no realistic chance of passing the best score of the search.

    A line through the stage's points, its start included, is carried on at its *optimistic* slope to the end
    of the stage; score curves bend down, so a line is generous.
    """

    def __init__(self, settings: CurveStopperSettings) -> None:
        self.settings = settings
        self.interval_s = settings.interval_s

    def decide(self, evidence: Evidence) -> StopDecision:
        """Judge by the validation trajectory alone."""
        points = _trajectory(evidence)
        if (
            len(points) < self.settings.min_points
            or points[-1].step < self.settings.min_step
            or evidence.incumbent_score is None
        ):
            return StopDecision(False, "too early to tell")
        rate, error = slope(points)
        horizon = evidence.steps * (1 + self.settings.lookahead) - points[-1].step
        level = sum(p.score for p in points) / len(points) + rate * (points[-1].step - points[0].step) / 2
        reach = (
            max(level, points[-1].score)
            + self.settings.z * points[-1].stderr
            + max(0.0, rate + self.settings.z * error) * horizon
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
    """Return the stage's validation points after its start, which gets the first point's error."""
    points = list(evidence.validation)
    if points and evidence.start_score is not None:
        points.insert(0, replace(points[0], step=0, score=evidence.start_score))
    return points
