"""Chains: paths that begin at the base model and never branch. Most methods but tree search grow them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmzero.core.hparams import HParams
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext, memo_of
from llmzero.search.methods.configurations import TriedConfigurations
from llmzero.search.methods.incremental import IncrementalMethod
from llmzero.tree.tree import ROOT, Node, Tree


class Chains(IncrementalMethod):
    """Grows one chain for every worker.

    Chains that can be continued come first; where there are none, a new chain begins. A chain is identified
    by its first stage, a child of the base model.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.context = context
        self._ready: set[str] = set()  # last stages of chains that can be continued

    @abstractmethod
    def first_stage(self, tree: Tree) -> Expansion | None:
        """Return the first stage of the next chain; None where there is no next chain."""

    @abstractmethod
    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return the stage that follows the last one of a chain."""

    def continues(self, node: Node) -> bool:
        """Return whether a chain is continued after a stage: it is usable and not at the greatest depth."""
        return node.usable and node.depth < self.context.max_depth

    def chain_ended(self, tree: Tree, node: Node) -> None:
        """Record the last stage of a chain that is not continued."""

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage of the oldest chain that can be continued, else the first of a new chain."""
        self.catch_up(tree)
        if self._ready:
            return self.next_stage(tree, tree[min(self._ready, key=int)])
        return self.first_stage(tree)

    def created(self, tree: Tree, node: Node) -> None:
        """Note that the parent's chain was continued."""
        self._ready.discard(node.parent_id or "")

    def ended(self, tree: Tree, node: Node) -> None:
        """Note whether the chain can be continued."""
        if node.parent_id is None:
            return
        if not self.continues(node):
            self.chain_ended(tree, node)
        elif not node.children:
            self._ready.add(node.node_id)


class SingleChain(Chains):
    """One chain. It ends at the greatest depth, or with a stage that failed."""

    def first_stage(self, tree: Tree) -> Expansion | None:
        """Return the first stage; None where there is one."""
        return None if tree.root.children else self.next_stage(tree, tree.root)


@dataclass(frozen=True)
class ChainStart:
    """The configuration of a new chain, and why; `memo` is stored with its first stage."""

    hparams: HParams
    rationale: str
    memo: Mapping[str, Any] = field(default_factory=dict)


class ConstantChains(Chains):
    """Chains of one configuration each.

    Args:
        name: of the method, as proposals bear it.
    """

    def __init__(self, context: MethodContext, name: str) -> None:
        super().__init__(context)
        self.name = name
        self.tried = TriedConfigurations(context.catalogue)

    def continues(self, node: Node) -> bool:
        """Return whether a chain is continued after a stage: not where that was stopped early either."""
        return super().continues(node) and node.state == "completed"

    @abstractmethod
    def start(self, tree: Tree, number: int) -> ChainStart | None:
        """Return the configuration of chain `number`, which counts from 0; None where there are no more."""

    def created(self, tree: Tree, node: Node) -> None:
        """Note the configuration of a new chain."""
        super().created(tree, node)
        if node.parent_id == ROOT:
            self.tried.add(node.hparams)

    def first_stage(self, tree: Tree) -> Expansion | None:
        """Return the first stage of the next chain, if there is a configuration left."""
        number = len(tree.root.children)
        start = self.start(tree, number)
        if start is None:
            return None
        return self.stage(tree.root, start.hparams, start.rationale, {"chain": number, **start.memo})

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return a stage under the same configuration."""
        chain = memo_of(self.context, node, {"chain": int})["chain"]
        rationale = f"Chain {chain} trains on under its configuration."
        return self.stage(node, node.hparams, rationale, {"chain": chain})

    def stage(self, parent: Node, hparams: HParams, rationale: str, memo: dict[str, Any]) -> Expansion:
        """Return a stage that resumes from its parent's last checkpoint."""
        return continuation(self.context, self.name, parent, hparams, rationale, memo)


def continuation(
    context: MethodContext, name: str, parent: Node, hparams: HParams, rationale: str, memo: dict[str, Any]
) -> Expansion:
    """Return a stage that resumes from its parent's last checkpoint, as an uninterrupted run would."""
    changes = context.catalogue.changes(parent.hparams, hparams)
    return Expansion(parent.node_id, hparams, Proposal(name, (), rationale, changes, "last"), memo=memo)


def last_score(node: Node) -> float:
    """Return the validation score of a usable stage's last checkpoint."""
    assert node.result is not None
    return node.result.validation[-1].score
