"""Tree search over training stages: which stage is continued next, and whether the agent changes anything."""

from __future__ import annotations

import math
import random
from bisect import bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from llmzero.core.settings import setting
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext, expand, practitioner_stage
from llmzero.search.methods.forecast import Forecast
from llmzero.search.methods.incremental import IncrementalMethod
from llmzero.search.methods.uct import Uct
from llmzero.tree.tree import Node, Tree

OTHERS = 5  # open nodes that an agent is told of beside the one that is continued


@dataclass
class TreeSearchSettings:
    """`search=llmzero` and `search=paper`."""

    selection: str = setting(
        "forecast",
        "forecast expands where the path is forecast to end best; uct is the paper's rule",
        choices=("forecast", "uct"),
    )
    k_max: int = setting(
        16, "children that a node may have; fresh starts come on top at the base model", low=1
    )
    fresh_start_fraction: float = setting(
        0.0, "share of stages that are forced to branch from the base model", low=0, high=1
    )
    new_path_weight: float = setting(
        1.0,
        "w: where a path has ended, the next begins at the base model with chance w / (w + those that did)",
        low=0,
    )
    # Late starters show what they are worth only at the end of their path.
    descent_rank: float | None = setting(
        0.5,
        "the path of the stage that ended last goes on where at most this share of the stages at its depth "
        "is better; null: never",
        low=0,
        high=1,
    )
    unchanged_fraction: float = setting(
        0.1,
        "chance that a child trains on unchanged, where no sibling does yet; a language model decides itself",
        low=0,
        high=1,
    )
    exploration: float = setting(
        0.7, "of forecast: how widely it draws around the most likely outcome; 0 believes in it", low=0
    )
    subtree_weight: float = setting(
        0.45,
        "of forecast: how much the best score below a node counts in what its path is forecast to reach",
        low=0,
        high=1,
    )
    c_uct: float = setting(1.414, "of uct: the weight of exploration", low=0)
    backup: str = setting(
        "max",
        "of uct: a node's quality is the mean or the max of the normalised scores in its subtree",
        choices=("mean", "max"),
    )
    failure_penalty: float = setting(
        0.5,
        "taken from what a node promises, in units of the spread of scores, after failures_tolerated",
        low=0,
    )
    failures_tolerated: int = setting(2, "stages below a node that may fail without a penalty", low=1)


class SelectionRule(Protocol):
    """Chooses among open nodes, which may get a child.

    It gets every event once, so that a choice needs no walk over the tree.

    Attributes:
        promise: what the scores of `ranked` are, in words.
    """

    promise: str

    def created(self, tree: Tree, node: Node) -> None:
        """Record a stage that was decided on."""
        ...

    def ended(self, tree: Tree, node: Node) -> None:
        """Record a stage that ended."""
        ...

    def opened(self, tree: Tree, node: Node) -> None:
        """Record a node that may get a child from now on."""
        ...

    def closed(self, tree: Tree, node: Node) -> None:
        """Record a node that may get no more children."""
        ...

    def choose(self, tree: Tree, rng: random.Random, stages_left: int | None) -> str | None:
        """Return the open node to branch from; None where there is none before a running stage ends."""
        ...

    def may_begin(self, tree: Tree, node: Node, stages_left: int | None) -> bool:
        """Return whether a stage below an open node may begin before running stages end."""
        ...

    def ranked(self, tree: Tree, stages_left: int | None) -> list[tuple[float, str]]:
        """Return open nodes with the scores that they promise, the most promising first."""
        ...


