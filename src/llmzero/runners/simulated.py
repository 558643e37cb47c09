"""Stages of an analytic model of GRPO behind the runner protocol: whole searches in milliseconds, nothing is trained."""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmzero.files import append_jsonl, read_json, write_json
from llmzero.runners.landscapes import LANDSCAPES, Landscape, Policy, Step, completions, fits, policy_from, seconds, step, truncated
from llmzero.stage import StageDir, StageResult, StageSpec, StageStatus, ValidationPoint, best_point

VALIDATION_SECONDS = 1.0  # of a device
SHARED_NOISE = 0.7  # of a validation's error that all validations of a search have in common: they ask the same questions
TOKEN_BYTES = 16_000_000  # of memory, for the error of what does not fit


class SimulatedRunner:
    """Runs stages of the analytic model, on a clock of its own: stages end in the order of their simulated durations.

    What a stage does depends on the checkpoint it resumes from, its hyperparameters and the seed alone, so a path comes out alike
    wherever it stands in a tree and whichever method grew it.

    Args:
        landscape: a key of `LANDSCAPES`.
        instance: which problem of the family; null is the search's seed.
        noise: relative standard deviation of reported training metrics.
    """

    def __init__(self, landscape: str = "easy", instance: int | None = None, noise: float = 0.05) -> None:
        self.landscape = landscape
        self.instance = instance
        self.noise = noise
        self.now = 0.0  # simulated seconds
        self.running: list[SimulatedHandle] = []
        self.asked: SimulatedHandle | None = None  # last

    def start(self, spec: StageSpec) -> SimulatedHandle:
        """Start a stage from its beginning, now."""
        StageDir(spec.directory).truncate_after(0)
        handle = SimulatedHandle(self, spec)
        if spec.steps:  # evaluations are there at once
            self.running.append(handle)
        return handle

    def attach(self, spec: StageSpec) -> SimulatedHandle | None:
        """Return a handle of a finished stage; an unfinished one has gone with its driver."""
        result = StageDir(spec.directory).result()
        if result is None:
            return None
        self.now = max(self.now, result.ended_at or 0.0)
        return SimulatedHandle(self, spec, result)

    def problem(self, seed: int) -> Landscape:
        """Return the instance of the landscape that a search of that seed is about."""
        return LANDSCAPES[self.landscape].instance(self.instance if self.instance is not None else seed)


