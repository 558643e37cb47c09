"""A simulated step as a trainer logs it: every metric of conf/metrics.yaml that is of no particular task."""

from __future__ import annotations

import json
import math
from random import Random

from llmzero.runners.simulation.costs import StepSeconds
from llmzero.runners.simulation.drive import Drive
from llmzero.runners.simulation.landscape import Landscape
from llmzero.runners.simulation.policy import Glimpse, Policy

NAMES = (
    *(
        "step",
        "global_step",
        "reward_mean",
        "reward_std",
        "train_score",
        "zero_variance_groups",
        "all_right_groups",
        "all_wrong_groups",
        "completion_length_mean",
    ),
    *(
        "completion_length_max",
        "truncated_fraction",
        "prompts_sampled",
        "entropy",
        "kl",
        "clip_fraction_low",
        "clip_fraction_high",
    ),
    *(
        "offpolicy_kl",
        "loss",
        "learning_rate",
        "grad_norm",
        "skipped_updates",
        "mismatch_kl",
        "mismatch_ratio_min",
        "mismatch_ratio_max",
    ),
    *(
        "mismatch_outside",
        "step_seconds",
        "seconds_generation",
        "seconds_reward",
        "seconds_logprobs",
        "seconds_update",
        "seconds_handover",
    ),
    *("seconds_validation", "seconds_checkpoint", "tokens", "gpu_seconds", "step_flops", "flops"),
)
FORMATS = {
    **dict.fromkeys(("step", "global_step", "tokens"), "d"),
    **dict.fromkeys(("step_flops", "flops"), "s"),
}
LINE = "{" + ", ".join(f'"{name}": %{FORMATS.get(name, ".6g")}' for name in NAMES) + "}\n"
ROUNDING = 1e-12  # divergence of a policy from itself, as arithmetic leaves it


class Metrics:
    """Writes the lines of one stage.

    Args:
        anchor: divergence in nats of the policy that kl_coef pulls towards.
        noise: multiplies the standard deviations of everything that is measured on a batch.
        rng: where they are drawn from.
    """

    def __init__(self, land: Landscape, drive: Drive, anchor: float, noise: float, rng: Random) -> None:
        self.land, self.drive, self.anchor, self.noise, self.rng = land, drive, anchor, noise, rng

    def line(
        self,
        number: int,
        policy: Policy,
        seen: Glimpse,
        seconds: StepSeconds,
        validating: float,
        spent: float,
        flops: float,
        left: float,
    ) -> str:
        """Return a line of `metrics.jsonl`.

        Args:
            number: of the step within its stage.
            policy: as it is after the step.
            seen: what there was to see of the step.
            seconds: that the step took.
            validating: device seconds of the validation that follows; 0 where none does.
            spent: device seconds of the stage so far.
            flops: compute of the step.
            left: what `lr_schedule` leaves of the learning rate.
        """
        drive, draw = self.drive, self._draw
        score, quiet, cut = self._shares(policy, seen)
        right = quiet * min(1.0, seen.right / max(1e-9, 1 - seen.informative))
        mean = min(policy.length, drive.room) * drive.unit * (1 + 0.02 * draw())
        longest = min(drive.limit, mean * (1 + 3.5 * self.land.spread * (1 + 0.1 * draw())))
        entropy = policy.entropy * drive.temperature * (1 + 0.03 * draw())
        clipped = 0.05 * (1 - 1 / (1 + seen.stray / drive.width)) * (1 + 0.2 * abs(draw()))
        return LINE % (
            *(
                number,
                policy.global_step,
                0.9 * score + 0.1 * (1 - cut),
                max(0.02, math.sqrt(score * (1 - score))),
                score,
                quiet,
                right,
                quiet - right,
            ),
            *(
                mean,
                longest if cut < 0.01 else drive.limit,
                cut,
                drive.prompts,
                entropy,
                self._divergence(policy),
                1.5 * clipped,
                clipped,
            ),
            *(
                ROUNDING + 0.1 * seen.stray**2,
                1e-5 * draw(),
                drive.learning_rate * left,
                self._norm(policy),
                0.0,
                ROUNDING,
                1 - 1e-5,
                1 + 1e-5,
                0.0,
            ),
            *(
                seconds.total,
                seconds.generation,
                seconds.reward,
                seconds.logprobs,
                seconds.update,
                0.0,
                validating,
                0.0,
                policy.tokens,
                spent,
                json.dumps(flops),
                json.dumps(policy.flops),
            ),
        )

    def _draw(self) -> float:
        return self.noise * self.rng.gauss(0.0, 1.0)

    def _shares(self, policy: Policy, seen: Glimpse) -> tuple[float, float, float]:
        """Return the batch's score, its share of groups without variance, and of truncated completions."""
        warmth = min(1.0, self.drive.temperature * policy.entropy / self.land.entropy)
        score = policy.score(self.land, self.drive.room) * (
            1 - 0.15 * warmth
        )  # sampling errs more often than the greedy choice
        counts = self.drive.completions, self.drive.prompts
        return (
            self._share(score, counts[0]),
            self._share(1 - seen.informative, counts[1]),
            self._share(seen.cut, counts[0]),
        )

    def _share(self, expected: float, count: float) -> float:
        """Return a share observed among so many."""
        return min(
            1.0, max(0.0, expected + self._draw() * math.sqrt(max(0.0, expected * (1 - expected)) / count))
        )

    def _divergence(self, policy: Policy) -> float:
        """Return what a trainer measures: nothing where it holds no reference model."""
        measured = self.drive.kl_coef > 0
        return max(0.0, policy.kl - self.anchor) * max(0.0, 1 + 0.1 * self._draw()) if measured else 0.0

    def _norm(self, policy: Policy) -> float:
        spike = 1 + 12 * policy.damage * abs(self._draw())
        return (0.3 + 0.3 * math.sqrt(self.drive.updates)) * max(0.2, 1 + 0.1 * self._draw()) * spike
