"""What every agent sees of a search: training dynamics, the path, what was tried, what is left. Validation data only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmzero.hparams import Catalogue, HParams
from llmzero.metrics import Metric
from llmzero.search.tree import Node, Tree
from llmzero.stage import StageDir, StageStatus, ValidationPoint


@dataclass(frozen=True)
class StageView:
    """A stage as agents see it. `gain` is its best score less its parent's; `changes` are against the parent."""

    node_id: str
    depth: int
    state: str
    hparams: HParams
    changes: HParams
    diagnosis: tuple[str, ...]
    score: float | None
    gain: float | None
    error: str | None


@dataclass(frozen=True)
class Evidence:
    """The facts before a decision.

    Attributes:
        stage: the stage in question: the parent of the one to be proposed, or the running one to be judged.
        start_score: the score the stage began with.
        validation: its validation points so far, and `metrics`, a dict for each of its steps.
        path: stages from the root to it.
        children: what was already tried from it.
        history: every stage of the search, in order of creation.
        incumbent_score: the best validation score of the search so far.
        steps: planned steps of the stage.
        budget_left: what remains of each limited resource.
        seed: for an agent that draws; the same for the same decision of the same search.
    """

    stage: StageView
    start_score: float | None
    validation: Sequence[ValidationPoint]
    metrics: Sequence[dict[str, Any]]
    rollouts: Sequence[dict[str, Any]]
    path: Sequence[StageView]
    children: Sequence[StageView]
    history: Sequence[StageView]
    incumbent_score: float | None
    steps: int
    catalogue: Catalogue
    metric_catalogue: dict[str, Metric]
    budget_left: dict[str, float] = field(default_factory=dict)
    seed: str = ""

    def rng(self) -> random.Random:
        """Return a random generator that is the same whenever this decision is taken again."""
        return random.Random(self.seed)

    def column(self, metric: str) -> list[float]:
        """Return a metric's values over the steps of the stage, missing ones left out."""
        return [row[metric] for row in self.metrics if row.get(metric) is not None]


@dataclass(frozen=True)
class EvidenceBuilder:
    """Gathers evidence from the tree and the stage directories."""

    nodes_dir: Path
    catalogue: Catalogue
    metric_catalogue: dict[str, Metric]
    seed: int

    def for_proposal(self, tree: Tree, node_id: str, budget_left: dict[str, float]) -> Evidence:
        """Return the evidence for proposing a child of a finished node."""
        node = tree[node_id]
        stage = StageDir(self.nodes_dir / node_id)
        validation = node.result.validation if node.result else []
        return self._evidence(tree, node, validation, stage.metrics(), stage.rollouts(), budget_left)

    def for_stopping(self, tree: Tree, node_id: str, status: StageStatus) -> Evidence:
        """Return the evidence for judging a running node: its validation trajectory."""
        return self._evidence(tree, tree[node_id], status.validation, [], [], {})

    def _evidence(self, tree: Tree, node: Node, validation: Any, metrics: Any, rollouts: Any, budget_left: dict[str, float]) -> Evidence:
        best = tree.best()
        return Evidence(
            stage=self._view(tree, node),
            start_score=tree[node.parent_id].score if node.parent_id else None,
            validation=validation,
            metrics=metrics,
            rollouts=rollouts,
            path=[self._view(tree, n) for n in tree.path(node.node_id)],
            children=[self._view(tree, n) for n in tree.children(node.node_id)],
            history=[self._view(tree, n) for n in tree.stages()],
            incumbent_score=best.score if best else None,
            steps=node.steps,
            catalogue=self.catalogue,
            metric_catalogue=self.metric_catalogue,
            budget_left=budget_left,
            seed=f"{self.seed}/{tree.next_id()}",
        )

    def _view(self, tree: Tree, node: Node) -> StageView:
        parent = tree[node.parent_id] if node.parent_id else None
        gain = None if parent is None or node.score is None or parent.score is None else node.score - parent.score
        return StageView(
            node_id=node.node_id,
            depth=node.depth,
            state=node.state,
            hparams=node.hparams,
            changes=self.catalogue.changes(parent.hparams, node.hparams) if parent else {},
            diagnosis=tuple(node.proposal.get("diagnosis", ())),
            score=node.score,
            gain=gain,
            error=node.result.error if node.result else None,
        )
