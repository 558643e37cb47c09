"""The equations: what a policy is, what it scores, and how a GRPO step changes it.

A noisy quadratic model of two speeds: what a policy lacks decays with every step, *habits* quickly and
*craft* slowly, and the noise of a step adds to the habits, with the square of its size. Large steps learn
craft fast and stand on a high floor of noise; small ones have a low floor and take long. So the best step
size changes on the way, and the score of the moment says little of what comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmzero.runners.simulation.drive import Drive
from llmzero.runners.simulation.landscape import Landscape

STRAY = 0.02  # how far a reference update takes probability ratios from 1
DILUTION = 0.5  # share of a step's learning that full exploration costs
PULL = 0.25  # share of its divergence that a reference step gives up at a kl_coef of 1
HOLD = 15.0  # how much a kl_coef of 1 shortens steps
HEAT = 0.02  # growth of entropy in a reference step at a temperature that is 1 higher
HOTTEST = 2.5  # entropy in multiples of the base model's, where bonuses act no more
# Entropy in multiples of the base model's, at which half of the completions of a group differ enough.
NUMB = 0.25
FAINT = 0.05  # share of informative groups at which the gradient, and with it the step, is half as large
BREAKING = 0.05  # damage of a step at twice the limit of divergence
LONGEST = 4.0  # completions, in multiples of the reference's limit


@dataclass(slots=True)
class Policy:
    """A policy and its optimizer; scores as shares of all questions, entropy and divergence in nats a token.

    Attributes:
        habits, craft: score that is missing still.
        foundation: from 0 to 1, what the slowest part of the craft rests on; no metric shows it.
        length: mean of its completions, in multiples of the reference limit.
        damage: share of the score that is lost for good.
        moments: steps that the optimizer state is old.
        tokens: of completions trained on since the base model; `flops`: of all steps, None where unknown.
    """

    habits: float
    craft: float
    foundation: float
    entropy: float
    length: float
    kl: float = 0.0
    damage: float = 0.0
    moments: int = 0
    global_step: int = 0
    tokens: float = 0.0
    flops: float | None = 0.0

    def learnt(self, land: Landscape) -> float:
        """Return the score but for what damage, entropy and the length limit cost."""
        return max(0.0, land.top - self.habits - self.craft)

    def progress(self, land: Landscape) -> float:
        """Return how much of the way from the base model to the top is done, from 0 to 1."""
        return min(1.0, max(0.0, (self.learnt(land) - land.start) / (land.top - land.start)))

    def score(self, land: Landscape, room: float) -> float:
        """Return the expected score of a greedy completion; `room` is in multiples of the reference limit."""
        warmth = self.entropy / land.entropy
        blurred = 1 - land.sharp * min(1.0, warmth) - 0.5 * max(0.0, warmth - 1.6)
        return (
            self.learnt(land)
            * (1 - self.damage)
            * max(0.0, blurred)
            * (1 - truncated(self.length, room, land))
        )


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What there was to see of a step.

    Attributes:
        move: how far it went, in multiples of a reference step; `stray`: of probability ratios from 1 within
            it.
        chance: that a completion succeeds; `informative`: share of groups whose completions differ in reward.
        right: share of groups whose completions all succeed.
        cut: share of completions that were cut off.
        noise: score that its noise cost.
    """

    move: float
    stray: float
    chance: float
    informative: float
    right: float
    cut: float
    noise: float


def base_policy(land: Landscape) -> Policy:
    """Return the base model."""
    return Policy(land.habits, land.craft, land.foundation, land.entropy, land.length)


def truncated(length: float, room: float, land: Landscape) -> float:
    """Return the share of completions longer than the limit: a logistic distribution around their mean."""
    return 1 / (1 + math.exp(min(50.0, (room - length) / (0.55 * land.spread * length))))


def advance(policy: Policy, land: Landscape, drive: Drive, taken: int, anchor: float, luck: float) -> Glimpse:
    """Take one GRPO step: change the policy and return what there was to see.

    Args:
        policy: what is changed.
        land: the problem.
        drive: the stage's hyperparameters.
        taken: steps that the stage has taken.
        anchor: divergence in nats of the policy that kl_coef pulls towards.
        luck: a draw from a standard normal distribution.
    """
    progress = policy.progress(land)
    cut = truncated(policy.length, drive.room, land)
    chance = _chance(land, drive, progress)
    informative, right = (share * (1 - cut) for share in _groups(chance, policy, land, drive))
    move, tremor, stray = _move(policy, land, drive, taken, informative)
    clear = drive.batch * informative
    clear /= clear + land.critical * (1 + land.late * progress)
    noise = _noise(policy, land, drive, tremor, clear)
    _learn(policy, land, drive, move * clear, noise * (1 + land.luck * luck))
    _unlearn(policy, land, drive, move)
    _found(policy, land, drive, move)
    _drift(policy, land, drive, move, progress, anchor)
    _cool(policy, land, drive, move, clear)
    stretch = land.lengthening * move * clear * (1 - 2 * cut) / (1 + 40 * drive.kl_coef)
    policy.tokens += drive.completions * min(policy.length, drive.room) * drive.unit
    policy.length = min(LONGEST, policy.length * math.exp(min(0.2, stretch)))
    policy.global_step += 1
    policy.moments += 1
    return Glimpse(move, stray, chance, informative, right, cut, noise)


