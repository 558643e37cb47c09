"""Chains: paths that begin at the base model and never branch. What most methods grow that are no tree search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmzero.core.hparams import HParams
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext
from llmzero.search.methods.configurations import Tried
from llmzero.search.methods.incremental import IncrementalMethod
from llmzero.tree.tree import ROOT, Node, Tree


class Chains(IncrementalMethod):
    """Grows one chain for every worker: a chain that can go on does, and where none can, the next one begins.

    A chain is known by its first stage, a child of the base model.
    """

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self.context = context
        self._ready: set[str] = set()  # ends of chains that can go on

    @abstractmethod
    def begin(self, tree: Tree) -> Expansion | None:
        """Return the first stage of the next chain; None where there is no next one."""

    @abstractmethod
    def go_on(self, tree: Tree, node: Node) -> Expansion:
        """Return the stage that follows the last one of a chain."""

    def continues(self, node: Node) -> bool:
        """Whether the chain goes on after a stage: there is something to go on from, and the greatest depth is not reached."""
        return node.usable and node.depth < self.context.max_depth

    def over(self, tree: Tree, node: Node) -> None:
        """Hear of a chain that does not go on by itself, by its last stage."""

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage of the oldest chain that can go on, else the first one of a new chain."""
        self.catch_up(tree)
        return self.go_on(tree, tree[min(self._ready, key=int)]) if self._ready else self.begin(tree)

    def created(self, tree: Tree, node: Node) -> None:
        """The chain has gone on."""
        self._ready.discard(node.parent_id or "")

    def ended(self, tree: Tree, node: Node) -> None:
        """See whether the chain can go on."""
        if node.parent_id is None:
            return
        if not self.continues(node):
            self.over(tree, node)
        elif not node.children:
            self._ready.add(node.node_id)


class SingleChain(Chains):
    """One chain. It ends at the greatest depth, or with a stage that failed."""

    def begin(self, tree: Tree) -> Expansion | None:
        """Return the first stage; None where there is one."""
        return None if tree.root.children else self.go_on(tree, tree.root)


@dataclass(frozen=True)
class Start:
    """The configuration of a new chain, and why; `memo` is kept with its first stage."""

    hparams: HParams
    why: str
    memo: Mapping[str, Any] = field(default_factory=dict)


class ConstantChains(Chains):
    """Chains of one configuration each.

    Args:
        name: of the method, as proposals bear it.
    """

    def __init__(self, context: MethodContext, name: str) -> None:
        super().__init__(context)
        self.name = name
        self.tried = Tried(context.catalogue)

    def continues(self, node: Node) -> bool:
        """Whether the chain goes on after a stage: not when that was stopped early either."""
        return super().continues(node) and node.state == "completed"

    @abstractmethod
    def start(self, tree: Tree, number: int) -> Start | None:
        """Return the configuration of chain `number`, which counts from 0; None where there are no more."""

    def created(self, tree: Tree, node: Node) -> None:
        """Note the configuration of a new chain."""
        super().created(tree, node)
        if node.parent_id == ROOT:
            self.tried.add(node.hparams)

    def begin(self, tree: Tree) -> Expansion | None:
        """Return the first stage of the next chain, if there is a configuration left."""
        number = len(tree.root.children)
        start = self.start(tree, number)
        return (
            self.stage(tree.root, start.hparams, start.why, {"chain": number, **start.memo})
            if start
            else None
        )

    def go_on(self, tree: Tree, node: Node) -> Expansion:
        """Return a stage under the same configuration."""
        chain = node.memo["chain"]
        return self.stage(
            node, node.hparams, f"Chain {chain} trains on under its configuration.", {"chain": chain}
        )

    def stage(self, parent: Node, hparams: HParams, why: str, memo: dict[str, Any]) -> Expansion:
        """Return a stage that goes on from where its parent stands."""
        return moved_on(self.context, self.name, parent, hparams, why, memo)


def moved_on(
    context: MethodContext, name: str, parent: Node, hparams: HParams, why: str, memo: dict[str, Any]
) -> Expansion:
    """Return a stage that goes on from its parent's last checkpoint, as an uninterrupted run would."""
    changes = context.catalogue.changes(parent.hparams, hparams)
    return Expansion(parent.node_id, hparams, Proposal(name, (), why, changes, "last"), memo=memo)


def last_score(node: Node) -> float:
    """Return the validation score of a usable stage's last checkpoint, which is where the next one would go on."""
    assert node.result is not None
    return node.result.validation[-1].score
