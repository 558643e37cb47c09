"""UCT with a virtual new child, the rule of `search=paper` (LLMZero, arXiv 2606.18388)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

from llmzero.tree.tree import ROOT, Node, Tree


def uct(quality: float, visits: float, log_parent_visits: float, c_uct: float) -> float:
    """Return quality + c * sqrt(ln(parent visits) / visits): UCB1 for trees (Kocsis and Szepesvari, 2006)."""
    return quality + c_uct * math.sqrt(log_parent_visits / visits)


@dataclass
class SubtreeStats:
    """Counts and scores of a node and everything below it.

    Attributes:
        visits: stages that were begun.
        failures: stages that failed.
        open: nodes that may get a child.
        scored, total, best: number, sum and maximum of the scores.
    """

    visits: int = 0
    failures: int = 0
    open: int = 0
    scored: int = 0
    total: float = 0.0
    best: float = -math.inf


class Uct:
    """The paper's selection rule.

    At node p, compare the non-terminal children with a *virtual new child* whose quality is p's own and whose
    visits are N(p) / (k + 1). Where the virtual child is strictly ahead and p is open, p is expanded; else
    the search descends. Running stages count as visits (WU-UCT, Liu et al., 2020: a virtual loss without a
    guess at the outcome).

    Args:
        c_uct: weight of exploration.
        backup: a node's quality is the `mean` or the `max` of the normalised scores in its subtree.
        failure_penalty: subtracted from the quality of a node once `failures_tolerated` stages below it have
            failed.
    """

    promise = "its score"

    def __init__(self, c_uct: float, backup: str, failure_penalty: float, failures_tolerated: int) -> None:
        self.c_uct = c_uct
        self.backup = backup
        self.failure_penalty = failure_penalty
        self.failures_tolerated = failures_tolerated
        self._stats: dict[str, SubtreeStats] = {}
        self._open: set[str] = set()
        self._low, self._high = math.inf, -math.inf  # scores of the tree

    def created(self, tree: Tree, node: Node) -> None:
        """Count a visit of a node and of all above it: where it was asked for, until it ends elsewhere."""
        self._stats[node.node_id] = SubtreeStats(visits=1)
        if node.asked_below is not None:
            self._visit(tree, node.asked_below, 1)

    def _visit(self, tree: Tree, node_id: str, times: int) -> None:
        for stats in self._path(tree, tree[node_id]):
            stats.visits += times

    def ended(self, tree: Tree, node: Node) -> None:
        """Back a score or a failure up to the root."""
        if node.asked_below is not None and node.parent_id is not None and node.asked_below != node.parent_id:
            self._visit(tree, node.asked_below, -1)
            self._visit(tree, node.parent_id, 1)
        for stats in self._path(tree, node):
            stats.failures += node.state == "failed"
            if node.score is not None:
                stats.scored += 1
                stats.total += node.score
                stats.best = max(stats.best, node.score)
        if node.score is not None:
            self._low, self._high = min(self._low, node.score), max(self._high, node.score)

    def opened(self, tree: Tree, node: Node) -> None:
        """A node may get a child, so no node above it is terminal."""
        self._open.add(node.node_id)
        for stats in self._path(tree, node):
            stats.open += 1

    def closed(self, tree: Tree, node: Node) -> None:
        """A node may get no more children."""
        self._open.remove(node.node_id)
        for stats in self._path(tree, node):
            stats.open -= 1

    def choose(self, tree: Tree, rng: random.Random, stages_left: int | None) -> str | None:
        """Return the node to expand; None where every branch waits for a running stage or is closed."""
        node_id = ROOT
        while self._stats[node_id].open:
            visits, children = self._stats[node_id].visits, tree[node_id].children
            log_visits = math.log(visits)
            best, _, best_child = self._best(children, log_visits)
            score = tree[node_id].score
            own = 0.0 if score is None else self._normalised(score)
            if (
                node_id in self._open
                and uct(own, visits / (len(children) + 1), log_visits, self.c_uct) > best
            ):
                return node_id
            node_id = best_child
        return None

    def may_begin(self, tree: Tree, node: Node, stages_left: int | None) -> bool:
        """Return that it does: the paper's rule holds no worker back."""
        return True

    def ranked(self, tree: Tree, stages_left: int | None) -> list[tuple[float, str]]:
        """Return the open nodes with their scores."""
        scores = ((tree[node_id].score or 0.0, node_id) for node_id in self._open)
        return sorted(scores, key=lambda entry: (-entry[0], entry[1]))

    def _best(self, children: Iterable[str], log_visits: float) -> tuple[float, float, str]:
        """Return UCT, value and id of the best child that is open or has open nodes below it.

        Of equals it is the one of the higher value, then the earliest. Without any the id is empty.
        """
        best = (-math.inf, -math.inf, "")
        for child in children:  # of the base model they may be thousands
            stats = self._stats[child]
            if stats.open:
                value = self._value(stats)
                score = uct(self._quality(stats, value), stats.visits, log_visits, self.c_uct)
                if score > best[0] or (score == best[0] and value > best[1]):
                    best = (score, value, child)
        return best

    def _value(self, stats: SubtreeStats) -> float:
        """Return the score that is backed up to a node."""
        if not stats.scored:
            return 0.0
        return stats.best if self.backup == "max" else stats.total / stats.scored

    def _quality(self, stats: SubtreeStats, value: float) -> float:
        """Return the quality of a subtree: from 0 to 1, less the penalty where too many stages failed."""
        penalty = self.failure_penalty * (stats.failures >= self.failures_tolerated)
        return (self._normalised(value) if stats.scored else 0.0) - penalty

    def _path(self, tree: Tree, node: Node) -> list[SubtreeStats]:
        return [self._stats[above.node_id] for above in tree.path(node.node_id)]

    def _normalised(self, score: float) -> float:
        """Return a score's position between the tree's worst (0) and best (1); 0.5 where all are equal."""
        return (score - self._low) / (self._high - self._low) if self._high > self._low else 0.5
