"""The GRPO loop of one stage, from rollouts to checkpoint."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmzero.files import append_jsonl
from llmzero.grpo import checkpoint
from llmzero.grpo.advantages import group_advantages
from llmzero.grpo.batch import Sample, collate, micro_batches
from llmzero.grpo.checkpoint import Position
from llmzero.grpo.data import DataOrder
from llmzero.grpo.evaluation import decode, evaluate, score_completions
from llmzero.grpo.heartbeat import Heartbeat
from llmzero.grpo.loss import grpo_loss, token_logprobs
from llmzero.grpo.policy import apply_update, completion_logits, encode_prompts, load_model
from llmzero.rollout.base import Engine, Rollouts, Sampling
from llmzero.stage import StageDir, StageResult, StageSpec, ValidationPoint, best_point
from llmzero.tasks.base import Reward, Task

ROLLOUTS_KEPT = 6  # sampled completions stored at every validation


class Trainer:
    """Trains one stage. Everything it was configured with is in `spec`; everything it leaves behind is in `stage`."""

    def __init__(
        self,
        *,
        spec: StageSpec,
        stage: StageDir,
        task: Task,
        engine: Any,
        tokenizer: PreTrainedTokenizerBase,
        sampler: Engine,
        position: Position,
        first_step: int,
        heartbeat: Heartbeat,
    ) -> None:
        self.spec, self.stage, self.task = spec, stage, task
        self.engine, self.tokenizer, self.sampler = engine, tokenizer, sampler
        self.position, self.step, self.heartbeat = position, first_step, heartbeat
        self.hparams: dict[str, Any] = spec.hparams
        self.settings: dict[str, Any] = spec.config["trainer"]
        self.model: PreTrainedModel = engine.module
        self.split = self.settings["evaluation_split"]
        self.data = DataOrder(task.split("train"), position.data_seed) if spec.steps else None
        self.shuffle = torch.Generator()
        self.points = stage.validation()
        self.phase_seconds: dict[str, float] = defaultdict(float)
        self.reference = self._load_reference()

    def run(self) -> StageResult:
        """Train until the stage's steps are done or a stop is asked for; return the result."""
        if self.spec.steps == 0:
            self._validate()
            if self.spec.resume_from is None:
                self._save()
        stopped = False
        while self.step < self.spec.steps and not stopped:
            metrics = self._train_step()
            stopped = self.stage.stop_file.exists()
            last = stopped or self.step == self.spec.steps
            validating = last or self.step % self.settings["validation_every"] == 0
            if validating:
                self._validate()
            self._log(metrics)
            if validating:
                self._save()
        return self._result("stopped" if stopped and self.step < self.spec.steps else "completed")

    def _train_step(self) -> dict[str, float]:
        started = time.perf_counter()
        samples, metrics = self._collect()
        with self._phase("logprobs"):
            self._fill_reference(samples)
        with self._phase("update"):
            metrics |= self._update(samples)
        self.sampler.load_weights(self.model)
        self.step += 1
        self.position = replace(
            self.position,
            global_step=self.position.global_step + 1,
            prompts_seen=self.position.prompts_seen + self.hparams["prompts_per_step"],
            tokens=self.position.tokens + sum(len(s.completion) for s in samples),
        )
        self.heartbeat.beat(phase="training", step=self.step, steps=self.spec.steps, progress=self.step / self.spec.steps)
        return metrics | {"step_seconds": time.perf_counter() - started}

    def _collect(self) -> tuple[list[Sample], dict[str, float]]:
        """Sample completions, reward them and turn rewards into advantages."""
        assert self.data is not None
        examples = self.data.take(self.position.prompts_seen, self.hparams["prompts_per_step"])
        size = self.hparams["group_size"]
        sampling = Sampling(self.hparams["max_completion_length"], self.hparams["temperature"], size)
        with self._phase("generation"):
            rollouts = self.sampler.generate(encode_prompts(self.tokenizer, examples), sampling)
        with self._phase("reward"):
            rewards = score_completions(self.task, examples, decode(self.tokenizer, rollouts))
        values = torch.tensor([reward.value for reward in rewards])
        advantages = group_advantages(values, size).tolist()
        samples = [
            Sample(rollouts.prompts[i // size], completion, rollouts.logprobs[i], advantages[i]) for i, completion in enumerate(rollouts.completions)
        ]
        return samples, rollout_metrics(rollouts, rewards, self.task.metric)

    def _update(self, samples: list[Sample]) -> dict[str, float]:
        """Take `epochs` times `minibatches` optimizer steps on one batch of rollouts."""
        sums: dict[str, float] = defaultdict(float)
        norms = []
        self.shuffle.manual_seed(self.position.data_seed * 1_000_003 + self.position.global_step)
        for _ in range(self.hparams["epochs"]):
            order = torch.randperm(len(samples), generator=self.shuffle).tolist()
            size = math.ceil(len(samples) / self.hparams["minibatches"])
            for first in range(0, len(samples), size):
                norms.append(self._optimizer_step([samples[i] for i in order[first : first + size]], sums))
        tokens = sums.pop("tokens")
        means = {name: value / tokens for name, value in sums.items()}
        return means | {"grad_norm": sum(norms) / len(norms), "learning_rate": self._learning_rate()}

    def _optimizer_step(self, samples: list[Sample], sums: dict[str, float]) -> float:
        """Accumulate the gradient of one minibatch, step, and return the gradient norm before clipping."""
        total = sum(len(s.completion) for s in samples)
        chunks = list(micro_batches(samples, self.settings["micro_batch_tokens"]))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        for i, chunk in enumerate(chunks):
            if i > 0:
                self.engine.step()  # between micro-batches it only counts them
            self.engine.set_gradient_accumulation_boundary(i == len(chunks) - 1)
            self._backward(chunk, total, sums)
        norm = apply_update(self.engine)
        sums["tokens"] += total
        self.position = replace(self.position, optimizer_steps=self.position.optimizer_steps + 1)
        return norm

    def _backward(self, samples: list[Sample], total_tokens: int, sums: dict[str, float]) -> None:
        hp = self.hparams
        batch = collate(samples, self._pad_id, self.model.device)
        logits = completion_logits(self.engine, batch.ids, batch.attention, batch.tokens.shape[1])
        logprobs, entropy = token_logprobs(logits, batch.tokens, hp["temperature"])
        terms = grpo_loss(
            logprobs=logprobs,
            entropy=entropy,
            old=batch.old,
            reference=batch.reference,
            advantages=batch.advantages,
            mask=batch.mask,
            total_tokens=total_tokens,
            clip_low=hp["clip_low"],
            clip_high=hp["clip_high"],
            kl_coef=hp["kl_coef"],
            entropy_coef=hp["entropy_coef"],
        )
        self.engine.backward(terms.loss)
        for name, value in terms.sums.items():
            sums[name] += float(value)

    def _load_reference(self) -> PreTrainedModel | None:
        """The divergence is measured even where its coefficient is small; a coefficient of 0 loads no reference."""
        if self.hparams["kl_coef"] == 0 or self.spec.steps == 0:
            return None
        return load_model(self.position.reference, self.settings["dtype"]).eval()

    @torch.no_grad()
    def _fill_reference(self, samples: list[Sample]) -> None:
        if self.reference is None:
            return
        for chunk in micro_batches(samples, self.settings["micro_batch_tokens"]):
            batch = collate(chunk, self._pad_id, self.model.device)
            logits = completion_logits(self.reference, batch.ids, batch.attention, batch.tokens.shape[1])
            logprobs, _ = token_logprobs(logits, batch.tokens, self.hparams["temperature"])
            for sample, row in zip(chunk, logprobs.tolist(), strict=True):
                sample.reference = row[: len(sample.completion)]

    def _learning_rate(self) -> float:
        """Linear warm-up over the path's first steps, then constant; a resumed stage does not warm up again."""
        warm = min(1.0, (self.position.global_step + 1) / max(1, self.hparams["warmup_steps"]))
        return float(self.hparams["learning_rate"] * warm)

    @property
    def _pad_id(self) -> int:
        pad: int = self.tokenizer.pad_token_id
        return pad

    def _validate(self) -> None:
        self.heartbeat.beat(phase="validation", progress=self.step / max(1, self.spec.steps))
        with self._phase("validation"):
            found = evaluate(self.task, self.task.split(self.split), self.tokenizer, self.sampler, self.hparams["max_completion_length"])
        rows = found.pop("rows")
        point = ValidationPoint(step=self.step, global_step=self.position.global_step, **found)
        self.points.append(point)
        where = {"step": self.step, "global_step": self.position.global_step}
        append_jsonl(self.stage.rollouts_file, [{**where, **row} for row in rows[:ROLLOUTS_KEPT]])
        append_jsonl(self.stage.validation_file, [asdict(point)], sync=True)

    def _save(self) -> None:
        with self._phase("checkpoint"):
            checkpoint.save(self.stage.checkpoint(self.step), self.engine, self.tokenizer, self.sampler, self.position, self.spec.to_dict())
            self._drop_old()

    def _drop_old(self) -> None:
        """Keep the checkpoint with the best validation score and the latest one."""
        kept = {self._checkpoint(self.best.step), self._checkpoint(self.step)}
        checkpoint.remove_all(set(self.stage.complete_checkpoints()) - kept)

    @property
    def best(self) -> ValidationPoint:
        """The first validation point with the highest score."""
        best = best_point(self.points)
        assert best is not None, "a stage validates before it asks for its best"
        return best

    def _checkpoint(self, step: int) -> Path:
        if self.spec.steps == 0 and self.spec.resume_from is not None:
            return self.spec.resume_from  # an evaluation leaves no checkpoint of its own
        return self.stage.checkpoint(step)

    def _log(self, metrics: dict[str, float]) -> None:
        """Append the step's metrics. Phases are timed from line to line: a checkpoint counts in the line after it."""
        phases = ("generation", "reward", "logprobs", "update", "validation", "checkpoint")
        record = {
            "step": self.step,
            "global_step": self.position.global_step,
            **metrics,
            **{f"seconds_{phase}": self.phase_seconds[phase] for phase in phases},
            "tokens": self.position.tokens,
            "gpu_seconds": self.heartbeat.gpu_seconds,
        }
        append_jsonl(self.stage.metrics_file, [record])
        self.phase_seconds.clear()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.phase_seconds[name] += time.perf_counter() - started

    def _result(self, state: Any) -> StageResult:
        return StageResult(
            state=state,
            validation=self.points,
            best_step=self.best.step,
            best_score=self.best.score,
            checkpoint=self._checkpoint(self.best.step),
            last_checkpoint=self._checkpoint(self.step),
            seconds=self.heartbeat.seconds,
            gpu_seconds=self.heartbeat.gpu_seconds,
        )


def rollout_metrics(rollouts: Rollouts, rewards: list[Reward], metric: str) -> dict[str, float]:
    """Return the metrics of a batch of rollouts: rewards, their variance within groups, lengths and truncation."""
    values = torch.tensor([reward.value for reward in rewards])
    spread = values.view(-1, rollouts.n).std(1, correction=0)
    lengths = torch.tensor([len(c) for c in rollouts.completions], dtype=torch.float)
    cut = torch.tensor([reason == "length" for reason in rollouts.finish_reasons], dtype=torch.float)
    parts = {f"reward_{name}": sum(r.parts[name] for r in rewards) / len(rewards) for name in rewards[0].parts}
    return {
        "reward_mean": float(values.mean()),
        "reward_std": float(values.std(correction=0)),
        "train_score": sum(r.parts[metric] for r in rewards) / len(rewards),
        "zero_variance_groups": float((spread < 1e-6).float().mean()),
        "completion_length_mean": float(lengths.mean()),
        "completion_length_max": float(lengths.max()),
        "truncated_fraction": float(cut.mean()),
        **parts,
    }
