"""Gathers evidence from the tree of a search and the directories of its stages, and from nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from llmzero.core.hparams import Catalogue
from llmzero.core.length import LENGTHS
from llmzero.core.metrics import Metric, listed
from llmzero.core.stage import StageDir, StageStatus, ValidationPoint
from llmzero.evidence.dynamics import column, thirds
from llmzero.evidence.evidence import UNTOLD, Choice, Evidence, Prediction, StageView, Standing
from llmzero.tree.tree import Node, Tree

PREDICTIONS_SHOWN = 12  # of the latest stages whose agent said what it expected


@dataclass(frozen=True)
class EvidenceBuilder:
    """Gathers evidence from the tree and the stage directories.

    Attributes:
        max_depth: stages of a path; None is no limit.
        stages: that the search may have; None is no limit.
        lengths: the least and the greatest of a stage, in multiples of the usual one.
        validation_temperature: at which validations sample; None is unknown.
    """

    nodes_dir: Path
    catalogue: Catalogue
    metric_catalogue: dict[str, Metric]
    seed: int
    setting: Mapping[str, str] = field(default_factory=dict)
    max_depth: int | None = None
    stages: int | None = None
    lengths: tuple[float, float] = LENGTHS
    validation_temperature: float | None = None
    _ended: dict[str, StageView] = field(default_factory=dict)  # views of stages that have ended: they stay
    _levels: dict[str, dict[str, Any]] = field(default_factory=dict)  # what their metrics add to those

    def for_proposal(
        self,
        tree: Tree,
        node_id: str,
        budget_left: dict[str, float],
        *,
        choice: Choice = UNTOLD,
        until: int | None = None,
    ) -> Evidence:
        """Return the evidence for proposing a child of a node: everything its directory tells so far.

        With `until` the node still runs, and what it tells up to that step is shown. No child has an id then,
        so the evidence bears the node's own; and none of its checkpoints is sure to be kept.
        """
        node, stage = tree[node_id], StageDir(self.nodes_dir / node_id)
        facts: dict[str, Any] = {
            "validation": node.result.validation if node.result else stage.validation(),
            "metrics": stage.metrics(),
            "rollouts": stage.rollouts(),
        }
        told = [figures for step, figures in stage.subtasks() if until is None or step <= until]
        facts["subtasks"] = told[-1] if told else {}
        if until is not None:
            facts["validation"] = [point for point in facts["validation"] if point.step <= until]
            for name in ("metrics", "rollouts"):
                facts[name] = [row for row in facts[name] if row["step"] <= until]
        else:
            checkpoints = stage.complete_checkpoints()
            facts["checkpoints"] = [int(path.name.removeprefix("step_")) for path in checkpoints]
            facts["best_step"] = node.result.best_step if node.result else None
        return self._evidence(
            tree,
            node,
            node.result.flops if node.result else None,
            self._full_view,
            node_id=tree.next_id() if until is None else node_id,
            budget_left=budget_left,
            standing=self._standing(tree, node, choice, budget_left.get("flops")),
            predictions=self._predictions(tree),
            **facts,
        )

    def of_ended(self, tree: Tree, node_id: str) -> Evidence:
        """Return what a stage that has ended tells by itself: its changes, its gain and its metrics."""
        node = tree[node_id]
        assert node.result is not None
        return Evidence(
            stage=self._view(tree, node),
            validation=node.result.validation,
            metrics=StageDir(self.nodes_dir / node_id).metrics(),
            steps=_steps(tree, node, node.result.validation, node.result.flops),
            catalogue=self.catalogue,
            metric_catalogue=self.metric_catalogue,
        )

    def for_stopping(self, tree: Tree, node_id: str, status: StageStatus) -> Evidence:
        """Return the evidence for judging a running node: its validation trajectory, and what may follow."""
        node, left = tree[node_id], self._stages_left(tree)
        levels = (self.max_depth or node.depth) - node.depth
        return self._evidence(
            tree,
            node,
            status.flops,
            self._view,  # what metrics tell, no stopper is shown
            node_id=node_id,
            validation=status.validation,
            ahead=max(0, levels if left is None else min(levels, left)),
        )

    def _evidence(
        self,
        tree: Tree,
        node: Node,
        flops: float | None,
        view: Callable[[Tree, Node], StageView],
        **facts: Any,
    ) -> Evidence:
        """Return evidence, in which stages of the path, the best one, and the children are seen by `view`."""
        best = tree.best()
        return Evidence(
            stage=self._view(tree, node),
            start_score=tree[node.parent_id].score if node.parent_id else None,
            path=[view(tree, n) for n in tree.path(node.node_id)],
            children=[view(tree, n) for n in tree.children(node.node_id)],
            history=[self._view(tree, n) for n in tree.stages()],
            best_path=[view(tree, n) for n in tree.path(best.node_id)] if best else [],
            incumbent_score=best.score if best else None,
            steps=_steps(tree, node, facts["validation"], flops),
            stage_flops=node.flops,
            catalogue=self.catalogue,
            metric_catalogue=self.metric_catalogue,
            seed=f"{self.seed}/{tree.next_id()}",
            setting=self.setting,
            lengths=self.lengths,
            validation_temperature=self.validation_temperature,
            **facts,
        )

    def _standing(self, tree: Tree, node: Node, choice: Choice, flops_left: float | None) -> Standing:
        return Standing(
            why=choice.why,
            depth=node.depth,
            levels_left=None if self.max_depth is None else self.max_depth - node.depth,
            stages_left=self._stages_left(tree),
            flops_left=flops_left,
            others=tuple(self._view(tree, tree[other]) for other in choice.others),
        )

    def _stages_left(self, tree: Tree) -> int | None:
        """Return how many stages may still be decided on; None where there is no limit."""
        return None if self.stages is None else math.ceil(self.stages - tree.planned)

    def _view(self, tree: Tree, node: Node) -> StageView:
        view = self._ended.get(node.node_id) or self._new_view(tree, node)
        children = sum(child.state != "withdrawn" for child in tree.children(node.node_id))
        if view.children != children:
            view = replace(view, children=children)
        if node.usable:
            self._ended[node.node_id] = view
        return view

    def _full_view(self, tree: Tree, node: Node) -> StageView:
        """Return a view with what the metrics of a stage that has ended tell."""
        view = self._view(tree, node)
        if not node.final or node.parent_id is None:
            return view
        told = self._levels.get(node.node_id) or self._told_by_metrics(node)
        if node.usable:  # one that failed may be tried again
            self._levels[node.node_id] = told
        return replace(view, **told)

    def _told_by_metrics(self, node: Node) -> dict[str, Any]:
        stage = StageDir(self.nodes_dir / node.node_id)
        rows, subtasks = stage.metrics(), stage.subtasks()
        values = {name: column(rows, name) for name in listed(self.metric_catalogue.values(), "level")}
        lengths = column(rows, "completion_length_mean")
        return {
            "levels": {name: thirds(each) for name, each in values.items() if each},
            "length": fmean(lengths) if lengths else None,
            "subtasks": subtasks[-1][1] if subtasks else {},
        }

    def _new_view(self, tree: Tree, node: Node) -> StageView:
        parent = tree[node.parent_id] if node.parent_id else None
        return StageView(
            node_id=node.node_id,
            depth=node.depth,
            state=node.state,
            hparams=node.hparams,
            changes=self.catalogue.changes(parent.hparams, node.hparams) if parent and node.hparams else {},
            diagnosis=tuple(node.proposal.get("diagnosis", ())),
            score=node.score,
            gain=_gain(node, parent),
            error=node.result.error if node.result else None,
            parent_id=node.parent_id,
            agent=node.proposal.get("agent", ""),
            rationale=_rationale(node),
            resume=node.proposal.get("resume", "best"),
            cause=node.result.cause if node.result else None,
            gpu_seconds=node.result.gpu_seconds if node.result else 0.0,
            steps=node.result.validation[-1].step if node.result and node.result.validation else 0,
            flops=node.result.flops if node.result else None,
            points=tuple(node.result.validation) if node.result else (),
            stop=node.stop if node.final else None,
            stretch=node.multiple,
        )

    def _predictions(self, tree: Tree) -> list[Prediction]:
        """Return the latest stages that have ended and of which their agent said what it expected."""
        latest = islice(
            (node for node in reversed(tree.stages()) if node.final and node.proposal.get("expected")),
            PREDICTIONS_SHOWN,
        )
        return [self._prediction(tree, node, tree[node.parent_id]) for node in latest if node.parent_id][::-1]

    def _prediction(self, tree: Tree, node: Node, parent: Node) -> Prediction:
        expected = node.proposal["expected"]
        before, after = (StageDir(self.nodes_dir / n.node_id).metrics() for n in (parent, node))
        changed = self.catalogue.changes(parent.hparams, node.hparams)
        moved = [
            (name, way, _moved(name, way, before, after))
            for name, way in expected.get("metrics", {}).items()
            if not self._determined(name, changed)
        ]
        incumbent = expected.get("incumbent")
        if node.proposal.get("alternative_of"):  # it was said of a later best: the one when this stage began
            before_it = [
                each.score for each in tree if each.node_id < node.node_id and each.score is not None
            ]
            incumbent = max(before_it, default=incumbent)
        return Prediction(
            node_id=node.node_id,
            expected_score=expected.get("score"),
            score=node.score,
            probability=expected.get("probability"),
            improved=(_gain(node, parent) or 0.0) > 0,
            metrics=tuple((name, way, hit) for name, way, hit in moved if hit is not None),
            low=expected.get("low"),
            high=expected.get("high"),
            probability_best=expected.get("probability_best"),
            was_best=None if incumbent is None else node.score is not None and node.score > incumbent,
        )

    def _determined(self, name: str, changes: Iterable[str]) -> bool:
        """Whether changes of these hyperparameters move a metric by themselves, whatever the policy does."""
        metric = self.metric_catalogue.get(name)
        return metric is not None and not set(changes).isdisjoint(metric.depends_on)


def _steps(tree: Tree, node: Node, validation: Sequence[ValidationPoint], flops: float | None) -> int:
    """Return the steps of a stage; of one sized in FLOPs, as many as they will be after its last validation.

    `flops` is what it has cost, where its validations do not tell.
    """
    if not validation:
        return node.steps or 0
    before, last = tree.flops_before(node), validation[-1]
    if before is not None and last.flops is not None:
        flops = last.flops - before
    return node.length.expected_steps(last.step, flops)


def _rationale(node: Node) -> str:
    """Return the words of a stage's proposal; those of an alternative are its reasons, as the rationale is
    that of its first.
    """
    first = node.proposal.get("alternative_of")
    if not first:
        return str(node.proposal.get("rationale", ""))
    reasons = "; ".join(f"{name}: {why}" for name, why in node.proposal.get("reasons", {}).items())
    return f"The alternative of {first}. {reasons}".rstrip()


def _gain(node: Node, parent: Node | None) -> float | None:
    return None if parent is None or node.score is None or parent.score is None else node.score - parent.score


def _moved(
    metric: str, way: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> bool | None:
    """Whether the late level of a metric went `up` or `down` as expected; None where a level is missing."""
    values = [column(rows, metric) for rows in (before, after)]
    if not all(values):
        return None
    was, came = (thirds(each)[1] for each in values)
    return (came > was) == (way == "up")
