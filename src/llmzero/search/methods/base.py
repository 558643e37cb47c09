"""The interface between the driver and a search method."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llmzero.agents.base import Proposer
from llmzero.agents.changes import checkpoint_of, useless
from llmzero.core.files import reading
from llmzero.core.hparams import Catalogue, HParams
from llmzero.core.length import LENGTHS, Length
from llmzero.core.shapes import Shape, require
from llmzero.evidence.evidence import Choice, Evidence
from llmzero.evidence.proposal import Expected, Proposal
from llmzero.tree.tree import Node, Tree


@dataclass(frozen=True)
class Expansion:
    """A stage to be created below `parent_id`.

    Attributes:
        hparams: what it is trained under; empty where it is still to be proposed.
        proposal: None has the driver ask the agent in the background.
        length: in steps or FLOPs; None is that of every stage of the search.
        memo: what the method needs to know about the stage after a restart; stored with the node in the event
            log.
        why: the parent was chosen, for the agent that is asked.
        others: stages that could be continued instead, for that agent; see `Choice`.
        schedule: the shares of `lr_schedule` at which it begins and ends; None is as `trainer.lr_over` says.
    """

    parent_id: str
    hparams: HParams
    proposal: Proposal | None
    length: Length | None = None
    memo: dict[str, Any] = field(default_factory=dict)
    schedule: tuple[float, float] | None = None
    why: str = ""
    others: tuple[str, ...] = ()

    @property
    def choice(self) -> Choice:
        """Why its parent was chosen, and what could have been."""
        return Choice(self.why, self.others)


@dataclass(frozen=True)
class MethodContext:
    """What a method knows of its search.

    Attributes:
        propose: asks the agent for a child of a finished node, telling it why that was chosen, and waits for
            the answer.
        thinks: whether the agent asks a language model, so that nobody should wait for it.
        seed: the search's; a method draws from it and the number of nodes alone, so that a restart repeats
            its choices.
        proposer: the agent itself, for methods that talk with its language model.
        evidence: gathers the evidence on a node.
        directory: the search directory, for a method's own files.
        stages: how many stages the budget allows; None is no limit.
        workers: how many stages run at a time.
        lengths: the least and the greatest of a stage that an agent sizes, in multiples of the usual one.
    """

    catalogue: Catalogue
    propose: Callable[[Tree, str, Choice], Proposal]
    max_depth: int
    seed: int
    proposer: Proposer | None = None
    evidence: Callable[[Tree, str], Evidence] | None = None
    directory: Path = Path()
    stages: int | None = None
    workers: int = 1
    thinks: bool = False
    lengths: tuple[float, float] = LENGTHS


def memo_of(context: MethodContext, node: Node, shape: Shape) -> dict[str, Any]:
    """Return what a method noted of a stage, after checking it: it comes from the event log.

    Raises:
        DamagedFileError: it is something else.
    """
    file = context.directory / "tree.jsonl"
    with reading(file):
        require(node.memo, shape, f"memo of stage {node.node_id}")
    return node.memo


class SearchMethod(Protocol):
    """Decides where to grow the tree.

    A stage that is being proposed is in the tree, without hyperparameters.
    """

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage; None where nothing can be started before a running stage ends."""
        ...

    def tell(self, tree: Tree, node: Node) -> None:
        """Record the end of a stage."""
        ...


@dataclass(frozen=True)
class StopRequest:
    """Asks the driver to end a running stage, which keeps its checkpoint and its score."""

    node_id: str
    reason: str


@runtime_checkable
class WatchingMethod(Protocol):
    """A search method that also looks at running stages."""

    def watch(self, tree: Tree) -> StopRequest | None:
        """Return the stage to be ended; None where all shall run on."""
        ...


@runtime_checkable
class FreeMethod(Protocol):
    """A search method whose tree may grow anywhere, so that an agent may name a parent, or close one."""

    def open_nodes(self, tree: Tree) -> Collection[str]:
        """Return the nodes that may get a child now."""
        ...


@runtime_checkable
class ThinkingMethod(Protocol):
    """A search method that asks a language model itself.

    Attributes:
        question: under way in the background, if any; once it is answered, the method goes on when asked.
    """

    question: Future[Any] | None


def expand(
    context: MethodContext, tree: Tree, node_id: str, why: str = "", others: tuple[str, ...] = ()
) -> Expansion:
    """Return a child of a node with the changes that the agent proposes, or has still to propose.

    `why` the node was chosen, and which others could have been, is for the agent; see `Choice`.
    """
    if context.thinks:
        second = second_best(context, tree, tree[node_id])
        if second is not None:
            return Expansion(node_id, {**tree[node_id].hparams, **second.changes}, second)
        return Expansion(node_id, {}, None, why=why, others=others)
    proposal = context.propose(tree, node_id, Choice(why, others))
    return Expansion(node_id, {**tree[node_id].hparams, **proposal.changes}, proposal)


def second_best(context: MethodContext, tree: Tree, node: Node) -> Proposal | None:
    """Return the alternative that came with the last proposal for a child of a node, once that has ended.

    None where there was none, or it is of no use any more. It comes from the event log, and is checked.
    """
    proposed = (tree[child] for child in reversed(node.children))
    last = next((each for each in proposed if each.asked or each.proposal.get("alternative_of")), None)
    found = last.proposal.get("alternative") if last is not None and last.final else None
    if last is None or not found or context.evidence is None:
        return None
    evidence, changes = context.evidence(tree, node.node_id), found["changes"]
    resume, troubles = checkpoint_of(found["resume"], evidence)
    if troubles or context.catalogue.problems({**node.hparams, **changes}):
        return None
    if not context.catalogue.changes(node.hparams, {**node.hparams, **changes}):
        return None
    if useless(changes, resume, evidence):
        return None
    expected = {each.name: found["expected"].get(each.name) for each in fields(Expected)}
    return Proposal(
        last.proposal.get("agent", ""),
        tuple(last.proposal.get("diagnosis", ())),
        last.proposal.get("rationale", ""),
        changes,
        resume,
        reasons=found["reasons"],
        expected=Expected(**{name: value for name, value in expected.items() if value is not None}),
        notes=(f"The alternative of {last.node_id}'s proposal: nobody was asked again.",),
        alternative_of=last.node_id,
    )


def exhausted(context: MethodContext, node: Node) -> bool:
    """Return whether every configuration of a small catalogue was tried below a node.

    Except below the root, a node's own configuration does not count.
    """
    configurations = context.catalogue.size
    return configurations is not None and len(node.children) >= configurations - (node.parent_id is not None)


def practitioner_stage(context: MethodContext, parent: Node) -> Expansion:
    """Return a child that trains on with the practitioner's configuration."""
    proposal = Proposal("practitioner", (), "The practitioner's configuration: the catalogue's defaults.", {})
    return Expansion(parent.node_id, context.catalogue.defaults(), proposal)
