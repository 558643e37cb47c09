"""Updates of the policy on one batch of experience."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmzero.core.compute import Work
from llmzero.core.seeds import seed_of
from llmzero.grpo.batch import MicroBatch, Sample, by_prompt, collate, shared_out
from llmzero.grpo.distributed import World
from llmzero.grpo.failures import NotFiniteError
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import (
    Loss,
    LossSettings,
    Totals,
    grpo_loss,
    mismatch_metrics,
    sampler_correction,
)
from llmzero.grpo.packing import Pack
from llmzero.grpo.policy import Policy, apply_update
from llmzero.grpo.settings import AlgorithmSettings, TrainerSettings

Forward = Callable[[Pack, float], tuple[Tensor, Tensor]]


@dataclass
class Updater:
    """Takes optimizer steps on experience; what each of them does depends on the minibatch alone, not on how
    it is cut.
    """

    policy: Policy
    world: World
    hparams: dict[str, Any]
    algorithm: AlgorithmSettings
    loss: Loss
    settings: TrainerSettings
    reference: LogprobModel | None
    skipped_in_a_row: int = 0
    _log_ratios: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        hp = self.hparams
        in_loss = hp["kl_coef"] if self.algorithm.kl_in == "loss" else 0.0
        self.loss_settings = LossSettings(
            loss=self.loss,
            clip_low=hp["clip_low"],
            clip_high=hp["clip_high"],
            dual_clip=self.algorithm.dual_clip,
            kl_coef=in_loss,
            kl_estimator=self.algorithm.kl_estimator,
            entropy_coef=hp["entropy_coef"],
        )
        self.updates = hp["epochs"] * hp["minibatches"]

    # --- log-probs before the update ---

    def fill(self, samples: Sequence[Sample]) -> None:
        """Compute what the loss compares with: the reference's log-probs, and the trainer's own where the
        sampler's are corrected.
        """
        if self.hparams["kl_coef"] > 0:
            with self._as_reference() as forward:
                self._score(samples, forward, "reference")
        if self._needs_old:
            self._score(samples, self.policy.engine, "old")

    @property
    def _needs_old(self) -> bool:
        return self.algorithm.correction != "none" and self.updates > 1

    def flops(self, work: Work) -> float:
        """Return the cost of what `fill` and `update` compute on samples."""
        arithmetic = self.policy.arithmetic
        of_reference = arithmetic.forward(work, adapter=self.reference is not None)
        return float(
            self.hparams["epochs"] * arithmetic.update(work)
            + (of_reference if self.hparams["kl_coef"] > 0 else 0)
            + (arithmetic.forward(work) if self._needs_old else 0)
        )

    @contextmanager
    def _as_reference(self) -> Iterator[Forward]:
        """Give the reference policy's forward pass: that of a model of its own, or ours without its
        adapter.
        """
        if self.reference is not None:
            yield self.reference
        else:
            with self.policy.model.disable_adapter():
                yield self.policy.engine

    @torch.no_grad()
    def _score(self, samples: Sequence[Sample], forward: Forward, name: str) -> None:
        """Set the attribute `name` of every sample to its completion's log-probs; each process computes a
        share.
        """
        index = {id(sample): i for i, sample in enumerate(samples)}
        scores: dict[int, list[float]] = {}
        for chunk, _ in shared_out(
            samples, self.settings.micro_batch_tokens, self.world.rank, self.world.size
        ):
            batch = collate(chunk, self.policy.device)
            logprobs, _ = forward(batch.pack, self.hparams["temperature"])
            for sample, row in zip(chunk, logprobs.tolist(), strict=True):
                scores[index[id(sample)]] = row[: len(sample.completion)]
        for share in self.world.gather(scores):
            for i, row in share.items():
                setattr(samples[i], name, row)

    # --- the update ---

    def update(
        self, samples: Sequence[Sample], data_seed: int, global_step: int, learning_rate: float
    ) -> tuple[dict[str, float], int]:
        """Take `epochs` times `minibatches` optimizer steps; return metrics and how many steps were taken.

        Raises:
            NotFiniteError: gradients were infinite or not numbers too many times in a row.
        """
        sums: dict[str, float] = defaultdict(float)
        norms: list[float] = []
        shuffle = torch.Generator().manual_seed(seed_of(data_seed, global_step))
        groups = by_prompt(samples)
        size = math.ceil(len(groups) / self.hparams["minibatches"])
        tokens_per_update = sum(s.tokens for s in samples) / math.ceil(len(groups) / size)
        self._log_ratios.clear()
        for group in self.policy.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        planned = 0
        for _ in range(self.hparams["epochs"]):
            order = torch.randperm(len(groups), generator=shuffle).tolist()
            for first in range(0, len(groups), size):
                minibatch = [sample for i in order[first : first + size] for sample in groups[i]]
                planned += 1
                norm = self._optimizer_step(minibatch, tokens_per_update, sums, first_of_batch=planned == 1)
                norms += [] if norm is None else [norm]
        tokens = max(1.0, sums.pop("tokens", 0.0))
        loss = sums.pop("loss", 0.0) / max(1, len(norms))
        metrics = {name: value / tokens for name, value in sums.items()} | {
            "loss": loss,
            "learning_rate": learning_rate,
        }
        metrics |= {
            "grad_norm": sum(norms) / max(1, len(norms)),
            "skipped_updates": float(planned - len(norms)),
        }
        return metrics | self._mismatch(), len(norms)

    def _optimizer_step(
        self, samples: list[Sample], tokens_per_update: float, sums: dict[str, float], first_of_batch: bool
    ) -> float | None:
        """Accumulate the gradient of one minibatch, step, and return the gradient norm before clipping; None:
        it was not finite.
        """
        engine = self.policy.engine
        totals = Totals(
            sequences=sum(s.counts for s in samples),
            tokens=sum(s.tokens for s in samples),
            tokens_per_update=tokens_per_update,
            max_length=self.hparams["max_completion_length"],
        )
        chunks = shared_out(samples, self.settings.micro_batch_tokens, self.world.rank, self.world.size)
        own: dict[str, float] = defaultdict(float)
        for i, (chunk, counts) in enumerate(chunks):
            if i > 0:
                engine.step()  # between micro-batches it only counts them
            engine.set_gradient_accumulation_boundary(i == len(chunks) - 1)
            self._backward(collate(chunk, self.policy.device, counts), totals, own, first_of_batch)
        norm = apply_update(engine)
        if norm is None:
            self.skipped_in_a_row += 1
            allowed = self.settings.max_skipped_updates
            if self.skipped_in_a_row > allowed:
                updates = f"{self.skipped_in_a_row} updates in a row (trainer.max_skipped_updates={allowed})"
                raise NotFiniteError(f"gradients were infinite or not a number in {updates}")
            return None
        self.skipped_in_a_row = 0
        for share in self.world.gather(dict(own)):
            for name, value in share.items():
                sums[name] += value
        sums["tokens"] += totals.tokens
        return norm

    def _backward(
        self, batch: MicroBatch, totals: Totals, sums: dict[str, float], first_of_batch: bool
    ) -> None:
        logprobs, entropy = self.policy.engine(batch.pack, self.hparams["temperature"])
        log_ratio = logprobs.detach() - batch.sampled
        correction, old = None, batch.old
        if self.algorithm.correction != "none":
            old = logprobs.detach() if self.updates == 1 else batch.old
            kind, level = self.algorithm.correction, self.algorithm.correction_level
            bounds = (self.algorithm.correction_low, self.algorithm.correction_high)
            correction = sampler_correction(old - batch.sampled, batch.counted, kind, level, *bounds)
        terms = grpo_loss(
            logprobs=logprobs,
            entropy=entropy,
            old=old,
            reference=batch.reference,
            correction=correction,
            advantages=batch.advantages,
            mask=batch.counted,
            weights=self.loss.token_weights(batch.counted, totals),
            settings=self.loss_settings,
        )
        self.policy.engine.backward(terms.loss * self.world.size)  # DeepSpeed averages over processes
        for name, value in terms.sums.items():
            sums[name] += float(value)
        if first_of_batch:
            self._log_ratios.append(log_ratio[batch.counted.bool()].cpu())

    def _mismatch(self) -> dict[str, float]:
        """Sampler against trainer, on the first minibatch, where both have the same weights."""
        log_ratios = torch.cat([ratio for share in self.world.gather(self._log_ratios) for ratio in share])
        return mismatch_metrics(log_ratios, self.algorithm.correction_low, self.algorithm.correction_high)
