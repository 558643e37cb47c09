"""Naming what is wrong with a stage, from its metrics: statistics and thresholds, no model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from llmzero.core.stage import ValidationPoint
from llmzero.evidence.evidence import Evidence

# Thresholds. Shares and ratios are free of scale; the two in nats suit token-level metrics of any model.
TRUNCATED_SHARE = 0.1
RIGHT_SHARE = 0.6  # of the completions that end
QUIET_GROUPS_SHARE = 0.6
WRONG_GROUPS_SHARE = 0.25  # that hold no right completion, at the least
HALF_RIGHT = 0.5  # of the completions, below which problems may be out of reach, above which outgrown
ENTROPY_COLLAPSE_RATIO = 0.4
ENTROPY_EXPLOSION_RATIO = 1.5
KL_BLOWUP_NATS = 1.0
STILL_KL_NATS = 0.05
STILL_CLIP_SHARE = 0.02
GRADIENT_SPIKE_RATIO = 6.0
STRONG_KL_COEF = 0.02


def diagnose(evidence: Evidence) -> list[str]:
    """Return the pathologies of a finished stage, gravest first; else `healthy` or `untrained`."""
    if evidence.stage.state == "failed":
        return ["failure"]
    if not evidence.metrics:
        return ["untrained"]
    gain, noise = score_gain(evidence)
    norms = evidence.column("grad_norm")
    clipped = late(evidence, "clip_fraction_low") + late(evidence, "clip_fraction_high")
    still = late(evidence, "kl") < STILL_KL_NATS
    regularised = evidence.stage.hparams.get("kl_coef", 0.0) >= STRONG_KL_COEF
    truncated = late(evidence, "truncated_fraction")
    score, quiet = late(evidence, "train_score"), late(evidence, "zero_variance_groups")
    easiest = evidence.stage.hparams.get("easiest")  # is not in every catalogue
    pathologies = {
        "regression": gain < -noise,
        "kl_blowup": late(evidence, "kl") > KL_BLOWUP_NATS and gain < noise,
        "entropy_collapse": ratio(evidence, "entropy") < ENTROPY_COLLAPSE_RATIO,
        "entropy_explosion": ratio(evidence, "entropy") > ENTROPY_EXPLOSION_RATIO and gain < noise,
        "unstable_gradients": bool(norms) and max(norms) > GRADIENT_SPIKE_RATIO * median(norms),
        "held_back": truncated > TRUNCATED_SHARE and score > RIGHT_SHARE * (1 - truncated),
        # Groups that are right throughout are no larger a share than the score.
        "too_hard": easiest is not None and quiet - score > WRONG_GROUPS_SHARE and score < HALF_RIGHT,
        "outgrown": easiest is not None and easiest < 1 and score > HALF_RIGHT,
        "truncation": truncated > TRUNCATED_SHARE,
        "no_reward_variance": quiet > QUIET_GROUPS_SHARE,
        "over_regularised": regularised and still and gain < noise,
        "slow_progress": still and clipped < STILL_CLIP_SHARE and gain < 2 * noise,
        "plateau": gain < noise,
    }
    return [name for name, present in pathologies.items() if present] or ["healthy"]


def score_gain(evidence: Evidence) -> tuple[float, float]:
    """Return how far the later validation points lie above the stage's start, and its standard error."""
    points = evidence.validation
    if not points or evidence.start_score is None:
        return 0.0, 0.0
    later = points[len(points) // 2 :]
    noise = (points[-1].stderr ** 2 * (1 + 1 / len(later))) ** 0.5
    return fmean(p.score for p in later) - evidence.start_score, noise


def late(evidence: Evidence, metric: str) -> float:
    """Return the mean of a metric over the last third of the stage; 0 where it was not recorded."""
    values = evidence.column(metric)
    return fmean(values[-max(1, len(values) // 3) :]) if values else 0.0


def ratio(evidence: Evidence, metric: str) -> float:
    """Return the late level of a metric over its level in the first third; 1 where it was not recorded."""
    values = evidence.column(metric)
    if not values:
        return 1.0
    early = fmean(values[: max(1, len(values) // 3)])
    return late(evidence, metric) / early if early > 0 else 1.0


def slope(points: Sequence[ValidationPoint]) -> tuple[float, float]:
    """Return the least-squares slope of the score a step, and its standard error (from the points' own)."""
    steps = [float(p.step) for p in points]
    centre = fmean(steps)
    spread = sum((s - centre) ** 2 for s in steps)
    if spread == 0:
        return 0.0, 0.0
    value = sum((s - centre) * p.score for s, p in zip(steps, points, strict=True)) / spread
    error = sum(((s - centre) * p.stderr) ** 2 for s, p in zip(steps, points, strict=True)) ** 0.5 / spread
    return value, error
