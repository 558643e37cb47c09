"""The baseline everyone runs: one configuration from beginning to end."""

from __future__ import annotations

from llmzero.search.methods.base import Expansion, MethodContext, practitioner_stage
from llmzero.search.tree import Node, Tree


class Practitioner:
    """Trains on with the catalogue's defaults, stage after stage."""

    def __init__(self, context: MethodContext) -> None:
        self.context = context

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage of the chain; None while the last one runs, has failed or is at the greatest depth."""
        last = max(tree, key=lambda node: node.depth)
        if not last.usable or last.depth == self.context.max_depth:
            return None
        return practitioner_stage(self.context, last)

    def tell(self, tree: Tree, node: Node) -> None:
        """Nothing to learn."""
