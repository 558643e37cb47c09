"""The final test, after the search: base model, practitioner, best constant and best strategy on the test
split, at equal compute.

Test data is read nowhere else. Every measurement is a zero-step stage with `evaluation_split: test`, run by
the same runner as the search's stages, in `<search_dir>/test/`, which no agent reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from llmzero.core.compute import summed
from llmzero.core.errors import UserError
from llmzero.core.files import write_json
from llmzero.core.hparams import HParams
from llmzero.core.length import Length, flops_text
from llmzero.core.stage import StageDir, StageResult, StageSpec, best_point
from llmzero.core.text import visible_line
from llmzero.runners.base import StageRunner
from llmzero.search.driver import RESTARTS
from llmzero.search.rounds import Rounds, side_by_side
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree, better
from llmzero.tree.workspace import Workspace

log = logging.getLogger(__name__)

Score = dict[str, Any]  # of `test.json`; `FAILED` holds what went wrong with a baseline
FAILED = "failed"


@dataclass(frozen=True)
class Incumbent:
    """A node that was the best by validation for a while, and what the search had spent when it became so."""

    node: Node
    stages: int
    gpu_seconds: float
    flops: float | None


@dataclass(frozen=True)
class Trained:
    """What it took to train a path: the steps that lie behind its end, and the cost of its stages, those of
    their steps included that no stage went on from; `flops` None is unknown, as in earlier versions.
    """

    steps: int
    flops: float | None
    gpu_seconds: float

    @classmethod
    def by(cls, results: Sequence[StageResult]) -> Trained:
        """Return what the stages of a path took, of which the base model's is none."""
        ends = [point.global_step for result in results for point in result.validation]
        spent = summed(result.flops for result in results)
        return cls(max(ends, default=0), spent, sum(result.gpu_seconds for result in results))


