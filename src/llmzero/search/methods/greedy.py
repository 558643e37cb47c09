"""Greedy search: the agent continues the best stage so far."""

from __future__ import annotations

from bisect import insort
from collections import Counter

from llmzero.search.methods.base import Expansion, MethodContext, exhausted, expand, practitioner_stage
from llmzero.search.methods.incremental import IncrementalMethod
from llmzero.tree.tree import Node, Tree

Entry = tuple[float, int, str]  # negated score, number and id


class Greedy(IncrementalMethod):
    """Expands the best node above the greatest depth, however often it was expanded.

    A node waits while a child of it runs, so several workers share the best nodes out among them. A node is
    left for good only where every other configuration of a small catalogue has been tried below it.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.context = context
        self._open: list[Entry] = []  # nodes that can be expanded, the best first
        self._running: Counter[str] = Counter()  # children that run, by their parent

    def created(self, tree: Tree, node: Node) -> None:
        """Count one more running child of the parent."""
        self._running[node.parent_id or ""] += 1

    def ended(self, tree: Tree, node: Node) -> None:
        """Count one less, and let the stage be expanded."""
        self._running[node.parent_id or ""] -= 1
        if node.usable and node.depth < self.context.max_depth:
            insort(self._open, (-(node.score or 0.0), int(node.node_id), node.node_id))

    def ask(self, tree: Tree) -> Expansion | None:
        """Return a child of the best node that does not wait; None where there is none."""
        self.catch_up(tree)
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        while self._open and exhausted(self.context, tree[self._open[0][2]]):
            del self._open[0]
        for _, _, node_id in self._open:
            if not self._running[node_id] and not exhausted(self.context, tree[node_id]):
                why = "It has the best score of the stages that may be continued and wait for no child."
                return expand(self.context, tree, node_id, why)
        return None