class TreeSearch(IncrementalMethod):
    """The practitioner's configuration first; then stages below whichever node a rule chooses."""

    def __init__(self, settings: TreeSearchSettings, context: MethodContext) -> None:
        super().__init__()
        self.settings, self.context = settings, context
        self.rule: SelectionRule = _rule(settings, context.max_depth)
        self._configurations = context.catalogue.size
        self._open: set[str] = set()
        self._continued: set[str] = set()  # nodes with a child that trains on unchanged
        self._joined: Counter[str] = Counter()  # stages that agents had grow below a node and that have ended
        self._scores: defaultdict[int, list[float]] = defaultdict(list)  # sorted, by depth
        self._waits: tuple[float, ...] = ()  # how far the tree was when nothing could be started
        self._closed = 0  # of the nodes that agents closed, those that were taken note of

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage; None where every branch waits for a running stage or is closed."""
        self.catch_up(tree)
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        rng = random.Random(f"{self.context.seed}/{len(tree)}")  # a restarted search decides alike
        known = len(tree), len(tree.finished), len(tree.closed), tree.planned
        parent = self._parent(tree, rng) if known != self._waits else None
        if parent is None:
            self._waits = known
            return None
        return self._child(tree, *parent, rng)

    def open_nodes(self, tree: Tree) -> Collection[str]:
        """Return the nodes that may get a child now."""
        self.catch_up(tree)
        return self._open

    def catch_up(self, tree: Tree) -> None:
        """Process what has happened, also which nodes agents have closed."""
        super().catch_up(tree)
        for node_id in tree.closed[self._closed :]:
            self._closed += 1
            self._close_where_full(tree, tree[node_id])

    def created(self, tree: Tree, node: Node) -> None:
        """Tell the rule, and close a parent that may get no more children."""
        self.rule.created(tree, node)
        if node.asked_below is None:
            return
        parent = tree[node.asked_below]
        if node.asked is None and node.hparams == parent.hparams:
            self._continued.add(parent.node_id)
        self._close_where_full(tree, parent)

    def _close_where_full(self, tree: Tree, node: Node) -> None:
        if node.node_id in self._open and not self._branches(node):
            self._open.remove(node.node_id)
            self.rule.closed(tree, node)

    def ended(self, tree: Tree, node: Node) -> None:
        """Tell the rule, and open a node that may get children."""
        if node.parent_id is not None and node.asked is not None:
            parent = tree[node.parent_id]
            if node.hparams == parent.hparams:
                self._continued.add(parent.node_id)
            self._joined[parent.node_id] += node.asked_below != parent.node_id
            self._close_where_full(tree, parent)
        if node.state == "completed" and node.score is not None:
            insort(self._scores[node.depth], node.score)
        self.rule.ended(tree, node)
        if self._branches(node):
            self._open.add(node.node_id)
            self.rule.opened(tree, node)

    def _branches(self, node: Node) -> bool:
        """Whether a node may get a child."""
        return (
            node.usable
            and not node.closed
            and node.depth < self.context.max_depth
            and node.expansions + self._joined[node.node_id] < self.settings.k_max
            and any(self._choices(node))
        )

    def _choices(self, node: Node) -> tuple[bool, bool]:
        """Return whether a child can have a new configuration, and whether one can train on unchanged."""
        unchanged = node.node_id in self._continued
        changed = node.expansions + self._joined[node.node_id] - unchanged
        return self._configurations is None or changed < self._configurations - 1, not unchanged

    def _parent(self, tree: Tree, rng: random.Random) -> tuple[Node, str] | None:
        """Return the node to branch from, and why."""
        fresh = not tree.root.closed and any(self._choices(tree.root))
        if rng.random() < self.settings.fresh_start_fraction and fresh:
            return tree.root, "A share of all stages begins anew, at the base model."
        last, left = tree.finished[-1], self._stages_left(tree)
        if self._goes_on(last) and self.rule.may_begin(tree, last, left):
            return last, "It ended last, and its path goes on."
        begun, weight = len(tree.root.children), self.settings.new_path_weight
        begins = fresh and self.rule.may_begin(tree, tree.root, left)
        if begins and rng.random() < weight / (weight + begun):
            return tree.root, "A path has ended, and few begin at the base model."
        node_id = self.rule.choose(tree, rng, left)
        if node_id is None:
            return None
        return tree[node_id], f"The search chose it among {len(self._open)} that may be continued."

    def _goes_on(self, node: Node) -> bool:
        """Whether the path of the stage that ended last goes on, as it is among the better at its depth."""
        share, there = self.settings.descent_rank, self._scores[node.depth]
        if share is None or node.score is None or node.state != "completed":
            return False
        if node.children or node.node_id not in self._open:
            return False
        return len(there) - bisect_right(there, node.score) <= share * (len(there) - 1)

    def _stages_left(self, tree: Tree) -> int | None:
        return None if self.context.stages is None else math.ceil(self.context.stages - tree.planned)

    def _child(self, tree: Tree, node: Node, why: str, rng: random.Random) -> Expansion:
        may_change, may_continue = self._choices(node)
        drawn = rng.random() < self.settings.unchanged_fraction and not self.context.thinks
        if may_continue and (not may_change or drawn):
            return Expansion(
                node.node_id, node.hparams, Proposal("search", (), "The path trains on unchanged.", {})
            )
        if not self.context.thinks:  # nobody reads what others promise
            return expand(self.context, tree, node.node_id, why)
        ranked = self.rule.ranked(tree, self._stages_left(tree))
        promises = {node_id: f"{node_id} {score:.3f}" for score, node_id in ranked}
        others = tuple(islice((node_id for node_id in promises if node_id != node.node_id), OTHERS))
        told = [promises[name] for name in (node.node_id, *others) if name in promises]
        if told:
            why += f" Of each, {self.rule.promise}: {', '.join(told)}."
        return expand(self.context, tree, node.node_id, why, others)


def _rule(settings: TreeSearchSettings, max_depth: int) -> SelectionRule:
    failures = settings.failure_penalty, settings.failures_tolerated
    if settings.selection == "uct":
        return Uct(settings.c_uct, settings.backup, *failures)
    return Forecast(max_depth, settings.exploration, settings.subtree_weight, *failures)
