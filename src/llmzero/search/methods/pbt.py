"""Population based training, in the form of Ray Tune's scheduler.

Jaderberg et al., 2017, "Population Based Training of Neural Networks".
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from llmzero.core.hparams import Catalogue, HParams, Parameter, Value
from llmzero.core.settings import setting
from llmzero.search.methods.base import Expansion, MethodContext, memo_of
from llmzero.search.methods.chains import continuation, last_score
from llmzero.search.methods.configurations import random_configuration
from llmzero.search.methods.incremental import IncrementalMethod
from llmzero.tree.tree import Node, Tree

FACTORS = (1.2, 0.8)  # one of them multiplies a number that is perturbed
SMALLEST = 4  # members, where the budget affords them
# Members, unless there are more workers; a larger budget trains several populations. The paper's have 10 to
# 80.
LARGEST = 64
UNLIMITED = 8  # members, where the budget has no limit of stages


@dataclass
class PbtSettings:
    """`search=pbt`."""

    population: int | None = setting(
        None, "members; null is as many as the stages left can train to the end, from 4 to 64", low=2
    )
    quantile: float = setting(0.25, "share of members that copy, and that are copied", low=0, high=0.5)
    resample: float = setting(0.25, "chance that a perturbed value is drawn anew", low=0, high=1)


@dataclass
class Member:
    """A member of a population: the stages that it has trained, in order."""

    stages: list[Node] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether none of its stages runs."""
        return not self.stages or self.stages[-1].final

    @property
    def failed(self) -> bool:
        """Whether its last stage left nothing to go on from."""
        return bool(self.stages) and not self.stages[-1].usable

    def at(self, depth: int) -> Node | None:
        """Return its latest usable stage down to a depth."""
        return next((stage for stage in reversed(self.stages) if stage.usable and stage.depth <= depth), None)


@dataclass(frozen=True)
class Standing:
    """What a member is ranked by: the score of its stage `node`."""

    score: float
    number: int
    node: Node


