"""UCT over training stages, with a virtual new child: the rule of `search=paper` (LLMZero, arXiv 2606.18388)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from llmzero.search.tree import ROOT, Node, Tree


def uct(quality: float, visits: float, parent_visits: float, c_uct: float) -> float:
    """Return quality + c * sqrt(ln(parent visits) / visits): UCB1 applied to trees (Kocsis and Szepesvari, 2006)."""
    return quality + c_uct * math.sqrt(math.log(max(parent_visits, 1.0)) / visits)


@dataclass
class Below:
    """What is known of a node and everything below it: stages begun, those that failed, open nodes, and the scores of the others."""

    visits: int = 0
    failures: int = 0
    open: int = 0
    scored: int = 0
    total: float = 0.0
    best: float = -math.inf


class Uct:
    """The paper's selection rule.

    At node p, compare the non-terminal children with a *virtual new child* whose quality is p's own and whose visits are
    N(p) / (k + 1). Where the virtual child is strictly ahead and p is open, p is expanded; else the search descends. Running stages
    count as visits (WU-UCT, Liu et al., 2020: a virtual loss without a guess at the outcome).

    Args:
        c_uct: weight of exploration.
        backup: a node's quality is the `mean` or the `max` of the normalised scores in its subtree.
        failure_penalty: subtracted from the quality of a node once `failures_tolerated` stages below it have failed.
    """

    def __init__(self, c_uct: float, backup: Literal["mean", "max"], failure_penalty: float, failures_tolerated: int) -> None:
        self.c_uct = c_uct
        self.backup = backup
        self.failure_penalty = failure_penalty
        self.failures_tolerated = failures_tolerated
        self._below: dict[str, Below] = {}
        self._open: set[str] = set()
        self._low, self._high = math.inf, -math.inf

    def created(self, tree: Tree, node: Node) -> None:
        """Count a visit of a node and of all above it."""
        self._below[node.node_id] = Below()
        for below in self._path(tree, node):
            below.visits += 1

    def ended(self, tree: Tree, node: Node) -> None:
        """Back a score or a failure up to the root."""
        for below in self._path(tree, node):
            below.failures += node.state == "failed"
            if node.score is not None:
                below.scored += 1
                below.total += node.score
                below.best = max(below.best, node.score)
        if node.score is not None:
            self._low, self._high = min(self._low, node.score), max(self._high, node.score)

    def opened(self, tree: Tree, node: Node) -> None:
        """A node may get a child, so no node above it is terminal."""
        self._open.add(node.node_id)
        for below in self._path(tree, node):
            below.open += 1

    def closed(self, tree: Tree, node: Node) -> None:
        """A node may get no more children."""
        self._open.remove(node.node_id)
        for below in self._path(tree, node):
            below.open -= 1

    def choose(self, tree: Tree, rng: random.Random, stages_left: int | None) -> str | None:
        """Return the node to expand; None where every branch waits for a running stage or is closed."""
        node_id = ROOT
        while self._below[node_id].open:
            children = tree[node_id].children
            n = self._below[node_id].visits
            ranked = [(uct(self._quality(c), self._below[c].visits, n, self.c_uct), c) for c in children if self._below[c].open]
            virtual = uct(self._normalised(tree[node_id].score), n / (len(children) + 1), n, self.c_uct)
            best = max((score for score, _ in ranked), default=-math.inf)
            if node_id in self._open and virtual > best:
                return node_id
            node_id = max(ranked, key=lambda pair: (pair[0], -int(pair[1])))[1]
        return None

    def _path(self, tree: Tree, node: Node) -> list[Below]:
        return [self._below[above.node_id] for above in tree.path(node.node_id)]

    def _quality(self, node_id: str) -> float:
        below = self._below[node_id]
        value = (below.best if self.backup == "max" else below.total / below.scored) if below.scored else None
        return self._normalised(value) - self.failure_penalty * (below.failures >= self.failures_tolerated)

    def _normalised(self, score: float | None) -> float:
        """Return where a score lies between the worst (0) and the best (1) of the tree; 0.5 where all are equal, 0 without one."""
        if score is None:
            return 0.0
        return (score - self._low) / (self._high - self._low) if self._high > self._low else 0.5
