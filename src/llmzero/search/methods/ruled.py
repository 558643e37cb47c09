"""A chain of stages in which the agent decides on every one but the first."""

from __future__ import annotations

from llmzero.search.methods.base import Expansion, expand, practitioner_stage
from llmzero.search.methods.chains import SingleChain
from llmzero.tree.tree import Node, Tree


class RuledChain(SingleChain):
    """Begins with the practitioner's configuration; the agent decides on every further stage."""

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return the next stage."""
        if node.depth == 0:
            return practitioner_stage(self.context, node)
        return expand(self.context, tree, node.node_id, "The one path of this search goes on.")
