"""The baseline everyone runs: one configuration from beginning to end."""

from __future__ import annotations

from llmzero.search.methods.base import Expansion, practitioner_stage
from llmzero.search.methods.chains import SingleChain
from llmzero.tree.tree import Node, Tree


class Practitioner(SingleChain):
    """One chain under the catalogue's defaults."""

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return the next stage."""
        return practitioner_stage(self.context, node)
