"""The GRPO loop of one stage, from experience to checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from transformers import set_seed

from llmzero.core.balance import HALF_RIGHT, balanced
from llmzero.core.decay import decayed
from llmzero.core.files import append_jsonl
from llmzero.core.seeds import seed_of
from llmzero.core.stage import (
    StageDir,
    StageResult,
    StageSpec,
    ValidationPoint,
    best_point,
    remove_checkpoint,
)
from llmzero.grpo import checkpoint
from llmzero.grpo.checkpoint import Position
from llmzero.grpo.data import DataOrder, easiest
from llmzero.grpo.distributed import World
from llmzero.grpo.evaluation import Evaluation, evaluate
from llmzero.grpo.experience import Collector, work_of
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.heartbeat import Heartbeat
from llmzero.grpo.loss import Loss
from llmzero.grpo.phases import Phases
from llmzero.grpo.policy import Policy
from llmzero.grpo.settings import AlgorithmSettings, TrainerSettings
from llmzero.grpo.update import Updater
from llmzero.rollout.base import Engine, Sampling
from llmzero.tasks.base import Task
from llmzero.tasks.splits import Split

STORED_ROLLOUTS = 6  # sampled completions stored at every validation
VALIDATION = 1  # tells the seeds of validation from those of training


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The stage was asked to leave; it has a checkpoint of its latest step, and goes on from there when it is
    run again.
    """


@dataclass
class Setup:
    """What a stage works with."""

    spec: StageSpec
    settings: TrainerSettings
    algorithm: AlgorithmSettings
    loss: Loss
    stage: StageDir
    task: Task
    policy: Policy
    sampler: Engine
    reference: LogprobModel | None
    world: World
    heartbeat: Heartbeat
    phases: Phases
    interrupted: Callable[[], bool]