def _move(
    policy: Policy, land: Landscape, drive: Drive, taken: int, informative: float
) -> tuple[float, float, float]:
    """Return how far the step goes, how far its noise goes, and how far its last update is off-policy.

    Clipping ends what strays too far; a leash shortens everything, and so does a batch that teaches almost
    nothing.
    """
    warm = min(1.0, ((taken if drive.rewarm else policy.global_step) + 1) / max(1.0, drive.warmup))
    rate = drive.rate * warm / land.scale
    stray = STRAY * rate * (drive.updates - 1)
    rate *= (
        informative
        / (informative + FAINT)
        * math.pow(min(1.0, drive.leash), 0.1)
        / (1 + HOLD * drive.kl_coef)
    )
    unclipped = 1 / (1 + stray / drive.width)
    moved, shaken = (
        rate * (1 + (math.pow(drive.updates, power) - 1) * unclipped) for power in (land.reuse, land.stir)
    )
    return moved, shaken, stray


def _chance(land: Landscape, drive: Drive, progress: float) -> float:
    """Return the chance that a sampled completion succeeds on what is to be learnt next."""
    heat = math.exp(-1.5 * max(0.0, drive.temperature - 1))
    room = 1 / (1 + math.exp(-4 * (drive.room / land.room - 1))) if land.room else 1.0
    return min(0.98, (land.hard + land.ease * progress) * heat * room)


def _groups(chance: float, policy: Policy, land: Landscape, drive: Drive) -> tuple[float, float]:
    """Return the shares of groups with reward variance, and of those that are all right.

    Without entropy a group is one completion many times.
    """
    warmth = policy.entropy / land.entropy * math.pow(drive.temperature, 1.5)
    alive = min(1.0, (1 + NUMB) * warmth / (warmth + NUMB))
    right = math.pow(chance, drive.group)
    informative = (1 - right - math.pow(1 - chance, drive.group)) * alive
    return informative, alive * right + (1 - alive) * chance


def _noise(policy: Policy, land: Landscape, drive: Drive, tremor: float, clear: float) -> float:
    """Return the score that the step's noise costs: more while the optimizer's moments are young."""
    young = 1 + math.exp(-policy.moments / 4)
    spikes = 0.5 + 0.5 * min(2.0, drive.leash)
    heat = math.exp(land.heat * max(0.0, drive.temperature - 1))
    return (
        land.jitter
        * min(tremor, 30.0) ** 2
        * (1 - clear)
        / math.pow(drive.batch, land.calming)
        * young
        * spikes
        * heat
    )


def _learn(policy: Policy, land: Landscape, drive: Drive, pace: float, noise: float) -> None:
    """Lose habits, gain craft down to what the foundation bears, and take the noise."""
    pace *= 1 - DILUTION * drive.explore
    floor = land.craft * land.depth * (1 - policy.foundation)
    noise *= policy.learnt(land) / land.top
    learnt = max(0.0, policy.craft - floor) * (1 - math.exp(-land.slow * pace))
    policy.craft = min(land.top, max(0.0, policy.craft - learnt + land.scar * noise))
    policy.habits = min(
        land.top - policy.craft,
        max(0.0, policy.habits * math.exp(-land.quick * pace) + (1 - land.scar) * noise),
    )


def _unlearn(policy: Policy, land: Landscape, drive: Drive, move: float) -> None:
    """Pull the policy back towards the base model; a reference that moves with the stages does not."""
    if not drive.to_parent:
        share = min(0.5, land.tether * PULL * drive.kl_coef * move)
        policy.habits += share * (land.habits - policy.habits)
        policy.craft += share * (land.craft - policy.craft)


def _found(policy: Policy, land: Landscape, drive: Drive, move: float) -> None:
    """Wear the foundation by greedy steps or build it by small, diverse ones; slowly where whole or gone."""
    built = land.build * drive.explore * move / (1 + move**3)
    worn = land.wear * move * (1 - 0.7 * drive.explore)
    change = policy.foundation * (1 - policy.foundation) * (built - worn)
    policy.foundation = min(1.0, max(0.0, policy.foundation + change))


def _drift(
    policy: Policy, land: Landscape, drive: Drive, move: float, progress: float, anchor: float
) -> None:
    """Diverge from the base model, faster once broken; beyond the limit take damage that feeds on itself."""
    lost = max(0.0, 1 - policy.learnt(land) / land.start)
    away = (
        land.drift
        * math.pow(move, land.stride)
        * (1 + land.hurry * progress + land.slip * lost)
        * (1 + 4 * policy.damage)
    )
    back = min(0.5, PULL * drive.kl_coef * move) * (policy.kl - anchor)
    policy.kl = min(50.0, max(0.0, policy.kl + away - back))
    beyond = max(0.0, policy.kl / land.kl_limit - 1)
    policy.damage = min(
        1.0, policy.damage + BREAKING * min(3.0, beyond) * (1 + 8 * policy.damage) * min(1.0, move)
    )


def _cool(policy: Policy, land: Landscape, drive: Drive, move: float, clear: float) -> None:
    """Lose entropy by learning; bonuses multiply what is left, so that what is gone comes back slowly."""
    bonus = land.warmth * drive.entropy_coef + HEAT * (drive.temperature - 1)
    lost = land.cooling * clear * math.sqrt(0.2 / drive.clip_high)
    change = move * (bonus * (1 - policy.entropy / (HOTTEST * land.entropy)) - lost)
    policy.entropy = max(0.002, policy.entropy * math.exp(max(-0.4, min(0.2, change))))
