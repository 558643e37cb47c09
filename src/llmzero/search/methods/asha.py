"""ASHA: asynchronous successive halving.

Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning".
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from dataclasses import dataclass

from llmzero.core.settings import setting
from llmzero.search.methods.base import Expansion, MethodContext, memo_of
from llmzero.search.methods.chains import ChainStart, ConstantChains, last_score
from llmzero.tree.tree import Node, Tree

Entry = tuple[float, int, str]  # negated score, number and id of a stage


@dataclass
class AshaSettings:
    """`search=asha`."""

    eta: int = setting(3, "one chain in eta is promoted, to eta times as many stages", low=2)


class Rung:
    """The chains that have reached a depth, the best first."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.waiting: list[Entry] = []  # those that can still be promoted

    def add_failure(self) -> None:
        """Add a chain that failed, or was stopped, on its way to the depth."""
        self.entries.append((math.inf, 0, ""))

    def add(self, node: Node) -> None:
        """Add a chain that has reached the depth, by its last stage."""
        insort(self.entries, _entry(node))
        if not node.children:
            insort(self.waiting, _entry(node))

    def remove(self, node: Node) -> None:
        """Remove a chain that was promoted."""
        position = bisect_left(self.waiting, _entry(node))
        if self.waiting[position : position + 1] == [_entry(node)]:
            del self.waiting[position]

    def promotable(self, eta: int) -> str | None:
        """Return the best chain that waits, if it is among the best 1/eta of the rung; else None."""
        if self.waiting and bisect_left(self.entries, self.waiting[0]) < len(self.entries) // eta:
            return self.waiting[0][2]
        return None


class Asha(ConstantChains):
    """Trains random configurations for one stage each, the best 1/eta of them for eta stages, and so on.

    It never waits for a rung to fill: a free worker promotes where it can, from the highest rung down, and
        else begins a new chain. The greatest depth ends the last rung.
    """

    def __init__(self, settings: AshaSettings, context: MethodContext) -> None:
        super().__init__(context, "asha")
        self.eta = settings.eta
        self.rungs = {depth: Rung() for depth in rung_depths(self.eta, context.max_depth)}

    def start(self, tree: Tree, number: int) -> ChainStart | None:
        """Return a random configuration that was not tried."""
        hparams = self.tried.draw(random.Random(f"{self.context.seed}/{number}/1"))
        return ChainStart(hparams, "No chain is to be promoted; drawn at random.") if hparams else None

    def first_stage(self, tree: Tree) -> Expansion | None:
        """Return the first stage after a promotion, else that of a new chain."""
        for depth, rung in reversed(self.rungs.items()):
            node_id = rung.promotable(self.eta)
            if node_id is not None:
                return self._promoted(tree[node_id], depth, len(rung.entries))
        return super().first_stage(tree)

    def continues(self, node: Node) -> bool:
        """Return whether a chain is on its way to the next rung."""
        return super().continues(node) and node.depth not in self.rungs

    def chain_ended(self, tree: Tree, node: Node) -> None:
        """Add the chain to the rung that it has reached, or failed to reach."""
        above = [depth for depth in self.rungs if depth >= node.depth]
        if above and above[0] == node.depth and node.usable and node.state == "completed":
            self.rungs[node.depth].add(node)
        elif above:
            self.rungs[above[0]].add_failure()

    def created(self, tree: Tree, node: Node) -> None:
        """Remove a chain from the rung beyond which it was promoted."""
        super().created(tree, node)
        if node.depth - 1 in self.rungs:
            self.rungs[node.depth - 1].remove(tree[node.parent_id or ""])

    def _promoted(self, node: Node, depth: int, rivals: int) -> Expansion:
        chain = memo_of(self.context, node, {"chain": int})["chain"]
        rationale = (
            f"Chain {chain} ({last_score(node):.3f}) is among the best 1/{self.eta} of the {rivals} "
            f"that came to stage {depth}: promoted."
        )
        return self.stage(node, node.hparams, rationale, {"chain": chain})


def rung_depths(eta: int, max_depth: int) -> list[int]:
    """Return the depths at which chains wait for promotion: 1, eta, eta^2 ..., short of the greatest."""
    depths = [1]
    while depths[-1] * eta < max_depth:
        depths.append(depths[-1] * eta)
    return [depth for depth in depths if depth < max_depth]


def _entry(node: Node) -> Entry:
    return -last_score(node), int(node.node_id), node.node_id