class Trainer:
    """Trains one stage. Everything it was configured with is in `spec`; everything it leaves behind is in
    `stage`.
    """

    def __init__(self, setup: Setup, position: Position, first_step: int) -> None:
        self.spec, self.stage, self.task, self.world = setup.spec, setup.stage, setup.task, setup.world
        self.policy, self.sampler, self.phases, self.heartbeat = (
            setup.policy,
            setup.sampler,
            setup.phases,
            setup.heartbeat,
        )
        self.interrupted = setup.interrupted
        self.position, self.step = position, first_step
        self.hparams: dict[str, Any] = self.spec.hparams
        self.settings = setup.settings
        self.points = self.stage.validation()
        self.length = self.spec.length
        self._spent_before = checkpoint.gpu_seconds_behind(self.spec.resume_from)
        if self.spec.trains:
            share = self.hparams.get("easiest", 1.0)  # is not in every catalogue
            data = DataOrder(easiest(self.task.split("train"), share), position.data_seed)
            self.collector = Collector(
                self.task,
                self.policy,
                self.sampler,
                self.world,
                self.hparams,
                setup.algorithm,
                data,
                self.phases,
            )
            self.updater = Updater(
                self.policy,
                self.world,
                self.hparams,
                setup.algorithm,
                setup.loss,
                self.settings,
                setup.reference,
            )

    def run(self) -> StageResult:
        """Train until the stage's length is done or a stop is asked for; return the result.

        Raises:
            Interrupted: the process was asked to leave.
        """
        self._seed()  # what stages before have drawn in this process shall not matter
        if not self.spec.trains and not self.points:  # else an attempt before came as far as its checkpoint
            self._validate()
            if self.spec.resume_from is None:
                self._save()
        stopped = False
        while not self._complete() and not stopped:
            before = self.position.stage_flops
            metrics = self.train_step()
            stopped = self.world.from_leader(self.stage.stop_file.exists())
            leaving = self.world.any(self.interrupted()) and not (stopped or self._complete())
            validating = stopped or self._is_due(before)
            if validating:
                self._validate()
            self._log(metrics)
            if validating or leaving:
                self._save()
            if leaving:
                raise Interrupted
        return self._result("completed" if self._complete() else "stopped")

    def _complete(self) -> bool:
        return self.length.ends(self.step, self.position.stage_flops)

    def _share(self) -> float:
        return self.length.share(self.step, self.position.stage_flops)

    def _is_due(self, before: float | None) -> bool:
        """Return whether a validation follows the step before which the stage had cost so much."""
        settings = self.settings
        return self.length.is_due(
            self.step, before, self.position.stage_flops, settings.validation_every, settings.validations
        )

    def train_step(self) -> dict[str, float]:
        """Take one GRPO step: sample, reward, compare, update, hand the weights over."""
        started = time.perf_counter()
        self._seed()
        groups, metrics, position = self.collector.collect(self.position)
        samples = [sample for group in groups for sample in group]
        metrics["step_flops"] += self.updater.flops(work_of(groups))
        self.sampler.release()
        with self.phases("logprobs"):
            self.updater.fill(samples)
        self.collector.set_advantages(groups)
        with self.phases("update"):
            learnt, updates = self.updater.update(
                samples, position.data_seed, position.global_step, self._learning_rate()
            )
        with self.phases("handover"):
            self.sampler.load_weights(self.policy)
        self.step += 1
        self.position = replace(
            position,
            global_step=position.global_step + 1,
            optimizer_steps=position.optimizer_steps + updates,
            tokens=position.tokens + sum(len(s.completion) for s in samples),
        ).after(metrics["step_flops"])
        self.heartbeat.beat(
            phase="training",
            step=self.step,
            steps=self.spec.steps,
            progress=self._share(),
            flops=self.position.stage_flops,
        )
        return metrics | learnt | {"step_seconds": time.perf_counter() - started}

    def _seed(self) -> None:
        """Seed what a task may draw at this step."""
        set_seed(seed_of(self.position.data_seed, self.position.global_step, self.world.rank) % 2**32)

    def _learning_rate(self) -> float:
        """The peak, times a linear warm-up over the path's first steps, or over this stage's where it warms
        up again, times what `lr_schedule` leaves of it.
        """
        steps = self.step if self.hparams["rewarm"] else self.position.global_step
        warm = min(1.0, (steps + 1) / max(1, self.hparams["warmup_steps"]))
        schedule = self.hparams.get("lr_schedule", "constant")  # stages of earlier versions have none
        return float(
            self.hparams["learning_rate"] * warm * decayed(schedule, self.spec.schedule, self._share())
        )

    def _validate(self) -> None:
        self.heartbeat.beat(phase="validation", progress=self._share() if self.spec.trains else 0.0)
        with self.phases("validation"):
            evaluation = self._evaluated(cast("Split", self.settings.evaluation_split))
        point = ValidationPoint(
            self.step,
            self.position.global_step,
            evaluation.score,
            evaluation.stderr,
            evaluation.n,
            evaluation.seconds,
            self.position.flops,
        )
        self.points.append(point)
        if self.world.leads:
            where = {"step": self.step, "global_step": self.position.global_step}
            right = [row["score"] >= HALF_RIGHT for row in evaluation.rows]
            shown = balanced(evaluation.rows, right, STORED_ROLLOUTS)
            rollouts = [{**where, **row} for row in shown]
            append_jsonl(self.stage.rollouts_file, rollouts)
            details: dict[str, Any] = {"pass_at": evaluation.pass_at, "subtasks": evaluation.subtasks}
            record = asdict(point) | {name: value for name, value in details.items() if value}
            append_jsonl(self.stage.validation_file, [record], sync=True)

    def _evaluated(self, split: Split) -> Evaluation:
        """Score the policy on a split."""
        sampling = Sampling(
            self.settings.validation_limit(self.hparams),
            self.settings.validation_temperature,
            self.settings.validation_samples,
            seed_of(self.position.data_seed, self.position.global_step, VALIDATION),
        )
        return evaluate(self.task, self.task.split(split), self.policy, self.sampler, self.world, sampling)

    def _save(self) -> None:
        """Write a checkpoint; of the earlier ones the one with the best validation score alone stays."""
        self.position = replace(
            self.position, gpu_seconds=round(self._spent_before + self.heartbeat.gpu_seconds, 3)
        )
        with self.phases("checkpoint"):
            checkpoint.save(
                self.stage.checkpoint(self.step), self.policy, self.world, self.position, self.spec.to_dict()
            )
            if self.world.leads:
                best = best_point(self.points)
                needed = {
                    self.stage.checkpoint(step) for step in (self.step, best.step if best else self.step)
                }
                for directory in set(self.stage.complete_checkpoints()) - needed:
                    remove_checkpoint(directory)

    def _checkpoint(self, step: int) -> Path:
        if not self.spec.trains and self.spec.resume_from is not None:
            return self.spec.resume_from  # an evaluation leaves no checkpoint of its own
        return self.stage.checkpoint(step)

    def _log(self, metrics: dict[str, float]) -> None:
        """Append the step's metrics. Phases are timed from line to line: a checkpoint counts in the line
        after it.
        """
        record = {
            "step": self.step,
            "global_step": self.position.global_step,
            **metrics,
            **self.phases.take(),
            "tokens": self.position.tokens,
            "flops": self.position.flops,
            "gpu_seconds": self.heartbeat.gpu_seconds,
        }
        if self.world.leads:
            append_jsonl(self.stage.metrics_file, [record])

    def _result(self, state: Any) -> StageResult:
        best = best_point(self.points)
        assert best is not None, "a stage validates before it ends"
        return StageResult(
            state=state,
            validation=self.points,
            best_step=best.step,
            best_score=best.score,
            checkpoint=self._checkpoint(best.step),
            last_checkpoint=self._checkpoint(self.step),
            seconds=self.heartbeat.seconds,
            gpu_seconds=self.heartbeat.gpu_seconds,
            ended_at=time.time(),
            flops=self.position.stage_flops,
        )
