"""Random search: chains under configurations drawn at random (Bergstra and Bengio, 2012)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmzero.core.settings import setting
from llmzero.search.methods.base import Expansion, MethodContext, memo_of
from llmzero.search.methods.chains import ChainStart, ConstantChains
from llmzero.search.methods.configurations import random_configuration
from llmzero.tree.tree import Node, Tree


@dataclass
class RandomSearchSettings:
    """`search=random` and `search=random_schedule`."""

    schedules: bool = setting(False, "draw a new configuration for every stage of a chain")


class RandomSearch(ConstantChains):
    """Trains one random configuration, or random schedule, after another, each over a whole chain."""

    def __init__(self, settings: RandomSearchSettings, context: MethodContext) -> None:
        super().__init__(context, "random_schedule" if settings.schedules else "random")
        self.schedules = settings.schedules

    def start(self, tree: Tree, number: int) -> ChainStart | None:
        """Return a configuration that no chain began with; None where all were tried, but of schedules."""
        hparams = self.tried.draw(self._rng(number, 1))
        if hparams is None and self.schedules:
            hparams = random_configuration(self.context.catalogue, self._rng(number, 1))
        return ChainStart(hparams, "Drawn at random.") if hparams else None

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return a stage under the same configuration, or under one of its own."""
        if not self.schedules:
            return super().next_stage(tree, node)
        chain = memo_of(self.context, node, {"chain": int})["chain"]
        hparams = random_configuration(self.context.catalogue, self._rng(chain, node.depth + 1))
        return self.stage(node, hparams, "Drawn at random, as every stage is.", {"chain": chain})

    def _rng(self, chain: int, depth: int) -> random.Random:
        return random.Random(f"{self.context.seed}/{chain}/{depth}")