# Name, checkpoint, its hyperparameters, what is behind it, and its validation score.
Measure = Callable[[str, Path, HParams, Trained, float | None], Rounds[Score]]


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

    def rounds(
        self,
        workers: int,
        *,
        practitioner: bool = True,
        constant: Callable[[Trained, int, Measure], Rounds[Score]] | None = None,
        incumbents: bool = False,
    ) -> Rounds[None]:
        """Write `test.json`: score, stderr and n, with the steps, compute and device seconds behind each.

        The practitioner's entry is null where it is not wanted, or was not trained as long as it should,
        for want of memory for example. `failed` says what went wrong, by baseline; the next run of the same
        command tries it again. `workers` stages run side by side, the practitioner's training, the longest,
        among the first.

        Args:
            workers: how many.
            practitioner: whether its configuration is trained as long as the best path.
            constant: tunes and tests fixed schedules of the length of the best path, given what is behind it,
                its number of stages, and what measures a checkpoint; None leaves `constant` out of the file.
            incumbents: whether every node that ever was the best by validation is measured too, for
                `trajectory`.

        Raises:
            UserError: a measurement failed; the others are there for the next attempt.
        """
        tree = self.store.tree
        best = tree.best()
        assert best is not None, "the base model is usable, so there is a best node"
        reached = incumbents_of(tree) if incumbents else []
        works: dict[str, Rounds[Score]] = {}
        if practitioner:
            works["practitioner"] = self._practitioner(self._behind(best))
        for node in (tree.root, best, *(incumbent.node for incumbent in reached)):
            works.setdefault(node.node_id, self._node(node))
        scores = yield from side_by_side(works, workers)
        baselines: dict[str, Score] = {"practitioner": scores.get("practitioner", {})}
        if constant is not None:
            tuning = constant(self._behind(best), best.depth, self._measured) if best.depth else None
            baselines["constant"] = (yield from tuning) if tuning is not None else {}
        failed = {name: entry.pop(FAILED) for name, entry in baselines.items() if FAILED in entry}
        report: dict[str, Any] = {
            "base": scores[ROOT],
            "best": {**scores[best.node_id], "node_id": best.node_id},
            **{name: entry or None for name, entry in baselines.items()},
            **({FAILED: failed} if failed else {}),
        }
        for name, reason in failed.items():
            log.warning("%s: %s; the next run of the same command tries again", name, reason)
        if incumbents:
            report["trajectory"] = [
                {
                    "stages": incumbent.stages,
                    "gpu_seconds": incumbent.gpu_seconds,
                    "flops": incumbent.flops,
                    "node_id": incumbent.node.node_id,
                    **{key: scores[incumbent.node.node_id][key] for key in ("score", "stderr")},
                }
                for incumbent in reached
            ]
        write_json(self.workspace.test_file, report)

    def _node(self, node: Node) -> Rounds[Score]:
        """Measure what the search has at a node."""
        name = "base" if node.parent_id is None else f"best-{node.node_id}"
        return self._measured(name, _checkpoint(node), node.hparams, self._behind(node), node.score)

    def _behind(self, node: Node) -> Trained:
        """Return what lies behind the end of a node's stage."""
        path = self.store.tree.path(node.node_id)[1:]
        return Trained.by([stage.result for stage in path if stage.result])

    def _practitioner(self, wanted: Trained) -> Rounds[Score]:
        """Train the practitioner's configuration as long as `wanted`, and measure it; where it was not
        trained so long, return why.
        """
        name = f"practitioner-{wanted.steps if wanted.flops is None else format(wanted.flops, '.0f')}"
        first, remaining = self._beginning(wanted)
        assert first.result is not None
        behind = self._behind(first)
        candidates = [(first.score or 0.0, _checkpoint(first))] if first.parent_id or not wanted.steps else []
        if remaining.left(0, 0.0) > 0:
            spec = self._attempt(f"{name}-training", remaining, first.result.last_checkpoint)
            result = yield from self._ended(spec)
            self.store.charge_setup(spec.node_id, result.gpu_seconds, result.flops)
            if trouble := shortfall(result, remaining, self.runner.exact):
                return {FAILED: trouble}
            assert result.checkpoint is not None
            candidates.append((result.best_score or 0.0, result.checkpoint))
            behind = Trained.by([*([first.result] if first.parent_id else []), result])
        score, checkpoint = max(candidates, key=lambda pair: pair[0])
        return (yield from self._measured(name, checkpoint, self.defaults, behind, score))

    def _beginning(self, wanted: Trained) -> tuple[Node, Length]:
        """Return the stage that the practitioner's training goes on from, and for how long: for the compute
        that is wanted, or as many steps where that is unknown.

        It is the search's first stage that has that configuration, unless that was longer; else the base
        model.
        """
        first = self.store.tree.practitioner() or self.store.tree.root
        if self.defaults.get("lr_schedule", "constant") != "constant":
            first = self.store.tree.root  # the rate falls once, over the whole length
        remaining = _remaining(self._behind(first), wanted)
        if remaining is None:
            first = self.store.tree.root
            remaining = _remaining(self._behind(first), wanted)
        assert remaining is not None
        return first, remaining

    def _attempt(self, name: str, length: Length, checkpoint: Path | None) -> StageSpec:
        """Return the attempt at the practitioner's training that is under way, or has come to its end; a new
        one, in a directory of its own, where all have failed.
        """
        for number in count(1):
            spec = self._spec(
                name if number == 1 else f"{name}-{number}",
                **vars(length),
                resume_from=checkpoint,
                hparams=self.defaults,
                config=self.config,
            )
            earlier = StageDir(spec.directory).result()
            if earlier is None or not shortfall(earlier, length, self.runner.exact):
                break
            self.store.charge_setup(spec.node_id, earlier.gpu_seconds, earlier.flops)
        return spec

    def _measured(
        self, name: str, checkpoint: Path, hparams: HParams, behind: Trained, validation: float | None
    ) -> Rounds[Score]:
        """Measure a checkpoint, of which is known what is behind it and its validation score; charge that
        once.

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
            "validation": validation,
            "steps": behind.steps,
            "flops": behind.flops,
            "gpu_seconds": round(behind.gpu_seconds, 1),
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


def shortfall(result: StageResult, length: Length, exact: bool) -> str | None:
    """Return why a training is none of a length, in a line; None where it is.

    Args:
        result: how it ended.
        length: that it was asked for.
        exact: whether it was to end within half a step of that.
    """
    if result.state != "completed" or not result.validation or result.checkpoint is None:
        error = f": {result.error}" if result.error else ""
        return visible_line(f"its training {result.state}{error}")
    steps, unknown = result.validation[-1].step, length.flops is not None and result.flops is None
    if exact and not unknown and not length.ends(steps, result.flops):
        return f"its training ended after {steps} steps ({flops_text(result.flops)}), short of {length}"
    return None


def incumbents_of(tree: Tree) -> list[Incumbent]:
    """Return the nodes that were the best by validation at some time, in order of time."""
    incumbents: list[Incumbent] = []
    best: Node | None = None
    stages, gpu_seconds = 0, 0.0
    flops: list[float | None] = []
    for node in tree.finished:
        if node.parent_id is not None:
            assert node.result is not None
            stages, gpu_seconds = stages + 1, gpu_seconds + _gpu_seconds(node)
            flops.append(node.result.flops)
        if better(best, node) is not best:
            best = node
            incumbents.append(Incumbent(node, stages, round(gpu_seconds, 3), summed(flops)))
    return incumbents


def _remaining(done: Trained, wanted: Trained) -> Length | None:
    """Return what is left to train, no less than half a step; None where more was done than is wanted."""
    if done.flops is None or wanted.flops is None:
        left = wanted.steps - done.steps
        return Length(left) if left >= 0 else None
    step = done.flops / done.steps if done.steps else 0.0
    over = wanted.flops - done.flops
    if over < -step / 2:
        return None
    return Length(flops=over) if over > step / 2 else Length(0)


def _gpu_seconds(node: Node) -> float:
    assert node.result is not None
    return node.result.gpu_seconds


def _checkpoint(node: Node) -> Path:
    assert node.result is not None
    assert node.result.checkpoint is not None
    return node.result.checkpoint
