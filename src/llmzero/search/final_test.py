"""The only place where test data is read: after the search, base, practitioner and best strategy on the test split.

Every measurement is a zero-step stage with `evaluation_split: test`, run by the same runner as the search's stages, in
`<search_dir>/test/`, where no agent ever looks.
"""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from llmzero.files import write_json
from llmzero.hparams import HParams
from llmzero.runners.base import StageHandle, StageRunner
from llmzero.search.store import EventStore
from llmzero.search.tree import Node
from llmzero.search.workspace import Workspace
from llmzero.stage import StageDir, StageResult, StageSpec, ValidationPoint, best_point

POLL_S = 0.2


class FinalTest:
    """Measures base, practitioner and best on the test split; resumable, and paid once."""

    def __init__(self, workspace: Workspace, store: EventStore, runner: StageRunner, config: dict[str, Any], defaults: HParams, seed: int) -> None:
        self.workspace, self.store, self.runner = workspace, store, runner
        self.config, self.defaults, self.seed = config, defaults, seed

    def run(self) -> dict[str, dict[str, Any]]:
        """Return and write `test.json`: score, stderr, n, and the training steps behind each."""
        tree = self.store.tree
        best = tree.best()
        assert best is not None and best.result is not None, "the base model is usable, so there is a best node"
        steps = _trained_steps(best)
        base = self._evaluate("base", tree.root, tree.root.result.checkpoint)  # type: ignore[union-attr]
        found = self._evaluate(f"best-{best.node_id}", best, best.result.checkpoint)
        checkpoint = self._train_practitioner(steps)
        practitioner = self._launch(f"practitioner-{steps}", self._evaluation(checkpoint, self.defaults))
        report = {
            "base": self._score(base, 0),
            "practitioner": self._score(practitioner, steps),
            "best": {**self._score(found, steps), "node_id": best.node_id},
        }
        write_json(self.workspace.test_file, report)
        return report

    def _evaluate(self, name: str, node: Node, checkpoint: Path | None) -> tuple[str, StageHandle]:
        return self._launch(name, self._evaluation(checkpoint, node.hparams))

    def _evaluation(self, checkpoint: Path | None, hparams: HParams) -> dict[str, Any]:
        config = deepcopy(self.config)
        config["trainer"]["evaluation_split"] = "test"
        return {"steps": 0, "resume_from": checkpoint, "hparams": hparams, "config": config}

    def _train_practitioner(self, steps: int) -> Path | None:
        """Train the practitioner's configuration for as many steps as the best path; return its best checkpoint.

        It goes on from the search's first stage, which has that configuration, and is selected on validation as the search is.
        """
        tree = self.store.tree
        first = next((node for node in tree.stages() if node.usable and node.depth == 1 and node.hparams == self.defaults), tree.root)
        assert first.result is not None
        done = _trained_steps(first)
        points = [(point, first.result.checkpoint) for point in first.result.validation if point.step == first.result.best_step]
        if steps > done:
            fields = {"steps": steps - done, "resume_from": first.result.last_checkpoint, "hparams": self.defaults, "config": self.config}
            result = self._wait(self._launch(f"practitioner-{steps}-training", fields))
            points += [(point, result.checkpoint) for point in result.validation if point.step == result.best_step]
        return max(points, key=lambda pair: pair[0].score)[1]

    def _launch(self, name: str, fields: dict[str, Any]) -> tuple[str, StageHandle]:
        """Start a measurement, or take up one that an earlier driver started."""
        directory = self.workspace.test / name
        spec = StageSpec(node_id=name, parent_id=None, depth=0, directory=directory, seed=self.seed, **fields)
        handle = self.runner.attach(spec) if directory.exists() else None
        if handle is None:
            StageDir(directory).write_spec(spec)
            handle = self.runner.start(spec)
        return name, handle

    def _wait(self, launched: tuple[str, StageHandle]) -> StageResult:
        """Wait for a measurement, charge it once, and return its result.

        Raises:
            RuntimeError: it failed.
        """
        name, handle = launched
        while not handle.poll().final:
            time.sleep(POLL_S)
        result = handle.result()
        if result.state == "failed" or not result.validation:
            raise RuntimeError(f"the final test of {name} failed: {result.error}; see {self.workspace.test / name / 'log.txt'}")
        self.store.charge_setup(name, result.gpu_seconds)
        return result

    def _score(self, launched: tuple[str, StageHandle], steps: int) -> dict[str, Any]:
        point: ValidationPoint | None = best_point(self._wait(launched).validation)
        assert point is not None
        return {"score": point.score, "stderr": point.stderr, "n": point.n, "steps": steps}


def _trained_steps(node: Node) -> int:
    """Return the steps along the path to the end of a node's stage."""
    assert node.result is not None
    return max((point.global_step for point in node.result.validation), default=0)
