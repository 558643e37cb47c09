"""Stages of an analytic model of GRPO behind the runner protocol: whole searches in milliseconds, nothing is trained."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from llmzero.files import read_json, write_json
from llmzero.runners.simulation.clock import Clock
from llmzero.runners.simulation.costs import step_seconds, validation_seconds
from llmzero.runners.simulation.drive import Drive, drive_of
from llmzero.runners.simulation.landscape import LANDSCAPES, Landscape
from llmzero.runners.simulation.memory import out_of_memory
from llmzero.runners.simulation.metrics import line
from llmzero.runners.simulation.policy import Policy, advance, base_policy
from llmzero.stage import StageDir, StageResult, StageSpec, StageStatus, ValidationPoint, best_point

SHARED = 0.7  # of a validation's error that all validations of a search have in common: they ask the same questions
LEAST_ERROR = 1e-4  # of a score, which is rounded


class SimulatedRunner:
    """Runs stages of the analytic model on a clock of its own: side by side they end in the order of their simulated durations.

    What a stage does depends on the checkpoint it resumes from, its hyperparameters and the seed alone, so a path comes out alike
    wherever it stands in a tree and whichever method grew it.

    Args:
        landscape: a key of `LANDSCAPES`.
        instance: which problem of the family; null is the search's seed.
        noise: multiplies the noise of scores, of metrics and of training itself; 0 is none.
        reference: what counts as 1 for learning rate, batch, length and gradient norm; what is not given is the base model's stage's value.
    """

    def __init__(self, landscape: str = "easy", instance: int | None = None, noise: float = 1.0, reference: Mapping[str, Any] | None = None) -> None:
        self.landscape, self.instance, self.noise = landscape, instance, noise
        self.reference = dict(reference or {})
        self.clock = Clock()
        self._problems: dict[int, Landscape] = {}
        self._fresh = True

    def start(self, spec: StageSpec) -> SimulatedHandle:
        """Start a stage from its beginning, now. One without steps has ended at once."""
        if self._fresh:
            self._take_up_time(spec.directory.parent)
        handle = SimulatedHandle(self, spec)
        if spec.steps == 0:
            handle.evaluate()
        else:
            handle.begin()
        return handle

    def attach(self, spec: StageSpec) -> SimulatedHandle | None:
        """Return a handle of a finished stage; an unfinished one has gone with its driver."""
        result = StageDir(spec.directory).result()
        if result is None:
            return None
        self.clock.now = max(self.clock.now, result.ended_at or 0.0)
        return SimulatedHandle(self, spec, result)

    def problem(self, seed: int) -> Landscape:
        """Return the problem of the family that a search of that seed is about."""
        number = self.instance if self.instance is not None else seed
        if number not in self._problems:
            self._problems[number] = LANDSCAPES[self.landscape].instance(number)
        return self._problems[number]

    def _take_up_time(self, nodes: Path) -> None:
        """Begin at the latest end among the stages that an earlier driver left."""
        ends = [(read_json(file) or {}).get("ended_at") for file in nodes.glob("*/result.json")]
        self.clock.now = max([self.clock.now, *(end for end in ends if end is not None)])
        self._fresh = False


@dataclass(frozen=True)
class Origin:
    """What a simulated checkpoint holds: the policy, what its path began with, and a hash of all that went before."""

    policy: Policy
    reference: Mapping[str, Any]
    lineage: str

    @classmethod
    def of(cls, spec: StageSpec, land: Landscape) -> Origin:
        """Return where a stage begins; the base model's own stage says what counts as the practitioner's values."""
        if spec.resume_from is None:
            return cls(base_policy(land), {} if spec.steps else spec.hparams, "base")
        state = read_json(spec.resume_from / "COMPLETE")
        assert state is not None, f"{spec.resume_from} holds no simulated policy"
        return cls(Policy(**state["policy"]), state["reference"], state["lineage"])


class SimulatedHandle:
    """A simulated stage, under way or ended."""

    def __init__(self, runner: SimulatedRunner, spec: StageSpec, result: StageResult | None = None) -> None:
        self._runner, self._spec, self._result = runner, spec, result
        self._stage = StageDir(spec.directory)
        self.moment = self._started = runner.clock.now
        self._points: list[ValidationPoint] = []
        self._stopped = False

    # --- the runner protocol ---

    def poll(self) -> StageStatus:
        """Report; where it is this stage's turn on the clock, go on to its next validation."""
        if self._result is None and self._runner.clock.turn(self):
            self._go_on()
        if self._result is not None:
            r = self._result
            return StageStatus(r.state, r.validation, r.seconds, r.gpu_seconds)
        progress = self._points[-1].step / self._spec.steps if self._points else 0.0
        return StageStatus("running", list(self._points), self._spent, self._spent, "training", progress)

    def stop(self) -> None:
        """End at the validation that was reported last; before the first at that."""
        self._stopped = True
        if self._points:
            self.moment = self._started + self._spent

    def result(self) -> StageResult:
        """Return how the stage ended."""
        assert self._result is not None, "result() is for stages that have ended"
        return self._result
