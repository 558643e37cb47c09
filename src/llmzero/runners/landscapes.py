"""An analytic model of GRPO: how a policy changes in a step, on landscapes of qualitatively different difficulty.

A policy has a skill (the score it would get if nothing were cut off), an entropy, a divergence from the base model, a length, and
two things no metric shows: its *foundation*, on which the highest skill rests that it can reach, and *damage*, which stays. All
hyperparameters count relative to a landscape's reference values, so that the same equations serve models of any size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmzero.hparams import HParams

# The practitioner's values of conf/hparams/grpo.yaml. Catalogues that lack a parameter have it at its reference.
REFERENCE: Mapping[str, float] = {
    "learning_rate": 1e-6,
    "group_size": 8,
    "prompts_per_step": 64,
    "max_completion_length": 1024,
    "kl_coef": 0.001,
    "entropy_coef": 0.0,
    "temperature": 1.0,
    "clip_high": 0.2,
    "epochs": 1,
    "minibatches": 1,
    "max_grad_norm": 1.0,
    "warmup_steps": 0,
}
NANO: Mapping[str, float] = {**REFERENCE, "learning_rate": 1e-4, "prompts_per_step": 32, "max_completion_length": 16}
VARIED = 0.15  # standard deviation of the logarithm by which an instance's constants differ from its family's


@dataclass(frozen=True)
class Landscape:
    """A family of problems. Rates are a step; `varied` constants differ from one instance to the next.

    Attributes:
        start: skill of the base model; `low` and `high`: what can be reached without and with a whole foundation.
        speed: share of the way to the reachable skill that a step of the best size goes.
        early, late: best step size at the beginning and near the goal, in multiples of the reference.
        capacity: how much a doubling of the completions a step adds to the best step size.
        fog: skill that gradient noise keeps out of reach, at the reference step and batch: it shrinks with smaller steps on larger batches.
        hard: chance that a completion solves what is left at the start; small values need large groups to find a signal.
        erosion, growth: how greedy steps wear the foundation, and careful, diverse ones build it.
        drift: nats of divergence a step; beyond `kl_limit` every step does damage.
        cooling: share of entropy that a step of reference size takes.
        lengthening: growth of completions a step of reference size; `length`: of the base model, as a share of the reference limit.
        memory: completion tokens a step that fit, in multiples of the reference.
        examples: of a validation.
        step_seconds: device seconds of a step at the reference.
    """

    start: float = 0.25
    low: float = 0.85
    high: float = 0.85
    speed: float = 0.02
    early: float = 3.0
    late: float = 1.0
    capacity: float = 0.35
    fog: float = 0.1
    hard: float = 0.25
    erosion: float = 0.0
    growth: float = 0.0
    drift: float = 0.003
    kl_limit: float = 3.0
    cooling: float = 0.004
    lengthening: float = 0.0
    length: float = 0.35
    memory: float = math.inf
    examples: int = 500
    step_seconds: float = 1.0
    reference: Mapping[str, float] = field(default_factory=lambda: REFERENCE)

    def instance(self, number: int) -> Landscape:
        """Return one problem of the family."""
        rng = random.Random(f"instance/{number}")
        varied = ("speed", "early", "late", "hard", "erosion", "growth", "drift", "cooling", "lengthening")
        changed = {name: getattr(self, name) * math.exp(rng.gauss(0.0, VARIED)) for name in varied}
        return replace(self, start=self.start * math.exp(rng.gauss(0.0, VARIED)), **changed)


LANDSCAPES: Mapping[str, Landscape] = {
    "easy": Landscape(),
    "deceptive": Landscape(low=0.45, high=0.98, early=1.5, late=1.5, speed=0.03, erosion=0.03, growth=0.025),
    "plateau": Landscape(hard=0.003, early=2.0, capacity=0.5, speed=0.03),
    "kl_collapse": Landscape(early=4.0, late=1.5, drift=0.008, kl_limit=0.8, high=0.9, low=0.9),
    "entropy_collapse": Landscape(early=3.0, late=2.0, cooling=0.022, high=0.9, low=0.9, speed=0.015),
    "length_explosion": Landscape(early=3.0, late=1.5, lengthening=0.01, high=0.9, low=0.9),
    "noisy": Landscape(examples=60),
    "memory_wall": Landscape(hard=0.02, memory=2.5, capacity=0.6, fog=0.2),
    "nano": Landscape(start=0.2, low=0.75, high=0.75, hard=0.1, drift=0.0012, length=0.49, examples=1000, step_seconds=0.4, reference=NANO),
}


@dataclass(frozen=True)
class Policy:
    """A simulated policy; entropy and divergence in nats a token, length as a share of the reference limit."""

    skill: float
    length: float
    entropy: float = 0.6
    kl: float = 0.0
    foundation: float = 0.5
    damage: float = 0.0
    global_step: int = 0

    def score(self, hparams: HParams, land: Landscape) -> float:
        """Return the true score: skill, less what damage, noise and the length limit cost."""
        noise = 1 - 0.5 * max(0.0, self.entropy - 1.0)
        return max(0.0, (self.skill - self.damage) * noise * (1 - truncated(self, hparams, land)))


@dataclass(frozen=True)
class Step:
    """One GRPO step: the policy after it, and what there was to see."""

    policy: Policy
    size: float  # of the step, in multiples of the best one for this policy
    informative: float  # share of groups whose completions differ in reward


def relative(hparams: Mapping[str, Any], land: Landscape, name: str) -> float:
    """Return a value in multiples of its reference."""
    return float(hparams.get(name, land.reference[name])) / land.reference[name]


def absolute(hparams: Mapping[str, Any], land: Landscape, name: str) -> float:
    """Return a value, or its reference where the catalogue has none."""
    return float(hparams.get(name, land.reference[name]))


def completions(hparams: HParams, land: Landscape) -> float:
    """Return completions a step in multiples of the reference."""
    return relative(hparams, land, "group_size") * relative(hparams, land, "prompts_per_step")


def updates(hparams: HParams, land: Landscape) -> float:
    """Return optimizer updates a step."""
    return absolute(hparams, land, "epochs") * absolute(hparams, land, "minibatches")


def truncated(policy: Policy, hparams: HParams, land: Landscape) -> float:
    """Return the share of completions that are cut: lengths are spread around the mean as a logistic of a fifth of it."""
    room = relative(hparams, land, "max_completion_length") - policy.length
    return 1 / (1 + math.exp(min(50.0, room / (0.15 * policy.length))))


def progress(policy: Policy, land: Landscape) -> float:
    """Return how much of the way from the base model to the highest skill is done, from 0 to 1."""
    return min(1.0, max(0.0, (policy.skill - land.start) / (land.high - land.start)))


def seconds(policy: Policy, hparams: HParams, land: Landscape) -> float:
    """Return device seconds of a step: half of it sampling, the other half updates, in tokens."""
    length = min(policy.length, relative(hparams, land, "max_completion_length")) / land.length
    passes = absolute(hparams, land, "epochs") + 0.05 * (updates(hparams, land) - 1)
    return land.step_seconds * (0.15 + 0.85 * completions(hparams, land) * length * (0.4 + 0.6 * passes))


def step(policy: Policy, hparams: HParams, land: Landscape) -> Step:
    """Return what one GRPO step does."""
    done = progress(policy, land)
    warm = min(1.0, (policy.global_step + 1) / (absolute(hparams, land, "warmup_steps") + 1))
    pushed = relative(hparams, land, "learning_rate") * warm * updates(hparams, land) ** 0.7
    best = (land.early * (1 - done) + land.late * done) * max(0.3, 1 + land.capacity * math.log2(completions(hparams, land)))
    size = pushed / best
    held = 1 / (1 + 15 * absolute(hparams, land, "kl_coef"))
    calm = min(1.0, relative(hparams, land, "max_grad_norm")) ** 0.3
    informative = _informative(policy, hparams, land)
    alive = min(1.0, policy.entropy / 0.15)
    useful = size * math.exp(1 - size) if size < 8 else 0.0  # 1 at the best size
    reachable = land.low + (land.high - land.low) * policy.foundation - land.fog * pushed**0.5 / completions(hparams, land) ** 0.7
    gain = land.speed * useful * informative * alive * held * (reachable - policy.skill)
    harm = 0.004 * max(0.0, size * calm - 2.0) ** 1.5
    return Step(_moved(policy, hparams, land, pushed * held, gain, harm), size, informative)


def _informative(policy: Policy, hparams: HParams, land: Landscape) -> float:
    """Return the share of groups in which some completions succeed and some do not, at the chance that skill gives on what is left."""
    chance = land.hard + (1 - land.hard) * progress(policy, land) * 0.6
    spread = chance * min(1.0, policy.entropy / 0.3) * min(1.2, absolute(hparams, land, "temperature"))
    size = absolute(hparams, land, "group_size")
    share = 1 - math.pow(1 - min(0.98, spread), size) - math.pow(min(0.98, spread), size)
    return max(0.0, share) * (1 - truncated(policy, hparams, land))


def _moved(policy: Policy, hparams: HParams, land: Landscape, moved: float, gain: float, harm: float) -> Policy:
    """Return the policy after a step that moved it so far from where it was, in multiples of the reference step."""
    bonus = absolute(hparams, land, "entropy_coef") * 1.2 + max(0.0, absolute(hparams, land, "temperature") - 1) * 0.02
    bonus += max(0.0, absolute(hparams, land, "clip_high") - 0.2) * 0.02
    warmth = bonus * (1.4 - policy.entropy)
    greed = max(0.0, moved - 0.7) - 5 * bonus
    built = land.growth * max(0.0, 1.0 - moved) * (1 - policy.foundation) + (land.growth * 5 * bonus) * (1 - policy.foundation)
    worn = land.erosion * max(0.0, greed) * policy.foundation
    pull = 1 - min(0.5, 0.5 * absolute(hparams, land, "kl_coef"))
    kl = (policy.kl + land.drift * moved**1.5) * pull
    broken = 0.02 * max(0.0, kl / land.kl_limit - 1)
    grown = 1 + land.lengthening * min(4.0, moved) / (1 + 40 * absolute(hparams, land, "kl_coef"))
    return Policy(
        skill=min(0.99, max(0.0, policy.skill + gain - harm)),
        length=min(3.0, policy.length * grown),
        entropy=max(0.01, policy.entropy * (1 - min(0.5, land.cooling * moved)) + warmth),
        kl=kl,
        foundation=min(1.0, max(0.0, policy.foundation + built - worn)),
        damage=policy.damage + broken,
        global_step=policy.global_step + 1,
    )


def fits(hparams: HParams, land: Landscape) -> bool:
    """Whether a step's completions fit into memory."""
    return completions(hparams, land) * relative(hparams, land, "max_completion_length") <= land.memory


def policy_from(state: Mapping[str, Any]) -> Policy:
    """Read what `asdict` wrote."""
    return Policy(**{entry.name: state[entry.name] for entry in fields(Policy)})
