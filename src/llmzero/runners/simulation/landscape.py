"""Families of problems: the constants of the equations in `policy.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmzero.runners.simulation.costs import Costs

VARIED = 0.15  # standard deviation of the logarithm by which an instance's constants differ from its family's
RATES = (
    "quick",
    "slow",
    "jitter",
    "critical",
    "hard",
    "wear",
    "build",
    "drift",
    "kl_limit",
    "cooling",
    "lengthening",
)


@dataclass(frozen=True)
class Landscape:
    """A family of problems.

    Rates are those of a reference step: the practitioner's learning rate, one update.

    Attributes:
        top: the score when everything is learnt.
        habits, craft: what bad habits and lacking craft cost the base model, in score.
        quick, slow: share of habits and of craft that a reference step with a clear signal removes.
        scale: learning rate that acts as the reference does, in multiples of it: where the good values lie
            for this problem.
        reuse: exponent of the updates a step in how far it moves the policy.
        jitter: score that the noise in a reference step on a reference batch costs; `stir`: exponent of the
            updates a step in how far it shakes.
        scar: share of that which costs craft, and comes back slowly.
        heat: by how much a temperature that is 1 higher raises the noise, as an exponent.
        calming: exponent of the batch in by how much larger ones quiet that noise.
        critical: batch whose signal is as strong as its noise, at the base model; `late`: by how much more of
            it is needed at the end.
        hard, ease: chance that a completion succeeds, at the base model and in addition once all is learnt.
        room: length limit that half of what is to be learnt needs, in multiples of the reference; 0 needs
            none.
        depth: share of the craft that rests on the foundation; `foundation`: of the base model, from 0 to 1.
        wear, build: how greedy steps wear the foundation and careful, diverse ones build it.
        drift: nats of divergence from the base model that a reference step adds; `stride`: exponent of a
            step's size in it; `hurry`: by how much more it is at the end; `slip`: by how much more of a
            policy that has unlearnt everything.
        tether: share of kl_coef's pull on the divergence by which the policy also unlearns.
        kl_limit: divergence in nats beyond which the policy breaks.
        entropy: of the base model, in nats a token; `cooling`: share that a reference step takes.
        warmth: growth of entropy in a reference step at an entropy_coef of 1.
        sharp: share of the score that only a policy without entropy gets.
        length: of the base model's completions; `lengthening`: by how much of it a reference step stretches
            them.
        spread: of the lengths around their mean, as a share of it.
        memory: completion tokens a step that fit, `sequence`: tokens of a completion; in multiples of the
            reference.
        luck: standard deviation of what chance adds to a step, as a share of what its noise costs.
        examples: of a validation.
    """

    top: float = 0.85
    habits: float = 0.2
    craft: float = 0.4
    quick: float = 0.15
    slow: float = 0.006
    scale: float = 1.0
    reuse: float = 0.6
    jitter: float = 0.006
    stir: float = 0.3
    scar: float = 0.03
    heat: float = 1.5
    calming: float = 0.3
    critical: float = 0.5
    late: float = 4.0
    hard: float = 0.25
    ease: float = 0.5
    room: float = 0.0
    depth: float = 0.0
    foundation: float = 1.0
    wear: float = 0.0
    build: float = 0.0
    drift: float = 0.002
    stride: float = 1.5
    hurry: float = 0.0
    slip: float = 0.0
    tether: float = 0.05
    kl_limit: float = 3.0
    entropy: float = 0.6
    cooling: float = 0.004
    warmth: float = 2.0
    sharp: float = 0.0
    length: float = 0.4
    lengthening: float = 0.0
    spread: float = 0.2
    memory: float = 8.0
    sequence: float = 8.0
    luck: float = 0.3
    examples: int = 500
    costs: Costs = field(default_factory=Costs)

    @property
    def start(self) -> float:
        """Score of the base model, but for what its entropy and its longest completions cost."""
        return self.top - self.habits - self.craft

    def instance(self, number: int) -> Landscape:
        """Return one problem of the family, with its own rates, base score and good learning rates."""
        rng = random.Random(f"instance/{number}")
        rates = {name: getattr(self, name) * math.exp(rng.gauss(0.0, VARIED)) for name in RATES}
        scale = self.scale * math.exp(rng.gauss(0.0, 2 * VARIED))
        habits = self.habits * math.exp(rng.gauss(0.0, VARIED))
        return replace(self, **rates, scale=scale, habits=min(habits, self.top - self.craft - 0.02))


LANDSCAPES: Mapping[str, Landscape] = {
    "easy": Landscape(slow=0.02, jitter=0.001, late=2.0),
    "deceptive": Landscape(top=0.92, craft=0.5, depth=0.9, foundation=0.4, wear=0.035, build=0.1, slow=0.012),
    "plateau": Landscape(hard=0.001, room=1.0, slow=0.008, jitter=0.01, late=8.0),
    "kl_collapse": Landscape(top=0.9, drift=0.001, hurry=40.0, kl_limit=0.9),
    "entropy_collapse": Landscape(top=0.95, cooling=0.08, warmth=4.0, sharp=0.15, slow=0.01),
    "length_explosion": Landscape(top=0.9, lengthening=0.012),
    "noisy": Landscape(jitter=0.012, critical=1.5, late=8.0, luck=1.0, examples=60),
    "memory_wall": Landscape(
        hard=0.03, ease=0.6, critical=1.5, memory=2.0, sequence=3.0, slow=0.008, jitter=0.01
    ),
    "nano": Landscape(
        top=0.6735,
        habits=0.09694,
        quick=0.08505,
        slow=0.006491,
        reuse=0.7663,
        stir=0.3181,
        jitter=0.03862,
        calming=0.2525,
        scar=0.4349,
        heat=2.426,
        critical=0.2148,
        late=0.5961,
        hard=0.5832,
        ease=0.2026,
        drift=0.0006231,
        stride=1.792,
        slip=4.732,
        tether=0.03872,
        kl_limit=0.5889,
        cooling=0.006547,
        warmth=0.08643,
        craft=0.3776,
        length=0.476,
        entropy=0.579,
        luck=0.5,
        memory=math.inf,
        sequence=math.inf,
        examples=1000,
        costs=Costs(
            sampling=0.0659,
            decode=0.021,
            reward=0.00437,
            logprobs=0.0691,
            update=0.157,
            optimizer=0.0268,
            validation=0.721,
            startup=4.59,
        ),
    ),  # benchmarks/simulator_fit.py
}