class Pbt(IncrementalMethod):
    """Trains a population whose worst members copy the best ones and perturb their configuration.

    A generation is a stage. A member that is ready for its next one is ranked among all members by their
    scores at its own depth, or by their latest ones where they are not as deep (asynchronous: no member waits
    for another). In the lowest quantile it copies weights and configuration of a random member of the highest
    and perturbs the configuration; else it trains on as it is. A member whose stage failed counts as lowest.
    At the greatest depth a member is done; once all are, a new population begins.
    """

    def __init__(self, settings: PbtSettings, context: MethodContext) -> None:
        super().__init__()
        self.settings, self.context = settings, context
        self._number = -1  # of the population that trains
        self._members: list[Member] = []

    def created(self, tree: Tree, node: Node) -> None:
        """Add a stage to its member, of a new population perhaps."""
        if node.parent_id is None:
            return
        memo = memo_of(self.context, node, {"population": int, "size": int, "member": int})
        if memo["population"] != self._number:
            self._number = memo["population"]
            self._members = [Member() for _ in range(memo["size"])]
        self._members[memo["member"]].stages.append(node)

    def ended(self, tree: Tree, node: Node) -> None:
        """Do nothing: a member reads the state of its stages."""

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage of the least deep member that waits; None where no member waits."""
        self.catch_up(tree)
        if all(map(self._done, self._members)):
            self._number += 1
            self._members = [Member() for _ in range(self._size(tree))]
        waiting = [
            (self._generation(member), len(member.stages), number)
            for number, member in enumerate(self._members)
            if member.waits and not self._done(member)
        ]
        return self._next(tree, min(waiting)[-1]) if waiting else None

    def _done(self, member: Member) -> bool:
        return (
            bool(member.stages)
            and member.stages[-1].usable
            and member.stages[-1].depth == self.context.max_depth
        )

    def _size(self, tree: Tree) -> int:
        """Return how many members a new population has."""
        if self.settings.population is not None:
            return self.settings.population
        if self.context.stages is None:
            return max(UNLIMITED, self.context.workers)
        left = self.context.stages - len(tree) + 1
        wanted = min(max(SMALLEST, left // self.context.max_depth), LARGEST)
        return max(1, min(left, max(wanted, self.context.workers)))

    def _generation(self, member: Member) -> int:
        """Return a member's depth, short of the greatest, where a failed member trains its stage again."""
        return min(member.stages[-1].depth, self.context.max_depth - 1) if member.stages else 0

    def _next(self, tree: Tree, number: int) -> Expansion:
        member, rng = self._members[number], random.Random(f"{self.context.seed}/{len(tree)}")
        if not member.stages and self._number == 0 and number == 0:
            rationale = "Member 0 begins with the practitioner's configuration."
            return self._stage(number, tree.root, self.context.catalogue.defaults(), rationale)
        if not member.stages:
            return self._fresh(tree, number, rng, f"Member {number} begins, drawn at random.")
        ranked = self._ranked(number)
        n = min(math.ceil(len(ranked) * self.settings.quantile), len(ranked) // 2)  # in either quantile
        if member.failed and not ranked:
            rationale = f"Member {number} failed and there is none to copy; it begins anew, drawn at random."
            return self._fresh(tree, number, rng, rationale)
        if member.failed:
            return self._copy(number, rng.choice(ranked[-max(1, n) :]), "failed", rng)
        if any(standing.number == number for standing in ranked[:n]):
            return self._copy(number, rng.choice(ranked[-n:]), f"{last_score(member.stages[-1]):.3f}", rng)
        last = member.stages[-1]
        rationale = (
            f"Member {number} ({last_score(last):.3f}) is not among the last {n} of {len(ranked)}: "
            "it trains on unchanged."
        )
        return self._stage(number, last, last.hparams, rationale)

    def _fresh(self, tree: Tree, number: int, rng: random.Random, rationale: str) -> Expansion:
        return self._stage(number, tree.root, random_configuration(self.context.catalogue, rng), rationale)

    def _ranked(self, number: int) -> list[Standing]:
        """Return the members that have a score, the worst first; without the one in question if it failed."""
        depth = self._generation(self._members[number])
        standings = [
            Standing(last_score(node), other, node)
            for other, member in enumerate(self._members)
            if (other != number or not member.failed) and (node := member.at(depth)) is not None
        ]
        return sorted(standings, key=lambda standing: standing.score)

    def _copy(self, number: int, donor: Standing, standing: str, rng: random.Random) -> Expansion:
        hparams = perturbed(self.context.catalogue, donor.node.hparams, self.settings.resample, rng)
        names = ", ".join(self.context.catalogue.changes(donor.node.hparams, hparams)) or "nothing"
        copied = f"member {donor.number} ({donor.score:.3f})"
        rationale = f"Member {number} ({standing}) copies {copied} and perturbs {names}."
        return self._stage(number, donor.node, hparams, rationale)

    def _stage(self, number: int, parent: Node, hparams: HParams, rationale: str) -> Expansion:
        memo = {"population": self._number, "size": len(self._members), "member": number}
        return continuation(self.context, "pbt", parent, hparams, rationale, memo)


def perturbed(catalogue: Catalogue, hparams: HParams, resample: float, rng: random.Random) -> HParams:
    """Return a configuration with every value drawn anew, at that probability, or moved a little."""
    return {
        name: parameter.sample(rng) if rng.random() < resample else nearby(parameter, hparams[name], rng)
        for name, parameter in catalogue.items()
    }


def nearby(parameter: Parameter, value: Value, rng: random.Random) -> Value:
    """Return a value multiplied by one of `FACTORS`, within bounds; of choices, one of its two neighbours.

    At an end of the choices it may be the value itself.
    """
    if parameter.choices is None:
        return parameter.clamp(value * rng.choice(FACTORS))
    index = parameter.choices.index(value) + rng.choice((-1, 1))
    return parameter.choices[min(max(index, 0), len(parameter.choices) - 1)]
