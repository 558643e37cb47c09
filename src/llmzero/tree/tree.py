"""The tree of stages: a plain value, a fold of the events, read by methods, agents and reports."""

from __future__ import annotations

import functools
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmzero.core.decay import WHOLE
from llmzero.core.hparams import HParams
from llmzero.core.length import Length
from llmzero.core.stage import FINAL_STATES, StageResult, State

ROOT = "0000"


@dataclass
class Node:
    """One stage of the tree.

    Attributes:
        hparams: a value for every name of the catalogue; empty while the stage is being proposed, or where it
            was withdrawn.
        steps, flops: its length; one of them is None.
        proposal: who proposed it and why: `agent`, `diagnosis`, `rationale`, `changes`; empty until then.
        memo: what the search method needs to know about it after a restart.
        asked: the decision to have it proposed in the background, as in the event log; None where the
            proposal was there at once. A method learns what such a stage changes when the stage ends: so no
            decision depends on when answers come.
        prefetch: that its likely child's proposal was asked for before its end, as in the event log.
        prefetch_open: whether that proposal may still be used.
        stop: the decision to end it early, as in the event log: `reason`, `details`, `step`, `incumbent`.
        attempts: how often the stage was started; deaths: how often its process ended without a result.
        schedule: the shares of `lr_schedule` at which it begins and ends, see `StageSpec`.
        finished_order: 0 for the first stage to end, and so on; None while it has not.
        children: by id; a stage that an agent had grow elsewhere is among those of its new parent.
        expansions: how many stages were decided on below it, wherever they grow.
        withdrawn: why there is no such stage although it was to be proposed; empty where there is one.
        closed: why it gets no more children, in the agent's words; empty where it may.
    """

    node_id: str
    parent_id: str | None
    depth: int
    hparams: HParams
    steps: int | None
    resume_from: Path | None
    proposal: dict[str, Any]
    memo: dict[str, Any] = field(default_factory=dict)
    state: State = "queued"
    result: StageResult | None = None
    asked: dict[str, Any] | None = None
    prefetch: dict[str, Any] | None = None
    prefetch_open: bool = False
    stop: dict[str, Any] | None = None
    attempts: int = 0
    deaths: int = 0
    schedule: tuple[float, float] = WHOLE
    finished_order: int | None = None
    children: list[str] = field(default_factory=list)
    flops: float | None = None
    expansions: int = 0
    withdrawn: str = ""
    closed: str = ""

    @property
    def length(self) -> Length:
        """How much it trains."""
        return Length(self.steps, self.flops)

    @property
    def final(self) -> bool:
        """Whether the stage has ended."""
        return self.state in FINAL_STATES

    @property
    def under_way(self) -> bool:
        """Whether the stage has still to end; a withdrawn one never begins."""
        return not self.final and self.state != "withdrawn"

    @property
    def asked_below(self) -> str | None:
        """The stage that it was to continue when its proposal was asked for: an agent may name another."""
        return self.asked["parent_id"] if self.asked else self.parent_id

    @property
    def multiple(self) -> float:
        """Its length in usual ones of the search."""
        return float(self.proposal.get("length", 1.0))

    @property
    def score(self) -> float | None:
        """Best validation score; None before the first validation."""
        return self.result.best_score if self.result else None

    @property
    def usable(self) -> bool:
        """Whether a child could resume from it."""
        return (
            self.state in ("completed", "stopped")
            and self.result is not None
            and self.result.checkpoint is not None
        )


