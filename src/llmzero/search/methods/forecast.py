"""The rule of `search=llmzero`: expand the node whose path is forecast to end best."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from llmzero.search.methods.pace import Pace
from llmzero.tree.tree import Node, Tree

if TYPE_CHECKING:
    from llmzero.evidence.gain_model import GainModel

CANDIDATES = 64  # at each depth, those with the best scores


class Forecast:
    """Thompson sampling over the final scores of paths.

    How stages gain is learnt from the tree itself (`GainModel`). For every choice one such curve is drawn,
    each open node's path is carried on along it to the greatest depth that is left, and the node whose path
    comes out best is chosen. So nodes are compared by where they lead and not by where they stand: the base
    model by a whole path, a deep node by its last stages. Where paths lead from a node is known in part from
    those that were taken: the forecast is averaged with the best score below it. Without that, a stage which
    scores little and prepares much is never branched from again.

    Args:
        max_depth: stages of a path.
        exploration: factor on what is drawn around the most likely curve; 0 believes in it.
        subtree_weight: of the best score below a node in its forecast, between 0 and 1.
        failure_penalty: taken from a forecast, in units of the spread of scores, once `failures_tolerated`
            children of a node have failed.
    """

    promise = "the best score that its path is forecast to reach (choices are drawn around forecasts)"

    def __init__(
        self,
        max_depth: int,
        exploration: float,
        subtree_weight: float,
        failure_penalty: float,
        failures_tolerated: int,
    ) -> None:
        self.max_depth = max_depth
        self.exploration = exploration
        self.subtree_weight = subtree_weight
        self.failure_penalty = failure_penalty
        self.failures_tolerated = failures_tolerated
        # By depth, sorted: (-score, id) of the open nodes.
        self._open: list[list[tuple[float, str]]] = [[] for _ in range(max_depth)]
        self._failures: dict[str, int] = {}
        self._reached: dict[str, float] = {}  # the best height below a node
        self.pace = Pace(max_depth)

    @cached_property
    def model(self) -> GainModel:
        """What the tree tells of gains. Numpy is imported with it, when the first stage has ended."""
        from llmzero.evidence.gain_model import GainModel

        return GainModel()

    def created(self, tree: Tree, node: Node) -> None:
        """Count it as under way; it has no score yet."""
        self.pace.created(node)

    def ended(self, tree: Tree, node: Node) -> None:
        """Learn from what a completed stage gained, and of any how high it came; or count a failure."""
        self.pace.ended(node)
        if node.parent_id is None:
            return
        if node.score is not None:
            self._back_up(tree, node)
        if node.state == "failed":
            self._failures[node.parent_id] = self._failures.get(node.parent_id, 0) + 1
        elif node.score is not None and node.state == "completed":
            parent = tree[node.parent_id]
            self.model.observe(_height(tree, parent), _momentum(tree, parent), _momentum(tree, node))

    def _back_up(self, tree: Tree, node: Node) -> None:
        """Tell all stages above one how high it came."""
        height, above = _height(tree, node), node.parent_id
        while above is not None and self._reached.get(above, -math.inf) < height:
            self._reached[above] = height
            above = tree[above].parent_id

    def opened(self, tree: Tree, node: Node) -> None:
        """Add a node that may get a child."""
        insort(self._open[node.depth], _entry(node))

    def closed(self, tree: Tree, node: Node) -> None:
        """Remove a node that may get no more."""
        entries = self._open[node.depth]
        del entries[bisect_left(entries, _entry(node))]

    def choose(self, tree: Tree, rng: random.Random, stages_left: int | None) -> str | None:
        """Return the node with the best forecast of those that wait for no stage under way.

        None where there is none, or no further stage is affordable below it now.
        """
        forecast = self._forecast(tree, rng, stages_left, self.exploration)
        last = self.pace.outranked(tree)
        ready = (
            node_id
            for depth, entries in enumerate(self._open)
            for rank, (_, node_id) in enumerate(islice(entries, CANDIDATES), start=1)
            if rank <= last.get(depth, CANDIDATES)
        )
        best = max(ready, key=forecast, default=None)
        return best if best and self.pace.affordable(tree[best].depth, stages_left) else None

    def may_begin(self, tree: Tree, node: Node, stages_left: int | None) -> bool:
        """Return whether a stage below an open node may begin now, rather than wait for those under way."""
        rank = bisect_left(self._open[node.depth], _entry(node)) + 1
        outranked = rank > self.pace.outranked(tree).get(node.depth, rank)
        return not outranked and self.pace.affordable(node.depth, stages_left)

    def ranked(self, tree: Tree, stages_left: int | None) -> list[tuple[float, str]]:
        """Return the score that each path is expected to reach, without anything drawn at random."""
        forecast = self._forecast(tree, random.Random(0), stages_left, 0.0)
        base, spread = tree.root.score or 0.0, _spread(tree)
        expected = ((base + spread * forecast(node_id), node_id) for node_id in self._candidates())
        return sorted(expected, key=lambda entry: (-entry[0], entry[1]))

    def _candidates(self) -> Iterator[str]:
        """Yield at each depth the open nodes with the best scores."""
        return (node_id for entries in self._open for _, node_id in islice(entries, CANDIDATES))

    def _forecast(
        self, tree: Tree, rng: random.Random, stages_left: int | None, exploration: float
    ) -> Callable[[str], float]:
        """Return a function of a node: the best score on its path along a drawn curve, in units of the spread
        above the base model.
        """
        spread = _spread(tree)
        curve = self.model.draw(spread, rng, exploration)

        def forecast(node_id: str) -> float:
            node = tree[node_id]
            ahead = min(self.max_depth - node.depth, stages_left or self.max_depth)
            failed = self._failures.get(node_id, 0) >= self.failures_tolerated
            best = curve.best_ahead(_height(tree, node) / spread, _momentum(tree, node) / spread, ahead, rng)
            if node_id in self._reached:
                best += self.subtree_weight * (self._reached[node_id] / spread - best)
            return best - self.failure_penalty * failed

        return forecast


def _entry(node: Node) -> tuple[float, str]:
    return -(node.score or 0.0), node.node_id


def _height(tree: Tree, node: Node) -> float:
    """Return how far a node lies above the base model."""
    return (node.score or 0.0) - (tree.root.score or 0.0)


def _momentum(tree: Tree, node: Node) -> float:
    """Return what a node's own stage gained; 0 of the base model."""
    return (node.score or 0.0) - (tree[node.parent_id].score or 0.0) if node.parent_id else 0.0


def _spread(tree: Tree) -> float:
    """Return how far the best score lies above the base model, the unit of forecasts; 1 before any gain."""
    best = tree.best()
    return (_height(tree, best) if best else 0.0) or 1.0
