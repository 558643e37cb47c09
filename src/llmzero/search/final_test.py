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
from llmzero.runners.base import StageHandle, StageRunner
from llmzero.search.driver import RESTARTS
from llmzero.search.rounds import Rounds
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree, better
from llmzero.tree.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass
class Measurement:
    """A stage outside the search, of zero steps or of the practitioner's training, that was started."""

    spec: StageSpec
    handle: StageHandle


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

    def rounds(self, *, practitioner: bool = True, incumbents: bool = False) -> Rounds[None]:
        """Write `test.json`: score, stderr and n, with the training steps and device seconds behind each.

        The practitioner's entry is null where it is not wanted, or could not be trained, for want of memory
        for example. With `incumbents` every node that ever was the best by validation is measured too, for
        `trajectory`.
        """
        tree = self.store.tree
        best = tree.best()
        assert best is not None, "the base model is usable, so there is a best node"
        steps = _trained_steps(best)
        base = self._evaluate("base", _checkpoint(tree.root), tree.root.hparams)
        measured = self._evaluate(f"best-{best.node_id}", _checkpoint(best), best.hparams)
        report: dict[str, Any] = {
            "base": (yield from self._score(base, 0, 0.0)),
            "practitioner": (yield from self._practitioner(steps)) if practitioner else None,
            "best": {
                **(
                    yield from self._score(
                        measured, steps, sum(map(_gpu_seconds, tree.path(best.node_id)[1:]))
                    )
                ),
                "node_id": best.node_id,
            },
        }
        if incumbents:
            report["trajectory"] = yield from self._trajectory()
        write_json(self.workspace.test_file, report)

    def _trajectory(self) -> Rounds[list[dict[str, Any]]]:
        """Return the test score of every incumbent, the base model first."""
        entries = []
        for incumbent in incumbents_of(self.store.tree):
            node = incumbent.node
            name = "base" if node.parent_id is None else f"best-{node.node_id}"
            score = yield from self._score(self._evaluate(name, _checkpoint(node), node.hparams), 0, 0.0)
            spent = {"stages": incumbent.stages, "gpu_seconds": incumbent.gpu_seconds}
            measured = {"score": score["score"], "stderr": score["stderr"]}
            entries.append({**spent, "node_id": node.node_id, **measured})
        return entries

    def _practitioner(self, steps: int) -> Rounds[dict[str, Any] | None]:
        """Train the practitioner's configuration for `steps` and measure it; None where that failed."""
        checkpoint, gpu_seconds = yield from self._train_practitioner(steps)
        if checkpoint is None:
            log.warning(
                "the practitioner's configuration could not be trained, so there is no test score of it"
            )
            return None
        return (
            yield from self._score(
                self._evaluate(f"practitioner-{steps}", checkpoint, self.defaults), steps, gpu_seconds
            )
        )

    def _evaluate(self, name: str, checkpoint: Path, hparams: HParams) -> Measurement:
        config = {**self.config, "trainer": {**self.config["trainer"], "evaluation_split": "test"}}
        return self._launch(name, steps=0, resume_from=checkpoint, hparams=hparams, config=config)

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
            last = first.result.last_checkpoint
            name = f"practitioner-{steps}-training"
            training = self._launch(
                name, steps=remaining, resume_from=last, hparams=self.defaults, config=self.config
            )
            result = yield from self._wait(training, may_fail=True)
            candidates += [(result.best_score or 0.0, result.checkpoint)] if result.checkpoint else []
            gpu_seconds += result.gpu_seconds
        return max(candidates, key=lambda pair: pair[0], default=(0.0, None))[1], gpu_seconds

    def _launch(self, name: str, **fields: Any) -> Measurement:
        """Start a measurement, or attach to one that an earlier driver started."""
        directory = self.workspace.test / name
        spec = StageSpec(node_id=name, parent_id=None, depth=0, directory=directory, seed=self.seed, **fields)
        handle = self.runner.attach(spec) if directory.exists() else None
        if handle is None:
            StageDir(directory).write_spec(spec)
            handle = self.runner.start(spec)
        return Measurement(spec, handle)

    def _wait(self, measurement: Measurement, *, may_fail: bool = False) -> Rounds[StageResult]:
        """Wait for a measurement, charge it once, return its result; restart it once where its process dies.

        Raises:
            UserError: it failed and may not.
        """
        name = measurement.spec.node_id
        deaths = seen = 0
        while not (status := measurement.handle.poll()).final or (status.died and deaths < RESTARTS):
            if status.died:
                deaths += 1
                measurement.handle = self.runner.start(measurement.spec)
            yield len(status.validation) > seen
            seen = len(status.validation)
        result = measurement.handle.result()
        if result.state == "failed" and not may_fail:
            log = StageDir(measurement.spec.directory).log_file
            raise UserError(
                f"the final test of {name} failed: {visible_line(result.error)}; "
                f"see {log}, then run the same command again"
            )
        self.store.charge_setup(name, result.gpu_seconds)
        return result

    def _score(self, measurement: Measurement, steps: int, gpu_seconds: float) -> Rounds[dict[str, Any]]:
        point = best_point((yield from self._wait(measurement)).validation)
        assert point is not None, "a zero-step stage validates once"
        return {
            "score": point.score,
            "stderr": point.stderr,
            "n": point.n,
            "steps": steps,
            "gpu_seconds": round(gpu_seconds, 1),
        }


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
