"""What a stage costs under a configuration, before it is made: learnt from the stages that were trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, linear_regression

from llmzero.core.hparams import HParams, Parameter, Value
from llmzero.evidence.diagnosis import late
from llmzero.evidence.evidence import Evidence, StageView

UPDATE_PASSES = 3  # of one epoch: the backward pass costs twice the forward pass


@dataclass(frozen=True)
class Cost:
    """Of a stage: compute in FLOPs, None where unknown, and time in device seconds."""

    flops: float | None
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Cost in proportion to the tokens that pass through the model (`work`), and time that goes with no step.

    Attributes:
        flops, seconds: of a unit of work; None is unknown.
        startup: device seconds of a stage that do not go with its work.
        stages: from how many it was learnt; `steps` is the mean number of steps at the usual length.
        error: mean relative error of the FLOPs of those; None where FLOPs are unknown.
    """

    flops: float | None
    seconds: float
    startup: float
    stages: int
    steps: int
    error: float | None

    def stage(self, hparams: Mapping[str, Value], length: float, steps: int) -> Cost:
        """Return what a stage costs.

        Args:
            hparams: its configuration.
            length: mean length of its completions [tokens].
            steps: that it takes.
        """
        amount = steps * work(hparams, length)
        return Cost(None if self.flops is None else self.flops * amount, self.startup + self.seconds * amount)


def work(hparams: Mapping[str, Value], length: float) -> float:
    """Return the tokens of a step times the passes over each, in forward passes.

    One pass samples, one is the reference's where `kl_coef` is above 0, and three are those of an epoch. What
    a catalogue does not have counts once.
    """
    completions = math.prod(hparams.get(name, 1) for name in ("prompts_per_step", "group_size"))
    passes = 1 + (hparams.get("kl_coef", 0.0) > 0) + UPDATE_PASSES * hparams.get("epochs", 1)
    return float(completions * length * passes)


def learnt(views: Iterable[StageView]) -> CostModel | None:
    """Return what stages that were trained tell of cost; None where none tells its length and time."""
    told = (view for view in views if view.hparams and view.steps and view.length and view.gpu_seconds)
    seen = {view.node_id: view for view in told}
    if not seen:
        return None
    works = {name: view.steps * work(view.hparams, view.length or 0.0) for name, view in seen.items()}
    startup, seconds = _line([(works[name], view.gpu_seconds) for name, view in seen.items()])
    flops = [(works[name], view.flops) for name, view in seen.items() if view.flops]
    rate = sum(cost for _, cost in flops) / sum(amount for amount, _ in flops) if flops else None
    error = fmean(abs(rate * amount / cost - 1) for amount, cost in flops) if rate else None
    steps = round(fmean(view.steps / view.stretch for view in seen.values()))
    return CostModel(rate, seconds, startup, len(seen), steps, error)


def expected_length(evidence: Evidence, hparams: Mapping[str, Value]) -> float | None:
    """Return the mean length of completions under another limit, as the stage's own show; None is unknown.

    Under a lower limit they are no longer than that; under a higher one, those that are cut use all of it.
    """
    length = late(evidence, "completion_length_mean")
    limit = evidence.stage.hparams.get("max_completion_length")
    if not length:
        lengths = [view.length for view in (*evidence.children, *evidence.best_path) if view.length]
        length = fmean(lengths) if lengths else 0.0
    allowed = hparams.get("max_completion_length", math.inf)
    if not length or limit is None or allowed == limit:
        return length or None
    return float(min(length + late(evidence, "truncated_fraction") * max(0, allowed - limit), allowed))


def predicted(evidence: Evidence, hparams: HParams) -> tuple[CostModel, Cost] | None:
    """Return what a stage of the usual length, in steps of `evidence.stage`, would cost under a
    configuration, and the model of cost that says so. None before any stage has told.
    """
    model = learnt((*evidence.path, *evidence.children, *evidence.best_path))
    length = expected_length(evidence, hparams)
    if model is None or length is None:
        return None
    return model, model.stage(hparams, length, usual_steps(evidence, model))


def usual_steps(evidence: Evidence, model: CostModel) -> int:
    """Return the steps of a stage of the usual length, as `evidence.stage` tells; below the base model as
    many as stages had.
    """
    return round(evidence.steps / evidence.stage.stretch) or model.steps


def doubled(parameter: Parameter, value: Value) -> Value | None:
    """Return about twice a hyperparameter's value, or where that is its greatest about half of it; None where
    it is no number, or 0, or has no other value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return None
    others = (parameter.clamp(factor * value) for factor in (2, 0.5))
    return next((other for other in others if other != value), None)


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope of seconds over work, neither of them negative."""
    amounts, seconds = [amount for amount, _ in points], [time for _, time in points]
    through_zero = 0.0, sum(seconds) / sum(amounts)
    if max(amounts) == min(amounts):
        return through_zero
    line = linear_regression(amounts, seconds)
    if line.slope <= 0:
        return through_zero
    return (line.intercept, line.slope) if line.intercept > 0 else through_zero
