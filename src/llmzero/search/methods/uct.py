"""UCT over training stages, with a virtual new child: the rule of `search=paper` (LLMZero, arXiv 2606.18388)."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from llmzero.tree.tree import ROOT, Node, Tree


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


class Kind(NamedTuple):
    """What nodes have in common that differ in their scores alone."""

    visits: int
    scored: bool
    penalised: bool


class Siblings:
    """The open children of a node. Of those of a kind only the one of the highest value can be chosen, so that a choice among thousands
    looks at a few.
    """

    def __init__(self) -> None:
        self._heaps: defaultdict[Kind, list[tuple[float, int, str]]] = defaultdict(list)
        self._places: dict[str, tuple[Kind, float] | None] = {}  # what a heap says beyond that is outdated

    def place(self, child: str, place: tuple[Kind, float] | None) -> None:
        """Give a child its kind and its value; None where nothing below it is open."""
        if place is not None and place != self._places.get(child):
            heappush(self._heaps[place[0]], (-place[1], int(child), child))
        self._places[child] = place

    def best(self) -> Iterator[tuple[Kind, float, str]]:
        """Yield the child of the highest value of each kind, the earliest of equals."""
        for kind, heap in list(self._heaps.items()):
            while heap and self._places[heap[0][2]] != (kind, -heap[0][0]):
                heappop(heap)
            if heap:
                yield kind, -heap[0][0], heap[0][2]
            else:
                del self._heaps[kind]


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

    def __init__(self, c_uct: float, backup: str, failure_penalty: float, failures_tolerated: int) -> None:
        self.c_uct = c_uct
        self.backup = backup
        self.failure_penalty = failure_penalty
        self.failures_tolerated = failures_tolerated
        self._below: dict[str, Below] = {}
        self._siblings: defaultdict[str, Siblings] = defaultdict(Siblings)  # by their parent
        self._misplaced: dict[str, None] = {}  # nodes of which more is known than when they were placed
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
        self._put_in_place(tree)
        node_id = ROOT
        while self._below[node_id].open:
            n = self._below[node_id].visits
            ranked = [
                (uct(self._quality(kind, value), kind.visits, n, self.c_uct), -int(child), child)
                for kind, value, child in self._siblings[node_id].best()
            ]
            virtual = uct(
                self._normalised(tree[node_id].score), n / (len(tree[node_id].children) + 1), n, self.c_uct
            )
            best = max(ranked, default=(-math.inf, 0, ""))
            if node_id in self._open and virtual > best[0]:
                return node_id
            node_id = best[2]
        return None

    def _path(self, tree: Tree, node: Node) -> list[Below]:
        """Return what is known of a node and of all above it, to be changed: their places among their siblings no longer hold."""
        path = [above.node_id for above in tree.path(node.node_id)]
        self._misplaced.update(dict.fromkeys(path[1:]))
        return [self._below[above] for above in path]

    def _put_in_place(self, tree: Tree) -> None:
        for node_id in self._misplaced:
            below = self._below[node_id]
            kind = Kind(below.visits, below.scored > 0, below.failures >= self.failures_tolerated)
            value = (
                (below.best if self.backup == "max" else below.total / below.scored) if below.scored else 0.0
            )
            self._siblings[tree[node_id].parent_id or ROOT].place(
                node_id, (kind, value) if below.open else None
            )
        self._misplaced.clear()

    def _quality(self, kind: Kind, value: float) -> float:
        return self._normalised(value if kind.scored else None) - self.failure_penalty * kind.penalised

    def _normalised(self, score: float | None) -> float:
        """Return where a score lies between the worst (0) and the best (1) of the tree; 0.5 where all are equal, 0 without one."""
        if score is None:
            return 0.0
        return (score - self._low) / (self._high - self._low) if self._high > self._low else 0.5
