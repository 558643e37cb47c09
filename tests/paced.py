"""A runner whose stages take real time and compute nothing: for what happens while a model thinks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from llmzero.core.files import append_jsonl, read_json, write_json
from llmzero.core.settings import setting
from llmzero.core.stage import StageDir, StageResult, StageSpec, StageStatus, ValidationPoint
from llmzero.runners.base import StageRunner
from llmzero.runners.simulated import SimulatedRunnerSettings

GAIN = 0.01  # of a step in the first half of a good stage; nothing follows


@dataclass
class PacedRunnerSettings(SimulatedRunnerSettings):
    """`runner=simulated runner._target_=tests.paced.PacedRunner`; a landscape it has none."""

    step_s: float = setting(0.05, "seconds of a step", low=0)
    every: int = setting(4, "steps between validations", low=1)
    hopeless: str = setting("", "the last digits of the stages that lose, e.g. 37")
    late: str = setting("", "the last digits of the stages that gain most in their last step")


class PacedRunner(StageRunner):
    """Stages go on by the clock on the wall, as processes of their own would, also while no driver runs."""

    trains = False

    def __init__(self, settings: PacedRunnerSettings) -> None:
        self.settings = settings

    def start(self, spec: StageSpec) -> PacedHandle:
        """Start a stage, now."""
        write_json(spec.directory / "clock.json", {"began": time.time()})
        return PacedHandle(self.settings, spec, time.time())

    def attach(self, spec: StageSpec) -> PacedHandle | None:
        """Return a handle of a stage that was started."""
        clock = read_json(spec.directory / "clock.json")
        return PacedHandle(self.settings, spec, clock["began"]) if clock else None


@dataclass
class PacedHandle:
    """A stage under way, or ended."""

    settings: PacedRunnerSettings
    spec: StageSpec
    began: float
    validation: list[ValidationPoint] = field(default_factory=list)
    ended: StageResult | None = None

    def __post_init__(self) -> None:
        self.stage = StageDir(self.spec.directory)
        self.ended = self.stage.result()
        self.validation = self.stage.validation()

    def poll(self) -> StageStatus:
        """Validate what is due, and end where it is time."""
        if self.ended is None:
            self._go_on(time.time() - self.began)
        if self.ended is not None:
            return StageStatus(
                self.ended.state, self.ended.validation, self.ended.seconds, self.ended.seconds
            )
        spent = time.time() - self.began
        return StageStatus("running", list(self.validation), spent, spent, "training", 0.5)

    def stop(self) -> None:
        """End after the step in hand."""
        self.stage.request_stop()

    def result(self) -> StageResult:
        """Return how it ended."""
        assert self.ended is not None
        return self.ended

    def _go_on(self, spent: float) -> None:
        steps = min(self.spec.steps, math.floor(spent / self.settings.step_s)) if self.spec.steps else 0
        every = self.settings.every
        due = list(range(every, steps + 1, every)) or ([0] if not self.spec.steps else [])
        for step in due[len(self.validation) :]:
            self._validate(step)
        stopped = self.stage.stop_file.exists() and bool(self.validation)
        if steps == self.spec.steps or stopped:
            self._end("completed" if steps == self.spec.steps else "stopped", spent)

    def _validate(self, step: int) -> None:
        start = self._score(self.spec.resume_from)
        digit, last = self.spec.node_id[-1], step == self.spec.steps and step > 0
        gain = GAIN * min(step, self.spec.steps // 2) + (0.1 if last and digit in self.settings.late else 0.0)
        score = start - 0.05 if digit in self.settings.hopeless else start + gain
        point = ValidationPoint(step, self.spec.depth * self.spec.steps + step, score, 0.001, 100, 0.0)
        row = {"step": step, "reward_mean": score, "entropy": 1.0, "kl": 0.001, "grad_norm": 0.5}
        append_jsonl(self.stage.metrics_file, [row])
        checkpoint = self.stage.checkpoint(step)
        checkpoint.mkdir(parents=True, exist_ok=True)
        write_json(checkpoint / "score.json", {"score": score})
        (checkpoint / "COMPLETE").touch()
        append_jsonl(self.stage.validation_file, [vars(point)])  # the last: a kill leaves no score without it
        self.validation.append(point)

    def _score(self, checkpoint: Path | None) -> float:
        return float((read_json(checkpoint / "score.json") or {})["score"]) if checkpoint else 0.2

    def _end(self, state: str, spent: float) -> None:
        best = max(self.validation, key=lambda point: (point.score, -point.step))
        now = round(time.time(), 3)
        self.ended = StageResult(
            state=state,  # type: ignore[arg-type]
            validation=self.validation,
            best_step=best.step,
            best_score=best.score,
            checkpoint=self.stage.checkpoint(best.step),
            seconds=round(spent, 3),
            gpu_seconds=round(spent, 3),
            last_checkpoint=self.stage.checkpoint(self.validation[-1].step),
            ended_at=now,
        )
        self.stage.write_result(self.ended)
