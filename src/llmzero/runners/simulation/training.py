"""One simulated stage: its steps, its validations, and the files that a trainer would leave."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from llmzero.core.decay import decayed
from llmzero.core.files import append, read_json, reading, write_atomic
from llmzero.core.shapes import NUMBER_OR_NOTHING, SCALAR, require
from llmzero.core.stage import FinalState, StageDir, StageResult, StageSpec, ValidationPoint, best_point
from llmzero.runners.clocked import ClockedStage
from llmzero.runners.simulation.costs import step_flops, step_seconds, validation_seconds
from llmzero.runners.simulation.drive import drive_of, of_reference
from llmzero.runners.simulation.landscape import Landscape
from llmzero.runners.simulation.memory import OutOfMemory, out_of_memory
from llmzero.runners.simulation.metrics import Metrics
from llmzero.runners.simulation.policy import Policy, advance, base_policy

# Of a validation's error that all validations of a search have in common: they ask the same questions.
SHARED = 0.7
LEAST_ERROR = 1e-4  # of a score, which is rounded to it


@dataclass(frozen=True)
class Origin:
    """What a simulated checkpoint holds.

    The policy, the practitioner's values that its path is measured by, and a hash of the path.
    """

    policy: Policy
    reference: Mapping[str, Any]
    lineage: str

    @classmethod
    def of(cls, spec: StageSpec, land: Landscape) -> Origin:
        """Return where a stage begins; the base model's own stage says what the practitioner's values are."""
        if spec.resume_from is None:
            return cls(base_policy(land), {} if spec.trains else of_reference(spec.hparams), "base")
        file = spec.resume_from / "COMPLETE"
        state = read_json(file)
        with reading(file):
            if state is None:
                raise ValueError("there is no simulated policy")
            require(state, {"policy": {str: NUMBER_OR_NOTHING}, "reference": {str: SCALAR}, "lineage": str})
            reference = of_reference(state["reference"])
            if others := state["reference"].keys() - reference.keys():
                raise ValueError(f"reference.{min(others)} is none of a configuration")
            policy = Policy(**{"flops": None, **state["policy"]})  # earlier versions did not count them
            return cls(policy, reference, state["lineage"])

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint that is this; its directory's parent exists."""
        checkpoint.mkdir(exist_ok=True)
        policy = {entry.name: getattr(self.policy, entry.name) for entry in fields(Policy)}
        state = {"policy": policy, "reference": self.reference, "lineage": self.lineage}
        write_atomic(checkpoint / "COMPLETE", json.dumps(state), sync=False)


