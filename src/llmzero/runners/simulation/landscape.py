"""Families of problems: the constants of the equations in `policy.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmzero.runners.simulation.costs import Costs

VARIED = 0.15  # standard deviation of the logarithm by which an instance's constants differ from its family's
RATES = ("quick", "slow", "jitter", "critical", "hard", "wear", "build", "drift", "kl_limit", "cooling", "lengthening")


@dataclass(frozen=True)
class Landscape:
    """A family of problems. Rates are those of a reference step: the practitioner's learning rate, one update.

    Attributes:
        top: the score when everything is learnt.
        habits, craft: what bad habits and lacking craft cost the base model, in score.
        quick, slow: share of habits and of craft that a reference step with a clear signal removes.
        scale: learning rate that acts as the reference does, in multiples of it: where the good values lie for this problem.
        reuse: exponent of the updates a step in how far it moves the policy.
        jitter: score that the noise in a reference step on a reference batch costs.
        calming: exponent of the batch in by how much larger ones quiet that noise.
        critical: batch whose signal is as strong as its noise, at the base model; `late`: by how much more of it is needed at the end.
        hard, ease: chance that a completion succeeds, at the base model and in addition once all is learnt.
        room: length limit that half of what is to be learnt needs, in multiples of the reference; 0 needs none.
        depth: share of the craft that rests on the foundation; `foundation`: of the base model, from 0 to 1.
        wear, build: how greedy steps wear the foundation and careful, diverse ones build it.
        drift: nats of divergence from the base model that a reference step adds; `hurry`: by how much more at the end.
        kl_limit: divergence in nats beyond which the policy breaks.
        entropy: of the base model, in nats a token; `cooling`: share that a reference step takes.
        sharp: share of the score that only a policy without entropy gets.
        length: of the base model's completions; `lengthening`: by how much of it a reference step stretches them.
        spread: of the lengths around their mean, as a share of it.
        memory: completion tokens a step that fit, `sequence`: tokens of a completion; in multiples of the reference.
        luck: standard deviation of what chance adds to a step, as a share of what its noise costs.
        examples: of a validation.
    """

    top: float = 0.85
    habits: float = 0.2
    craft: float = 0.4
    quick: float = 0.15
    slow: float = 0.02
    scale: float = 1.0
    reuse: float = 0.6
    jitter: float = 0.001
    calming: float = 0.5
    critical: float = 0.5
    late: float = 2.0
    hard: float = 0.25
    ease: float = 0.5
    room: float = 0.0
    depth: float = 0.0
    foundation: float = 1.0
    wear: float = 0.0
    build: float = 0.0
    drift: float = 0.002
    hurry: float = 0.0
    kl_limit: float = 3.0
    entropy: float = 0.6
    cooling: float = 0.004
    sharp: float = 0.0
    length: float = 0.4
    lengthening: float = 0.0
    spread: float = 0.2
    memory: float = math.inf
    sequence: float = math.inf
    luck: float = 0.3
    examples: int = 500
    costs: Costs = field(default_factory=Costs)

    @property
    def start(self) -> float:
        """Score of the base model, but for what its entropy and its longest completions cost."""
        return self.top - self.habits - self.craft

    def instance(self, number: int) -> Landscape:
        """Return one problem of the family: its rates differ, the base model's score, and where the good learning rates lie."""
        rng = random.Random(f"instance/{number}")
        rates = {name: getattr(self, name) * math.exp(rng.gauss(0.0, VARIED)) for name in RATES}
        scale = self.scale * math.exp(rng.gauss(0.0, 2 * VARIED))
        habits = self.habits * math.exp(rng.gauss(0.0, VARIED))
        return replace(self, **rates, scale=scale, habits=min(habits, self.top - self.craft - 0.02))


LANDSCAPES: Mapping[str, Landscape] = {
    "easy": Landscape(),
    "deceptive": Landscape(top=0.92, craft=0.5, depth=0.8, foundation=0.4, wear=0.025, build=0.08, slow=0.025),
    "plateau": Landscape(hard=0.002, ease=0.5, critical=0.4, jitter=0.0015, slow=0.03, room=1.0),
    "kl_collapse": Landscape(top=0.9, drift=0.006, hurry=3.0, kl_limit=0.9, jitter=0.0012),
    "entropy_collapse": Landscape(top=0.95, cooling=0.05, sharp=0.15, slow=0.015),
    "length_explosion": Landscape(top=0.9, lengthening=0.012, memory=8.0),
    "noisy": Landscape(jitter=0.004, critical=2.0, late=4.0, luck=1.0, examples=60),
    "memory_wall": Landscape(hard=0.03, ease=0.6, critical=1.5, memory=4.0, sequence=4.0, slow=0.03),
}
