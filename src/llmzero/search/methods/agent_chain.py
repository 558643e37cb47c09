"""An agent without a search: it decides on every stage of a path, and never branches."""

from __future__ import annotations

from llmzero.search.methods.base import Expansion, exhausted, expand, practitioner_stage
from llmzero.search.methods.chains import Chains
from llmzero.tree.tree import ROOT, Node, Tree


class AgentChain(Chains):
    """Begins with the practitioner's configuration; the agent proposes every further stage.

    A stage that failed is proposed again, from the same parent. A chain ends at the greatest depth, and while
    there is budget a new one begins from the base model, with what the agent proposes there.
    """

    def first_stage(self, tree: Tree) -> Expansion | None:
        """Return the first stage of a chain; None where a small catalogue is used up."""
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        return (
            None
            if exhausted(self.context, tree.root)
            else expand(self.context, tree, ROOT, "A new path begins at the base model.")
        )

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return the stage that the agent proposes."""
        return expand(self.context, tree, node.node_id, "Its path goes on: this search never branches.")

    def chain_ended(self, tree: Tree, node: Node) -> None:
        """Continue from the parent of a stage that failed, unless a small catalogue is used up there."""
        parent = tree[node.parent_id or ROOT]
        alive = any(child.state != "failed" for child in tree.children(parent.node_id))
        retried = not node.usable and parent.parent_id is not None and not alive
        if retried and not exhausted(self.context, parent):
            self._ready.add(parent.node_id)
