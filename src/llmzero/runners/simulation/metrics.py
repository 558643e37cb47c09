"""A simulated step as a trainer would log it: every metric of conf/metrics.yaml that does not belong to a particular task."""

from __future__ import annotations

import math
from random import Random

from llmzero.runners.simulation.costs import StepSeconds
from llmzero.runners.simulation.drive import Drive
from llmzero.runners.simulation.landscape import Landscape
from llmzero.runners.simulation.policy import Glimpse, Policy

NAMES = (
    *("step", "global_step", "reward_mean", "reward_std", "train_score", "zero_variance_groups", "completion_length_mean"),
    *("completion_length_max", "truncated_fraction", "prompts_sampled", "entropy", "kl", "clip_fraction_low", "clip_fraction_high"),
    *("offpolicy_kl", "loss", "learning_rate", "grad_norm", "skipped_updates", "mismatch_kl", "mismatch_ratio_min", "mismatch_ratio_max"),
    *("mismatch_outside", "step_seconds", "seconds_generation", "seconds_reward", "seconds_logprobs", "seconds_update", "seconds_handover"),
    *("seconds_validation", "seconds_checkpoint", "tokens", "gpu_seconds"),
)
COUNTS = ("step", "global_step", "tokens")
LINE = "{" + ", ".join(f'"{name}": %{"d" if name in COUNTS else ".6g"}' for name in NAMES) + "}\n"
ROUNDING = 1e-12  # divergence of a policy from itself, as arithmetic leaves it


def line(
    number: int, policy: Policy, seen: Glimpse, land: Landscape, drive: Drive, anchor: float, seconds: StepSeconds, validating: float,
    spent: float, noise: float, rng: Random,
) -> str:  # fmt: skip
    """Return a line of `metrics.jsonl`.

    Args:
        number: of the step within its stage.
        policy: after the step; `seen`: what there was to see of it.
        anchor: divergence in nats of the policy that kl_coef pulls towards.
        validating: device seconds of the validation after the step; `spent`: of the stage so far.
        noise: multiplies the standard deviations of everything that is measured on a batch.
    """
    draw = rng.gauss
    sampled = policy.score(land, drive.room) * (1 - 0.15 * min(1.0, drive.temperature * policy.entropy / land.entropy))
    score = _share(sampled, drive.completions, noise * draw(0, 1))
    quiet = _share(1 - seen.informative, drive.prompts, noise * draw(0, 1))
    cut = _share(seen.cut, drive.completions, noise * draw(0, 1))
    deviation = max(0.02, math.sqrt(score * (1 - score)))
    mean = min(policy.length, drive.room) * drive.unit * (1 + 0.02 * noise * draw(0, 1))
    longest = min(drive.limit, mean * (1 + 3.5 * land.spread * (1 + 0.1 * noise * draw(0, 1))))
    strayed = seen.stray / drive.width
    clipped = 0.05 * strayed / (1 + strayed) * (1 + 0.2 * noise * abs(draw(0, 1)))
    norm = (0.3 + 0.3 * math.sqrt(drive.updates)) * (1 + 0.1 * noise * draw(0, 1)) * (1 + 12 * policy.damage * abs(draw(0, 1)))
    divergence = max(0.0, policy.kl - anchor) * (1 + 0.1 * noise * draw(0, 1)) if drive.kl_coef > 0 else 0.0
    return LINE % (
        *(number, policy.global_step, 0.9 * score + 0.1 * (1 - cut), deviation, score, quiet, mean, longest if cut < 0.01 else drive.limit, cut),
        *(drive.prompts, policy.entropy * drive.temperature * (1 + 0.03 * noise * draw(0, 1)), max(0.0, divergence)),
        *(1.5 * clipped, clipped, ROUNDING + 0.1 * seen.stray**2, 1e-5 * draw(0, 1), drive.learning_rate, abs(norm), 0.0),
        *(ROUNDING, 1 - 1e-5, 1 + 1e-5, 0.0, seconds.total, seconds.generation, seconds.reward, seconds.logprobs, seconds.update, 0.0),
        *(validating, 0.0, policy.tokens, spent),
    )


def _share(expected: float, count: float, draws: float) -> float:
    """Return a share observed among so many, so many standard deviations from what is expected."""
    return min(1.0, max(0.0, expected + draws * math.sqrt(max(0.0, expected * (1 - expected)) / count)))