class Training(ClockedStage):
    """A stage from its beginning; `prepare` computes up to the next validation, which `validate` writes.

    Args:
        noise: multiplies all standard deviations.
        reference: practitioner's values that replace those of the path.

    Attributes:
        points: the validations so far.
        spent: device seconds up to the last of them; `due`: up to the next.
        validated: share of the length that was done there, and the stage's compute.
        failure: how it fails in its first step, at `due`; None where it fits.
    """

    def __init__(self, spec: StageSpec, land: Landscape, noise: float, reference: Mapping[str, Any]) -> None:
        self.spec, self.land, self.noise = spec, land, noise
        self.stage = StageDir(spec.directory)
        self.settings = spec.config["trainer"]
        origin = Origin.of(spec, land)
        self.policy, self.reference = origin.policy, origin.reference
        self.drive = drive_of(spec.hparams, {**origin.reference, **reference})
        self.split = self.settings.get("evaluation_split", "val")
        identity = json.dumps(
            [origin.lineage, spec.seed, self.split, spec.hparams], sort_keys=True, default=str
        )
        self.lineage = hashlib.sha1(identity.encode()).hexdigest()
        self._training, self._validation = Random(self.lineage), Random(f"{self.lineage}/validation")
        self._bias = Random(f"{self.split}/{spec.seed}").gauss(0, 1)
        self._anchor = self.policy.kl if self.drive.to_parent else 0.0
        self._metrics = Metrics(land, self.drive, self._anchor, noise, self._training)
        if self.drive.reset:
            self.policy.moments = 0
        self.points: list[ValidationPoint] = []
        self._validated: dict[int, Origin] = {}  # by step
        self._lines: list[str] = []
        self._step, self._flops = 0, 0.0
        self.validated = (0.0, 0.0)
        self.spent = 0.0
        self.due = land.costs.startup
        self.failure: OutOfMemory | None = (
            out_of_memory(land, self.drive, spec.hparams) if spec.trains else None
        )

    @property
    def complete(self) -> bool:
        """Whether all steps are taken."""
        return self.spec.length.ends(self._step, self._flops)

    def prepare(self) -> None:
        """Take the steps up to the next validation, or that in which the stage fails."""
        validating = validation_seconds(
            self.land.costs, self.land.examples, self.policy.length / self.land.length
        )
        due = not self.spec.trains
        while not due:
            before, number = self._flops, self._step + 1
            length = min(self.policy.length, self.drive.room)
            seconds = step_seconds(self.land.costs, self.drive, length / self.land.length)
            flops = step_flops(self.drive, length * self.drive.unit)
            self._step, self._flops = number, self._flops + flops
            if self.policy.flops is not None:
                self.policy.flops += flops
            every, validations = self.settings["validation_every"], self.settings.get("validations")
            due = self.spec.length.is_due(number, before, self._flops, every, validations)
            due = due or self.failure is not None
            self.due += seconds.total
            done = self.spec.length.share(number - 1, before)
            left = decayed(self.drive.schedule, self.spec.schedule, done)
            seen = advance(
                self.policy,
                self.land,
                self.drive if left == 1 else replace(self.drive, rate=self.drive.rate * left),
                number - 1,
                self._anchor,
                self.noise * self._training.gauss(0, 1),
            )
            after = validating if due else 0.0
            self._lines.append(
                self._metrics.line(number, self.policy, seen, seconds, after, self.due + after, flops, left)
            )
        self.due += 0.0 if self.failure else validating

    def validate(self) -> None:
        """Score the policy; write the validation and the metrics of the steps before it."""
        point = self._score()
        if len(self.points) == 1:  # what an earlier attempt left is overwritten
            self.stage.metrics_file.unlink(missing_ok=True)
            self.stage.validation_file.unlink(missing_ok=True)
        if self._lines:
            append(self.stage.metrics_file, "".join(self._lines))
        append(self.stage.validation_file, json.dumps(vars(point)) + "\n")
        self._lines = []

    def take_up(self) -> None:
        """Compute again up to the last validation that an earlier driver wrote, and write nothing of it."""
        super().take_up()
        self._lines = []

    def _score(self) -> ValidationPoint:
        """Validate the policy."""
        seconds = validation_seconds(
            self.land.costs, self.land.examples, self.policy.length / self.land.length
        )
        score, stderr = self._observed()
        policy = self.policy
        point = ValidationPoint(
            *(self._step, policy.global_step, score, stderr, self.land.examples, round(seconds, 3)),
            policy.flops,
        )
        self.validated = (self.spec.length.share(self._step, self._flops), self._flops)
        self.points.append(point)
        self.spent = round(self.due, 3)
        self._validated[self._step] = Origin(
            replace(self.policy), self.reference, f"{self.lineage}/{self._step}"
        )
        return point

    def _observed(self) -> tuple[float, float]:
        """Return a validation score and its standard error, on the same questions throughout a search."""
        limit = self.settings.get("validation_max_tokens")
        room = limit / self.drive.unit if limit else self.drive.room
        true = self.policy.score(self.land, room)
        stderr = max(LEAST_ERROR, self.noise * math.sqrt(true * (1 - true) / self.land.examples))
        error = self.noise and stderr * (
            SHARED * self._bias + math.sqrt(1 - SHARED**2) * self._validation.gauss(0, 1)
        )
        return round(min(1.0, max(0.0, true + error)), 4), stderr

    def end(self, state: FinalState, began: float) -> StageResult:
        """Write the best and the last checkpoint and the result of a stage that began at `began`."""
        best = best_point(self.points)
        assert best is not None, "a stage validates before it ends"
        steps = {best.step, self.points[-1].step}
        evaluates = self.spec.steps == 0 and self.spec.resume_from is not None
        if not evaluates:
            self.stage.checkpoints.mkdir(parents=True, exist_ok=True)
            for step in steps:
                self._validated[step].save(self.stage.checkpoint(step))
        paths = {step: self.spec.resume_from if evaluates else self.stage.checkpoint(step) for step in steps}
        return self._written(
            StageResult(
                state=state,
                validation=self.points,
                best_step=best.step,
                best_score=best.score,
                checkpoint=paths[best.step],
                last_checkpoint=paths[self.points[-1].step],
                seconds=self.spent,
                gpu_seconds=self.spent,
                ended_at=round(began + self.spent, 3),
                flops=self.validated[1],
            )
        )

    def fail(self, failure: OutOfMemory, began: float) -> StageResult:
        """Write the result of a stage that did not fit; it is charged its start and its first step."""
        spent = round(self.due, 3)
        ended_at = round(began + spent, 3)
        return self._written(
            StageResult(
                *("failed", [], None, None, None, spent, spent, failure.error, None, failure.cause, ended_at),
                flops=0.0,
            )
        )

    def _written(self, result: StageResult) -> StageResult:
        # Whole or not at all, on a full disk too: the stage has ended where there is a result.
        write_atomic(self.stage.result_file, json.dumps(result.to_dict(self.stage.path)), sync=False)
        return result
