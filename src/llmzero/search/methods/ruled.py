"""A chain of stages in which the agent decides on every one but the first."""

from __future__ import annotations

from llmzero.search.methods.base import Expansion, MethodContext, expand, practitioner_stage
from llmzero.search.tree import Node, Tree


class RuledChain:
    """Begins with the practitioner's configuration and goes on as the agent says, without a search."""

    def __init__(self, context: MethodContext) -> None:
        self.context = context

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage of the chain; None while the last one runs, has failed or is at the greatest depth."""
        last = max(tree, key=lambda node: node.depth)
        if not last.usable or last.depth == self.context.max_depth:
            return None
        return expand(self.context, tree, last.node_id) if last.depth else practitioner_stage(self.context, last)

    def tell(self, tree: Tree, node: Node) -> None:
        """Nothing to learn."""
