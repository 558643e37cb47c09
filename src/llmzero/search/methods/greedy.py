"""Greedy search: the best stage so far is the one that the agent continues."""

from __future__ import annotations

import heapq

from llmzero.search.methods.base import Expansion, MethodContext, expand, practitioner_stage
from llmzero.search.methods.follower import Follower
from llmzero.search.tree import Node, Tree


class Greedy(Follower):
    """Expands the best node that is not at the greatest depth, whatever its depth and however often it was expanded.

    A node is left only where every other configuration of a small catalogue has been tried below it.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.context = context
        self._configurations = context.catalogue.size
        self._open: list[tuple[float, int, str]] = []  # a heap: score, negated, then number and id

    def created(self, tree: Tree, node: Node) -> None:
        """A child is counted where its parent is."""

    def ended(self, tree: Tree, node: Node) -> None:
        """Add a stage that can be expanded."""
        if node.usable and node.depth < self.context.max_depth:
            heapq.heappush(self._open, (-(node.score or 0.0), int(node.node_id), node.node_id))

    def ask(self, tree: Tree) -> Expansion | None:
        """Return a child of the best node; None where none can get one."""
        self.catch_up(tree)
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        while self._open and self._exhausted(tree[self._open[0][2]]):
            heapq.heappop(self._open)
        return expand(self.context, tree, self._open[0][2]) if self._open else None

    def _exhausted(self, node: Node) -> bool:
        return self._configurations is not None and len(node.children) >= self._configurations - (node.parent_id is not None)