class SimulatedHandle:
    """A simulated stage, under way or ended."""

    def __init__(self, runner: SimulatedRunner, spec: StageSpec, result: StageResult | None = None) -> None:
        self._runner, self._spec, self._result = runner, spec, result
        self._stage = StageDir(spec.directory)
        self._land = runner.problem(spec.seed)
        self._policy, self._lineage = _resumed(spec.resume_from, self._land)
        hparams = json.dumps(spec.hparams, sort_keys=True, default=str)
        self._lineage = hashlib.sha1(f"{self._lineage}/{spec.seed}/{hparams}".encode()).hexdigest()
        self._rng = random.Random(self._lineage)
        self._started = runner.now
        self._seconds = 0.0
        self._step = 0
        self._stopped = False
        self._points: list[ValidationPoint] = []
        self._rows: list[dict[str, Any]] = []  # of steps up to the next validation
        self._next_step = self._prepared()

    def poll(self) -> StageStatus:
        """Report, and move on to this stage's next validation where nothing else that runs has an earlier one.

        Whoever asks the same stage twice waits for it alone: then the earliest moves on, whichever it is.
        """
        alone, self._runner.asked = self._runner.asked is self, self
        if self._result is None:
            earliest = min(self._runner.running, key=lambda handle: handle.moment) if self._spec.steps else self
            if earliest is self or alone:
                earliest._advance()
        if self._result is not None:
            r = self._result
            return StageStatus(r.state, r.validation, r.seconds, r.gpu_seconds)
        spent = self._points[-1].seconds if self._points else 0.0
        return StageStatus("running", list(self._points), spent, spent, "training", self._step / max(1, self._spec.steps))

    def stop(self) -> None:
        """End at the validation that was reported last; before the first at that."""
        self._stopped = True

    def result(self) -> StageResult:
        """Return how the stage ended."""
        assert self._result is not None, "result() is for stages that have ended"
        return self._result

    @property
    def moment(self) -> float:
        """The simulated time of the next validation; of a stage that is to stop, that of its last."""
        return self._started + (self._points[-1].seconds if self._stopped and self._points else self._seconds)

    def _advance(self) -> None:
        self._runner.now = max(self._runner.now, self.moment)
        if not fits(self._spec.hparams, self._land) and self._spec.steps:
            self._end(self._out_of_memory())
        elif self._stopped and self._points:
            self._end(self._ended("stopped"))
        else:
            self._validate()
            if self._step == self._spec.steps:
                self._end(self._ended("completed"))
            else:
                self._next_step = self._prepared()

    def _end(self, result: StageResult) -> None:
        self._result = result
        if self._spec.steps:
            self._runner.running.remove(self)
        write_json(self._stage.result_file, result.to_dict(), sync=False)

    def _prepared(self) -> int:
        """Take the steps up to the next validation, whose time is then known; return its step."""
        if self._result is not None:
            return self._step
        target: int = min(self._spec.steps, self._step + self._spec.config["trainer"]["validation_every"])
        for number in range(self._step, target):
            self._seconds += seconds(self._policy, self._spec.hparams, self._land)
            taken = step(self._policy, self._spec.hparams, self._land)
            self._policy = taken.policy
            self._rows.append({"step": number + 1, **self._metrics(taken)})
        self._seconds = round(self._seconds + VALIDATION_SECONDS, 3)
        return target

    def _metrics(self, taken: Step) -> dict[str, float]:
        """Return what a trainer would log of a step."""
        policy, hparams, noise = taken.policy, self._spec.hparams, self._runner.noise
        cut = truncated(policy, hparams, self._land)
        score = policy.score(hparams, self._land)
        blur = self._rng.gauss
        excess = max(0.0, taken.size - 0.5)
        return {
            "global_step": policy.global_step,
            "reward_mean": 0.1 + 0.9 * score * (1 + blur(0, noise)),
            "reward_std": math.sqrt(max(0.01, score * (1 - score))),
            "train_score": score * (1 + blur(0, noise)),
            "zero_variance_groups": min(1.0, max(0.0, 1 - taken.informative + blur(0, noise / 2))),
            "completion_length_mean": policy.length / self._land.length * 100 * (1 + blur(0, noise / 3)),
            "truncated_fraction": cut,
            "entropy": policy.entropy * (1 + blur(0, noise / 3)),
            "kl": policy.kl * (1 + abs(blur(0, noise))),
            "clip_fraction_low": min(0.5, 0.004 * excess**2),
            "clip_fraction_high": min(0.5, 0.004 * excess**2),
            "grad_norm": (0.5 + 0.3 * taken.size) * (1 + abs(blur(0, noise))) * (1 + 10 * (policy.damage > 0) * abs(blur(0, 1))),
            "skipped_updates": 0.0,
            "learning_rate": float(hparams.get("learning_rate", self._land.reference["learning_rate"])),
            "tokens": completions(hparams, self._land) * policy.global_step,
            "gpu_seconds": self._seconds,
        }

    def _validate(self) -> None:
        """Write the steps so far, a validation, and a checkpoint."""
        self._step = self._next_step
        append_jsonl(self._stage.metrics_file, self._rows)
        self._rows = []
        score, stderr = self._observed()
        point = ValidationPoint(self._step, self._policy.global_step, score, stderr, self._land.examples, self._seconds)
        self._points.append(point)
        append_jsonl(self._stage.validation_file, [asdict(point)])
        checkpoint = self._stage.checkpoint(self._step)
        checkpoint.mkdir(parents=True, exist_ok=True)
        state = {"policy": asdict(self._policy), "lineage": f"{self._lineage}/{self._step}"}
        (checkpoint / "COMPLETE").write_text(json.dumps(state))

    def _observed(self) -> tuple[float, float]:
        """Return a validation score and its standard error: so many questions, the same ones at every validation of a search."""
        split = self._spec.config["trainer"].get("evaluation_split", "val")
        true = self._policy.score(self._spec.hparams, self._land)
        stderr = math.sqrt(max(true * (1 - true), 1e-4) / self._land.examples)
        shared = random.Random(f"{split}/{self._spec.seed}").gauss(0, 1)
        own = random.Random(f"{split}/{self._lineage}/{self._step}").gauss(0, 1)
        error = stderr * (SHARED_NOISE * shared + math.sqrt(1 - SHARED_NOISE**2) * own)
        return round(min(1.0, max(0.0, true + error)), 4), stderr

    def _ended(self, state: Any) -> StageResult:
        best = best_point(self._points)
        assert best is not None, "a stage validates before it ends"
        spent = self._points[-1].seconds
        return StageResult(
            state=state,
            validation=self._points,
            best_step=best.step,
            best_score=best.score,
            checkpoint=self._stage.checkpoint(best.step),
            last_checkpoint=self._stage.checkpoint(self._step),
            seconds=spent,
            gpu_seconds=spent,
            ended_at=round(self._started + spent, 3),
        )

    def _out_of_memory(self) -> StageResult:
        """Return a failure in the first step's sampling, in the words of a GPU's allocator; its seconds are those of one step."""
        drivers = ("max_completion_length", "group_size", "prompts_per_step")
        values = {name: self._spec.hparams[name] for name in drivers if name in self._spec.hparams}
        asked = round(TOKEN_BYTES * math.prod(float(value) for value in values.values()) / 1000)
        cause = {"kind": "out_of_memory", "phase": "generation", "requested_bytes": asked, "hparams": values}
        spent = round(self._seconds / max(1, self._next_step), 3)
        error = f"OutOfMemoryError: CUDA out of memory. Tried to allocate {asked / 2**30:.2f} GiB"
        return StageResult("failed", [], None, None, None, spent, spent, error, None, cause, round(self._started + spent, 3))


def _resumed(checkpoint: Path | None, land: Landscape) -> tuple[Policy, str]:
    """Return the policy of a checkpoint, or the base model's, and what came before it."""
    if checkpoint is None:
        return Policy(land.start, land.length), "base"
    state = read_json(checkpoint / "COMPLETE")
    assert state is not None, f"{checkpoint} holds no simulated policy"
    return policy_from(state["policy"]), state["lineage"]