class Tree:
    """Nodes by id, in order of creation.

    Attributes:
        finished: the stages that have ended, in that order.
        closed: the stages that get no more children as agents said so, in that order.
        planned: the lengths of all stages that were not withdrawn, in usual ones of the search.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.finished: list[Node] = []
        self.closed: list[str] = []
        self.planned = 0.0
        self._best: Node | None = None

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __getitem__(self, node_id: str) -> Node:
        return self.nodes[node_id]

    @property
    def root(self) -> Node:
        """The base model."""
        return self.nodes[ROOT]

    def add(self, node: Node) -> None:
        """Add a node below its parent."""
        self.nodes[node.node_id] = node
        if node.parent_id is not None:
            parent = self.nodes[node.parent_id]
            parent.children.append(node.node_id)
            parent.expansions += 1
            self.planned += node.multiple

    def move(self, node: Node, parent_id: str) -> None:
        """Put a node below another parent, among whose children the order of creation is kept."""
        if node.parent_id is not None and node.parent_id != parent_id:
            self.nodes[node.parent_id].children.remove(node.node_id)
            insort(self.nodes[parent_id].children, node.node_id, key=int)
            node.parent_id = parent_id

    def withdraw(self, node_id: str, reason: str, *, closes: bool) -> None:
        """Record that there is no such stage; with `closes`, its parent gets no more children either."""
        node = self.nodes[node_id]
        node.state, node.withdrawn = "withdrawn", reason
        self.planned -= 1.0
        if closes and node.parent_id is not None:
            self.nodes[node.parent_id].closed = reason or "No reason was given."
            self.closed.append(node.parent_id)

    def finish(self, node_id: str, result: StageResult) -> None:
        """Record how a stage ended."""
        node = self.nodes[node_id]
        node.state, node.result, node.finished_order = result.state, result, len(self.finished)
        self.finished.append(node)
        self._best = better(self._best, node)

    def reopen(self, node_id: str) -> None:
        """Take back the end of a failed stage, which is tried again; stages that ended later move up."""
        node = self.nodes[node_id]
        assert node.finished_order is not None
        del self.finished[node.finished_order]
        node.result, node.finished_order = None, None
        for order, later in enumerate(self.finished):
            later.finished_order = order

    def children(self, node_id: str) -> list[Node]:
        """Return a node's children, in order of creation."""
        return [self.nodes[child] for child in self.nodes[node_id].children]

    def path(self, node_id: str) -> list[Node]:
        """Return the nodes from the root to a node, both included."""
        nodes = [self.nodes[node_id]]
        while (parent := nodes[-1].parent_id) is not None:
            nodes.append(self.nodes[parent])
        return nodes[::-1]

    def flops_before(self, node: Node) -> float | None:
        """Return the compute behind the checkpoint that a stage resumes from; None is unknown."""
        if node.parent_id is None or node.resume_from is None:
            return 0.0
        result, name = self.nodes[node.parent_id].result, node.resume_from.name
        points = result.validation if result else []
        return next((point.flops for point in points if name == f"step_{point.step:05d}"), None)

    def stages(self) -> list[Node]:
        """Return all nodes but the root: the stages that were trained, or are to be, and withdrawn ones."""
        return [node for node in self if node.parent_id is not None]

    def best(self, nodes: Iterable[Node] | None = None) -> Node | None:
        """Return the usable node with the highest score, the earliest of equals; of all nodes by default."""
        return self._best if nodes is None else functools.reduce(better, nodes, None)

    def practitioner(self) -> Node | None:
        """Return the first usable stage under the root's configuration, the baseline of the search."""
        return next(
            (node for node in self.children(ROOT) if node.usable and node.hparams == self.root.hparams), None
        )

    def since(self, number: int) -> list[Node]:
        """Return the nodes that were created after the first `number`."""
        return [self.nodes[_id(i)] for i in range(number, len(self.nodes))]

    def next_id(self) -> str:
        """Return the id of the next node to be created."""
        return _id(len(self.nodes))


def better(a: Node | None, b: Node) -> Node | None:
    """Return the better of two nodes: usable, higher score, earlier; None if neither is usable."""
    if not b.usable:
        return a
    return b if a is None or (b.score or 0.0, -int(b.node_id)) > (a.score or 0.0, -int(a.node_id)) else a


def _id(number: int) -> str:
    return f"{number:04d}"
