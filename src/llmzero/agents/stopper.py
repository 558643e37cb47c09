"""Early stoppers that need no language model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from llmzero.core.settings import setting
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.outlook import Outlook, outlook, trajectory
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
    z: float = setting(0.5, "standard errors of optimism in what the rest of the stage gains", low=0)
    level_z: float = setting(
        1.0, "standard errors below the best path at its depth that a stage is level with it", low=0
    )


class CurveStopper:
    """Stops a stage whose path has no realistic chance of passing the best score of the search.

    What the rest of the stage brings is weighed from the line through its points and from what stages of this
    search gain, see `Outlook`. From its end the path goes on for the levels and stages that are left, with
    the gains that the search's own model expects. A stage that is level with the best path's stage of the
    same depth is never stopped, and exploration gets half of its stage.
    """

    def __init__(self, settings: CurveStopperSettings) -> None:
        self.settings = settings
        self.interval_s = settings.interval_s

    def decide(self, evidence: Evidence) -> StopDecision:
        """Judge by validation trajectories alone."""
        points = trajectory(evidence)
        if (
            len(points) < self.settings.min_points
            or points[-1].step < self.settings.min_step
            or evidence.incumbent_score is None
        ):
            return StopDecision(False, "too early to tell")
        seen = outlook(evidence, self.settings.z)
        details = {name: value for name, value in asdict(seen).items() if value is not None}
        reason = f"at best {seen.reach:.3f} at its end"
        if seen.ahead:
            reason += f" and {seen.path:.3f} on its path ({seen.ahead} more stages)"
        if seen.path >= seen.incumbent:
            return StopDecision(False, f"{reason}: may still reach {seen.incumbent:.3f}", details)
        reason += f": cannot reach {seen.incumbent:.3f}"
        spared = self._spared(evidence, seen)
        return StopDecision(not spared, f"{reason}, but {spared}" if spared else reason, details)

    def _spared(self, evidence: Evidence, seen: Outlook) -> str:
        """Return why a stage goes on all the same; nothing where it does not."""
        if seen.lead is not None and seen.lead >= -self.settings.level_z * seen.noise:
            return f"level with the best path at depth {evidence.stage.depth} ({seen.lead:+.3f})"
        if seen.share >= 0.5:
            return ""
        if raised := explored(evidence):
            return f"{raised} was raised, and exploration gets half a stage"
        return "it recovers from a dip, and gets half a stage" if _recovers(evidence) else ""


def explored(evidence: Evidence) -> str:
    """Return the names of the exploration parameters that the stage's proposal raised."""
    raised = [
        name
        for name, value in evidence.stage.changes.items()
        if name in evidence.catalogue
        and evidence.catalogue[name].explores
        and len(evidence.path) > 1
        and value > evidence.path[-2].hparams[name]
    ]
    return ", ".join(raised)


def _recovers(evidence: Evidence) -> bool:
    """Whether the score fell after the start of the stage and has turned up since."""
    scores = [point.score for point in trajectory(evidence)]
    lowest = scores.index(min(scores))
    return 0 < lowest < len(scores) - 1 and scores[-1] > scores[-2]
