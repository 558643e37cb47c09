"""The final test, after the search: base model, practitioner and best strategy on the test split.

Test data is read nowhere else. Every measurement is a zero-step stage with `evaluation_split: test`, run by
the same runner as the search's stages, in `<search_dir>/test/`, which no agent reads.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.files import write_json
from llmzero.core.hparams import HParams
from llmzero.core.stage import StageDir, StageResult, StageSpec, best_point
from llmzero.core.text import visible_line
from llmzero.runners.base import StageRunner
from llmzero.search.driver import RESTARTS
from llmzero.search.rounds import Rounds, side_by_side
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree, better
from llmzero.tree.workspace import Workspace

log = logging.getLogger(__name__)

Score = dict[str, Any]


@dataclass(frozen=True)
class Incumbent:
    """A node that was the best by validation for a while, and what the search had spent when it became so."""

    node: Node
    stages: int
    gpu_seconds: float


class FinalTest:
    """Measures base, practitioner and best on the test split; resumable, and paid once."""

    def __init__(
        self,
        workspace: Workspace,
        store: EventStore,
        runner: StageRunner,
        config: dict[str, Any],
        defaults: HParams,
        seed: int,
    ) -> None:
        self.workspace, self.store, self.runner = workspace, store, runner
        self.config, self.defaults, self.seed = config, defaults, seed

    def rounds(self, workers: int, *, practitioner: bool = True, incumbents: bool = False) -> Rounds[None]:
        """Write `test.json`: score, stderr and n, with the training steps and device seconds behind each.

        The practitioner's entry is null where it is not wanted, or could not be trained, for want of memory
        for example. With `incumbents` every node that ever was the best by validation is measured too, for
        `trajectory`. `workers` stages run side by side, the practitioner's training, the longest, among the
        first.

        Raises:
            UserError: a measurement failed; the others are there for the next attempt.
        """
        tree = self.store.tree
        best = tree.best()
        assert best is not None, "the base model is usable, so there is a best node"
        reached = incumbents_of(tree) if incumbents else []
        works: dict[str, Rounds[Score]] = {}
        if practitioner:
            works["practitioner"] = self._practitioner(_trained_steps(best))
        for node in (tree.root, best, *(incumbent.node for incumbent in reached)):
            works.setdefault(node.node_id, self._node(node))
        scores = yield from side_by_side(works, workers)
        report: dict[str, Any] = {
            "base": scores[ROOT],
            "practitioner": scores.get("practitioner") or None,
            "best": {**scores[best.node_id], "node_id": best.node_id},
        }
        if incumbents:
            report["trajectory"] = [
                {
                    "stages": incumbent.stages,
                    "gpu_seconds": incumbent.gpu_seconds,
                    "node_id": incumbent.node.node_id,
                    **{key: scores[incumbent.node.node_id][key] for key in ("score", "stderr")},
                }
                for incumbent in reached
            ]
        write_json(self.workspace.test_file, report)

    def _node(self, node: Node) -> Rounds[Score]:
        """Measure what the search has at a node."""
        name = "base" if node.parent_id is None else f"best-{node.node_id}"
        spent = sum(map(_gpu_seconds, self.store.tree.path(node.node_id)[1:]))
        return self._measured(name, _checkpoint(node), node.hparams, _trained_steps(node), spent)

    def _practitioner(self, steps: int) -> Rounds[Score]:
        """Train the practitioner's configuration for `steps` and measure it; nothing where that failed."""
        checkpoint, gpu_seconds = yield from self._train_practitioner(steps)
        if checkpoint is None:
            log.warning(
                "the practitioner's configuration could not be trained, so there is no test score of it"
            )
            return {}
        name = f"practitioner-{steps}"
        return (yield from self._measured(name, checkpoint, self.defaults, steps, gpu_seconds))

    def _train_practitioner(self, steps: int) -> Rounds[tuple[Path | None, float]]:
        """Train the practitioner's configuration for `steps`; return its best checkpoint and cost.

        It resumes from the search's first stage, which has that configuration, and its checkpoint is selected
        on validation as the search's is. Checkpoints before a failure count; None where there is none.
        """
        tree = self.store.tree
        first = tree.practitioner() or tree.root
        assert first.result is not None
        candidates = [(first.score or 0.0, _checkpoint(first))] if first.parent_id or not steps else []
        gpu_seconds = _gpu_seconds(first) if first.parent_id else 0.0
        remaining = steps - _trained_steps(first)
        if remaining > 0:
            spec = self._spec(
                f"practitioner-{steps}-training",
                steps=remaining,
                resume_from=first.result.last_checkpoint,
                hparams=self.defaults,
                config=self.config,
            )
            result = yield from self._ended(spec)
            self.store.charge_setup(spec.node_id, result.gpu_seconds, result.flops)
            candidates += [(result.best_score or 0.0, result.checkpoint)] if result.checkpoint else []
            gpu_seconds += result.gpu_seconds
        return max(candidates, key=lambda pair: pair[0], default=(0.0, None))[1], gpu_seconds

    def _measured(
        self, name: str, checkpoint: Path, hparams: HParams, steps: int, gpu_seconds: float
    ) -> Rounds[Score]:
        """Measure a checkpoint that so many steps and device seconds have led to, and charge that once.

        Raises:
            UserError: it failed. The next attempt measures it anew.
        """
        config = {**self.config, "trainer": {**self.config["trainer"], "evaluation_split": "test"}}
        spec = self._spec(name, steps=0, resume_from=checkpoint, hparams=hparams, config=config)
        stage = StageDir(spec.directory)
        earlier = stage.result()
        if earlier is not None and earlier.state == "failed":
            stage.result_file.unlink()
        result = yield from self._ended(spec)
        if result.state == "failed":
            raise UserError(
                f"the final test of {name} failed: {visible_line(result.error)}; "
                f"see {stage.log_file}, then run the same command again"
            )
        self.store.charge_setup(spec.node_id, result.gpu_seconds, result.flops)
        point = best_point(result.validation)
        assert point is not None, "a zero-step stage validates once"
        return {
            "score": point.score,
            "stderr": point.stderr,
            "n": point.n,
            "steps": steps,
            "gpu_seconds": round(gpu_seconds, 1),
        }

    def _spec(self, name: str, **fields: Any) -> StageSpec:
        directory = self.workspace.test / name
        return StageSpec(node_id=name, parent_id=None, depth=0, directory=directory, seed=self.seed, **fields)

    def _ended(self, spec: StageSpec) -> Rounds[StageResult]:
        """Start a stage, or attach to one of an earlier driver; return its result.

        It is restarted once where its process dies.
        """
        handle = self.runner.attach(spec) if spec.directory.exists() else None
        if handle is None:
            StageDir(spec.directory).write_spec(spec)
            handle = self.runner.start(spec)
        deaths = seen = 0
        while not (status := handle.poll()).final or (status.died and deaths < RESTARTS):
            if status.died:
                deaths += 1
                handle = self.runner.start(spec)
            yield len(status.validation) > seen
            seen = len(status.validation)
        return handle.result()


def incumbents_of(tree: Tree) -> list[Incumbent]:
    """Return the nodes that were the best by validation at some time, in order of time."""
    incumbents: list[Incumbent] = []
    best: Node | None = None
    stages, gpu_seconds = 0, 0.0
    for node in tree.finished:
        if node.parent_id is not None:
            stages, gpu_seconds = stages + 1, gpu_seconds + _gpu_seconds(node)
        if better(best, node) is not best:
            best = node
            incumbents.append(Incumbent(node, stages, round(gpu_seconds, 3)))
    return incumbents


def _trained_steps(node: Node) -> int:
    """Return the steps along the path to the end of a node's stage."""
    assert node.result is not None
    return max((point.global_step for point in node.result.validation), default=0)


def _gpu_seconds(node: Node) -> float:
    assert node.result is not None
    return node.result.gpu_seconds


def _checkpoint(node: Node) -> Path:
    assert node.result is not None
    assert node.result.checkpoint is not None
    return node.result.checkpoint
