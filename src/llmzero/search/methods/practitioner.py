"""The baseline everyone runs: one configuration from beginning to end."""

from __future__ import annotations

from llmzero.search.methods.base import Expansion, practitioner_stage
from llmzero.search.methods.chains import Chains
from llmzero.search.tree import Node, Tree


class Practitioner(Chains):
    """One chain under the catalogue's defaults. It ends at the greatest depth, or with a stage that failed."""

    def begin(self, tree: Tree) -> Expansion | None:
        """Return the first stage; None where there is one."""
        return None if tree.root.children else practitioner_stage(self.context, tree.root)

    def go_on(self, tree: Tree, node: Node) -> Expansion:
        """Return the next stage."""
        return practitioner_stage(self.context, node)

    def continues(self, node: Node) -> bool:
        """Whether there is something to go on from: a stage that was stopped early is."""
        return node.usable and node.depth < self.context.max_depth
