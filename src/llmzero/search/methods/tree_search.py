"""UCT over training stages, with a virtual new child (LLMZero, arXiv 2606.18388)."""

from __future__ import annotations

import math
import random
from statistics import fmean
from typing import Literal

from llmzero.search.methods.base import Expansion, MethodContext, expand, practitioner_stage
from llmzero.search.tree import ROOT, Node, Tree


def uct(quality: float, visits: float, parent_visits: float, c_uct: float) -> float:
    """Return quality + c * sqrt(ln(parent visits) / visits): UCB1 applied to trees (Kocsis and Szepesvari, 2006)."""
    return quality + c_uct * math.sqrt(math.log(max(parent_visits, 1.0)) / visits)


class TreeSearch:
    """The paper's selection rule.

    At node p, compare the non-terminal children with a *virtual new child* whose quality is p's own and whose visits are
    N(p) / (k + 1). Where the virtual child is strictly ahead and k < k_max, p is expanded; else the search descends.

    Args:
        c_uct: weight of exploration.
        k_max: children a node may have; fresh starts come on top at the root.
        fresh_start_fraction: share of iterations that are forced to branch from the base model.
        backup: a node's quality is the `mean` or the `max` of the normalised scores in its subtree.
        failure_penalty: subtracted from the quality of a node once `failures_tolerated` stages below it have failed.
    """

    def __init__(
        self,
        context: MethodContext,
        c_uct: float = 1.414,
        k_max: int = 3,
        fresh_start_fraction: float = 0.2,
        backup: Literal["mean", "max"] = "max",
        failure_penalty: float = 0.5,
        failures_tolerated: int = 2,
    ) -> None:
        self.context = context
        self.c_uct = c_uct
        self.k_max = k_max
        self.fresh_start_fraction = fresh_start_fraction
        self.backup = backup
        self.failure_penalty = failure_penalty
        self.failures_tolerated = failures_tolerated

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage: the practitioner's first, then by UCT, with forced fresh starts in between."""
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        if self._fresh_start(tree):
            return expand(self.context, tree, ROOT)
        node_id = self.select(tree)
        return expand(self.context, tree, node_id) if node_id is not None else None

    def tell(self, tree: Tree, node: Node) -> None:
        """Nothing to learn: every choice is a function of the tree."""

    def select(self, tree: Tree) -> str | None:
        """Return the node to expand; None where every branch waits for a running stage or is closed."""
        visits, quality = self._statistics(tree)
        own = self._normalised(tree)
        open_nodes = self._open(tree)
        node_id = ROOT
        while node_id in open_nodes:
            children = tree[node_id].children
            n = visits[node_id]
            ranked = [(uct(quality[c], visits[c], n, self.c_uct), c) for c in children if c in open_nodes]
            virtual = uct(own.get(node_id, 0.0), n / (len(children) + 1), n, self.c_uct)
            best = max((score for score, _ in ranked), default=-math.inf)
            if self._expandable(tree, node_id) and virtual > best:
                return node_id
            if not ranked:
                return node_id if self._expandable(tree, node_id) else None
            node_id = max(ranked, key=lambda pair: (pair[0], -int(pair[1])))[1]
        return None

    def _fresh_start(self, tree: Tree) -> bool:
        """Drawn from the seed and the number of nodes alone, so that a restarted search decides alike."""
        return random.Random(f"{self.context.seed}/fresh/{len(tree)}").random() < self.fresh_start_fraction

    def _expandable(self, tree: Tree, node_id: str) -> bool:
        node = tree[node_id]
        return node.usable and node.depth < self.context.max_depth and len(node.children) < self.k_max

    def _open(self, tree: Tree) -> set[str]:
        """Return the nodes below which something can still be expanded; the others are terminal."""
        found: set[str] = set()
        for node in reversed(list(tree)):
            if self._expandable(tree, node.node_id) or any(child in found for child in node.children):
                found.add(node.node_id)
        return found

    def _normalised(self, tree: Tree) -> dict[str, float]:
        """Return every scored node's score between the worst (0) and the best (1) of the tree; 0.5 where all are equal."""
        scores = {node.node_id: node.score for node in tree if node.score is not None}
        low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
        return {i: (score - low) / (high - low) if high > low else 0.5 for i, score in scores.items()}

    def _statistics(self, tree: Tree) -> tuple[dict[str, int], dict[str, float]]:
        """Return visits (1 + those of the children) and quality of every node. Running stages count as visits: a virtual loss."""
        own = self._normalised(tree)
        visits = {node.node_id: 1 for node in tree}
        values = {node.node_id: [own[node.node_id]] if node.node_id in own else [] for node in tree}
        failures = {node.node_id: int(node.state == "failed") for node in tree}
        for node in reversed(list(tree)):
            if node.parent_id is not None:
                visits[node.parent_id] += visits[node.node_id]
                values[node.parent_id] += values[node.node_id]
                failures[node.parent_id] += failures[node.node_id]
        combine = fmean if self.backup == "mean" else max
        quality = {i: combine(v) if v else 0.0 for i, v in values.items()}
        for node_id, failed in failures.items():
            if failed >= self.failures_tolerated:
                quality[node_id] -= self.failure_penalty
        return visits, quality
