"""An analytic model of GRPO dynamics behind the runner protocol: whole searches in milliseconds, nothing is trained.

The model is qualitative. A policy has a skill (its true score), an entropy and a divergence. A step moves the skill towards
a ceiling that grows with capacity (completions a step), at a rate that peaks where the learning rate suits the batch: smaller
steps are slow, larger ones lose skill and entropy. Without entropy nothing more is learnt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmzero.files import append_jsonl, read_json, write_json
from llmzero.hparams import HParams
from llmzero.stage import StageDir, StageResult, StageSpec, StageStatus, ValidationPoint, best_point

VALIDATION_EXAMPLES = 500
PRACTITIONER_RATE = 1e-6  # the learning rate that counts as 1
# Reference values at which the model is calibrated, for catalogues that lack a parameter.
TYPICAL = {"group_size": 8.0, "prompts_per_step": 64.0, "kl_coef": 0.001, "entropy_coef": 0.0, "temperature": 1.0}


@dataclass(frozen=True)
class Landscape:
    """Shape of a problem: the skill at the start, what the learning rate should be early and late (in multiples of the
    practitioner's), how much capacity lifts the ceiling, and how much skill an oversized step costs.
    """

    start: float = 0.25
    early_rate: float = 3.0
    late_rate: float = 1.0
    capacity_lift: float = 0.08
    fragility: float = 0.02
    delay: float = 0.0


LANDSCAPES = {
    "easy": Landscape(),
    "deceptive": Landscape(early_rate=0.5, late_rate=1.0, delay=0.12),
    "collapse": Landscape(early_rate=1.5, late_rate=0.5, fragility=0.1),
}


@dataclass(frozen=True)
class Policy:
    """The simulated policy: its skill, its entropy in nats, its divergence in nats, and where it stands on its path."""

    skill: float
    entropy: float = 0.6
    kl: float = 0.0
    practice: float = 0.0
    global_step: int = 0


class SimulatedRunner:
    """Runs stages of the analytic model.

    Args:
        landscape: a key of `LANDSCAPES`.
        noise: standard deviation of reported training metrics.
        step_seconds: simulated device seconds of a step at the typical batch; 0 means one second.
    """

    def __init__(self, landscape: str = "easy", noise: float = 0.01, step_seconds: float = 0.0) -> None:
        self.landscape = LANDSCAPES[landscape]
        self.noise = noise
        self.step_seconds = step_seconds or 1.0

    def start(self, spec: StageSpec) -> SimulatedHandle:
        """Start a stage from its beginning; every poll moves it on by one validation."""
        StageDir(spec.directory).truncate_after(0)
        return SimulatedHandle(spec, self.landscape, self.noise, self.step_seconds)

    def attach(self, spec: StageSpec) -> SimulatedHandle | None:
        """Return a handle of a finished stage; an unfinished one has gone with its driver."""
        ended = StageDir(spec.directory).result_file.exists()
        return SimulatedHandle(spec, self.landscape, self.noise, self.step_seconds) if ended else None


class SimulatedHandle:
    """A simulated stage under way."""

    def __init__(self, spec: StageSpec, landscape: Landscape, noise: float, step_seconds: float) -> None:
        self._spec = spec
        self._stage = StageDir(spec.directory)
        self._landscape, self._noise = landscape, noise
        self._cost = step_seconds * _batch(spec.hparams) / (TYPICAL["group_size"] * TYPICAL["prompts_per_step"])
        self._policy = _load(spec.resume_from) if spec.resume_from else Policy(landscape.start)
        self._rng = random.Random(f"{spec.seed}/{spec.node_id}")
        self._step = 0
        self._stopped = False
        self._points: list[ValidationPoint] = []
        self._result = self._stage.result()

    def poll(self) -> StageStatus:
        """Move on to the next validation and report."""
        if self._result is None:
            self._advance()
        if self._result is not None:
            r = self._result
            return StageStatus(r.state, r.validation, r.seconds, r.gpu_seconds)
        seconds = self._seconds
        return StageStatus("running", list(self._points), seconds, seconds, "training", self._step / max(1, self._spec.steps))

    def stop(self) -> None:
        """End at the validation that was reported last."""
        self._stopped = True

    def result(self) -> StageResult:
        """Return how the stage ended."""
        assert self._result is not None, "result() is for stages that have ended"
        return self._result

    @property
    def _seconds(self) -> float:
        return round(self._step * self._cost, 3)

    def _advance(self) -> None:
        target = min(self._spec.steps, self._step + self._spec.config["trainer"]["validation_every"])
        if not self._stopped:
            append_jsonl(self._stage.metrics_file, [self._train_step() for _ in range(self._step, target)])
            self._validate()
        if self._stopped or self._step == self._spec.steps:
            self._finish()

    def _train_step(self) -> dict[str, Any]:
        before = self._policy
        self._policy = step(before, self._spec.hparams, self._landscape)
        self._step += 1
        observed = self._policy.skill + self._rng.gauss(0, self._noise)
        return {
            "step": self._step,
            "global_step": self._policy.global_step,
            "reward_mean": 0.1 + 0.9 * observed,
            "entropy": self._policy.entropy,
            "kl": self._policy.kl,
            "clip_fraction_low": 0.0,
            "clip_fraction_high": 0.0,
            "truncated_fraction": 0.0,
            "zero_variance_groups": max(0.0, 1 - 2 * self._policy.entropy),
            "grad_norm": abs(self._rng.gauss(1.0, 0.1)),
            "gpu_seconds": self._seconds,
        }

    def _validate(self) -> None:
        p = min(max(self._policy.skill, 0.0), 1.0)
        stderr = math.sqrt(max(p * (1 - p), 1e-4) / VALIDATION_EXAMPLES)
        score = min(max(self._rng.gauss(p, stderr), 0.0), 1.0)
        point = ValidationPoint(self._step, self._policy.global_step, round(score, 4), stderr, VALIDATION_EXAMPLES, 0.0)
        self._points.append(point)
        append_jsonl(self._stage.validation_file, [asdict(point)])
        directory = self._stage.checkpoint(self._step)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "policy.json", asdict(self._policy))
        (directory / "COMPLETE").touch()

    def _finish(self) -> None:
        best = best_point(self._points)
        assert best is not None
        self._result = StageResult(
            state="stopped" if self._step < self._spec.steps else "completed",
            validation=self._points,
            best_step=best.step,
            best_score=best.score,
            checkpoint=self._stage.checkpoint(best.step),
            last_checkpoint=self._stage.checkpoint(self._step),
            seconds=self._seconds,
            gpu_seconds=self._seconds,
        )
        self._stage.write_result(self._result)


def step(policy: Policy, hparams: HParams, land: Landscape) -> Policy:
    """Return the policy after one GRPO step."""
    rate = _value(hparams, "learning_rate", PRACTITIONER_RATE) / PRACTITIONER_RATE
    capacity = math.log2(_batch(hparams) / 128 + 1)
    ceiling = min(0.95, 0.45 + land.capacity_lift * capacity)
    progress = min(1.0, max(0.0, (policy.skill - land.start) / 0.3))
    wanted = (land.early_rate * (1 - progress) + land.late_rate * progress) * (1 + 0.3 * capacity)
    fit = math.exp(-(math.log(rate / wanted) ** 2) / 2)
    excess = max(0.0, math.log(rate / (2 * wanted)))
    held = 1 / (1 + 20 * _value(hparams, "kl_coef", TYPICAL["kl_coef"]))
    alive = min(1.0, policy.entropy / 0.15)
    asleep = 0.1 if policy.practice < land.delay else 1.0
    gain = 0.03 * fit * held * alive * asleep * (ceiling - policy.skill)
    loss = land.fragility * excess * policy.skill
    warmth = _value(hparams, "entropy_coef", 0.0) * 0.3 + max(0.0, _value(hparams, "temperature", 1.0) - 1) * 0.01
    return replace(
        policy,
        skill=policy.skill + gain - loss,
        entropy=max(0.01, policy.entropy * (1 - 0.004 * rate) + warmth * 0.05),
        kl=policy.kl + 0.0005 * rate**2 * held,
        practice=policy.practice + 0.002 * fit,
        global_step=policy.global_step + 1,
    )


def _batch(hparams: Mapping[str, Any]) -> float:
    """Return completions a step."""
    return _value(hparams, "group_size", TYPICAL["group_size"]) * _value(hparams, "prompts_per_step", TYPICAL["prompts_per_step"])


def _value(hparams: Mapping[str, Any], name: str, default: float) -> float:
    return float(hparams.get(name, default))


def _load(checkpoint: Path) -> Policy:
    state = read_json(checkpoint / "policy.json")
    assert state is not None, f"{checkpoint} holds no simulated policy"
    return Policy(**state)
