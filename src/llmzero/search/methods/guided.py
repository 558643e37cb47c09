"""What an agent does without a tree search: always from the best stage, or always from the last one."""

from __future__ import annotations

from bisect import insort

from llmzero.search.methods.base import Expansion, MethodContext, expand, practitioner_stage
from llmzero.search.tree import Node, Tree


class Greedy:
    """Has the agent change the best stage there is, again and again; several workers share the best ones out among them."""

    def __init__(self, context: MethodContext) -> None:
        self.context = context
        size = context.catalogue.size
        self._room = size - 1 if size is not None else None  # configurations that a child can have
        self._best: list[tuple[float, str]] = []  # (-score, id) of what can be gone on from, sorted
        self._ended = 0

    def ask(self, tree: Tree) -> Expansion | None:
        """Return a child of the best stage that has room for one and none that runs."""
        for node in tree.finished[self._ended :]:
            self._ended += 1
            if node.usable and node.depth < self.context.max_depth:
                insort(self._best, (-(node.score or 0.0), node.node_id))
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        found = next((node_id for _, node_id in self._best if self._free(tree, tree[node_id])), None)
        return expand(self.context, tree, found) if found is not None else None

    def tell(self, tree: Tree, node: Node) -> None:
        """Nothing is learnt before it is needed."""

    def _free(self, tree: Tree, node: Node) -> bool:
        full = self._room is not None and len(node.children) >= self._room
        return not full and all(child.final for child in tree.children(node.node_id))


class AgentChain:
    """Has the agent change the last stage, again and again: a run that is tuned as it goes.

    Where a stage failed, the agent proposes another one from the stage before it; at the greatest depth a new chain begins.
    """

    def __init__(self, context: MethodContext) -> None:
        self.context = context

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the stage that follows the last one; None while that runs."""
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        last = tree.since(len(tree) - 1)[0]
        if not last.final:
            return None
        parent = last if last.usable else tree[last.parent_id or tree.root.node_id]
        return expand(self.context, tree, parent.node_id if parent.depth < self.context.max_depth else tree.root.node_id)

    def tell(self, tree: Tree, node: Node) -> None:
        """Nothing is learnt before it is needed."""
