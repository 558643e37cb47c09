"""Continuous batching in plain PyTorch, with the trainer's own model: for CPUs and small models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llmzero.rollout.base import FinishReason, Rollouts, Sampling, Weights, prompt_seeds
from llmzero.rollout.decoder import Decoder, is_known
from llmzero.rollout.settings import TorchEngineSettings
from llmzero.rollout.slots import ATTENTION, NATIVE, SlotCache, Storage, attention_of
from llmzero.rollout.wide import in_float32

REFILL_AT = 0.25  # share of the slots that are free when waiting prompts are taken in
NEAR_ONE = 1.0 - 1e-6  # a uniform number below it, times a sum, is below that sum in float32 too
TOLERANCE = 1e-2  # of log-probs, at the check against the model's own forward pass


class TorchEngine:
    """Samples with the very model that is trained, or with a copy of it where that one is partitioned or has
    an adapter.

    Prompts run once for all their completions. A finished row leaves the batch at once, and waiting prompts
    take its slot.
    """

    def __init__(self, settings: TorchEngineSettings) -> None:
        self.settings = settings
        self._model: PreTrainedModel
        self._copy: PreTrainedModel | None = None
        self._eos_ids: Tensor
        self._storage: Storage = {}

    def start(self, weights: Weights) -> None:
        """Attach to the policy.

        Raises:
            ValueError: the model's attention does more than we do, so that its log-probs differ from its own
                forward pass.
        """
        self._eos_ids = torch.tensor(weights.eos_ids)
        self.load_weights(weights)
        self._check()

    def load_weights(self, weights: Weights) -> None:
        """Load the policy's weights: nothing is to be done where the engine samples with the model that is
        trained.
        """
        if not weights.partitioned and not hasattr(weights.model, "peft_config"):
            self._model = weights.model
            return
        if self._copy is None:
            config = AutoConfig.from_pretrained(weights.directory, trust_remote_code=False)
            self._copy = AutoModelForCausalLM.from_config(
                config, dtype=weights.model.dtype, trust_remote_code=False
            ).to(weights.model.device)
        self._model = self._copy
        parameters = dict(self._copy.named_parameters())
        with torch.no_grad():
            for name, tensor in weights.tensors():
                parameters[name].copy_(tensor)

    def release(self) -> None:
        """Do nothing: a GPU's cache lives no longer than `generate`, a CPU's is kept for the next call."""

    def close(self) -> None:
        """Release the copy and the memory of the cache."""
        self._copy = None
        self._storage.clear()

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        """Return `sampling.n` completions for each prompt; at most `max_rows` rows, or those of one prompt,
        run at a time.

        Token t of completion i of a prompt takes the same random number whatever else is in the batch.
        """
        rollouts = Rollouts([list(prompt) for prompt in prompts], [], [], [], sampling.n)
        if prompts:
            batch = _Batch(
                self._model, rollouts.prompts, sampling, self.settings.max_rows, self._eos_ids, self._storage
            )
            with self._sampling():
                batch.run(rollouts)
            if self._model.device.type != "cpu" or not batch.logprobs.isfinite().all():
                self._storage.clear()
        return rollouts

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Switch the model to evaluation and to attention over slots, and back."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode(), attention_of(self._model, ATTENTION):
                yield
        finally:
            self._model.train(was_training)

    def _check(self) -> None:
        """Compare log-probs with those of the model's own forward pass, both in float32."""
        prompt = [1, 2, 3]
        with in_float32(self._model):
            rollouts = self.generate([prompt, prompt[:1]], Sampling(max_tokens=6, n=4))
        longest = max(range(4), key=lambda i: len(rollouts.completions[i]))
        completion = rollouts.completions[longest]
        with torch.no_grad(), attention_of(self._model, NATIVE), in_float32(self._model):
            ids = torch.tensor([prompt + completion], device=self._model.device)
            logits = self._model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
        if not torch.allclose(torch.tensor(rollouts.logprobs[longest]), expected, atol=TOLERANCE):
            raise ValueError(
                f"rollout=torch cannot sample from {type(self._model).__name__}: its attention has "
                "parts of its own; use rollout=vllm"
            )


@dataclass
class _Rows:
    """What is known of each running row, one entry a slot: the completion it is, its tokens so far, the next
    token's logits (B, V).
    """

    completion: Tensor
    step: Tensor
    logits: Tensor

    def keep(self, order: Tensor) -> None:
        self.completion, self.step, self.logits = self.completion[order], self.step[order], self.logits[order]


class _Batch:
    """One call of `generate`: prompts wait, shortest first; rows run in the first slots of a cache without
    gaps.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        sampling: Sampling,
        max_rows: int,
        eos_ids: Tensor,
        storage: Storage,
    ) -> None:
        self.model, self.prompts, self.sampling = model, prompts, sampling
        self.device = model.device
        self.eos_ids = eos_ids.to(self.device)
        rows = len(prompts) * sampling.n
        self.waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
        slots = max(sampling.n, min(max_rows, rows))
        self.cache = SlotCache(slots, max(map(len, prompts)) + sampling.max_tokens, storage)
        self.decoder = Decoder(model, self.cache.columns) if is_known(model) else None
        self.uniform = (
            torch.cat(list(map(self._uniform, prompt_seeds(sampling, prompts))))
            .clamp_(max=NEAR_ONE)
            .to(self.device)
        )
        self.tokens = torch.zeros(rows, sampling.max_tokens, dtype=torch.long, device=self.device)
        self.logprobs = torch.zeros(rows, sampling.max_tokens, device=self.device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.stopped = torch.zeros(rows, dtype=torch.bool, device=self.device)
        empty = torch.zeros(0, dtype=torch.long, device=self.device)
        self.rows = _Rows(
            empty, empty, torch.zeros(0, model.config.get_text_config().vocab_size, device=self.device)
        )

    def _uniform(self, seed: int) -> Tensor:
        """Return a prompt's random numbers, (n, max_tokens), from its seed."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.sampling.n, self.sampling.max_tokens, generator=generator)

    def run(self, out: Rollouts) -> None:
        """Generate everything into `out`."""
        while self.waiting or self.cache.rows:
            if self.waiting and self.cache.free >= max(self.sampling.n, REFILL_AT * self.cache.slots):
                self._admit()
            token = self._step()
            if self.cache.rows:
                self.cache.extend()
                self.rows.logits = self._after(token)
        reasons: list[FinishReason] = ["stop" if stopped else "length" for stopped in self.stopped.tolist()]
        out.finish_reasons.extend(reasons)
        for tokens, logprobs, length in zip(
            self.tokens.tolist(), self.logprobs.tolist(), self.lengths.tolist(), strict=True
        ):
            out.completions.append(tokens[:length])
            out.logprobs.append(logprobs[:length])

    def _admit(self) -> None:
        """Run as many waiting prompts as there are free slots for, once for all completions of each."""
        n = self.sampling.n
        chosen = [self.waiting.pop() for _ in range(min(len(self.waiting), self.cache.free // n))]
        lengths = torch.tensor([len(self.prompts[i]) for i in chosen], device=self.device)
        width = int(lengths.max())
        ids = torch.tensor(
            [self.prompts[i] + [0] * (width - len(self.prompts[i])) for i in chosen], device=self.device
        )
        self.cache.admit(lengths, n)
        positions = torch.arange(width, device=self.device).expand_as(ids)
        logits = self._logits(ids, positions, last=lengths - 1)[:, -1].repeat_interleave(n, 0)
        completion = (
            torch.tensor(chosen, device=self.device)[:, None] * n + torch.arange(n, device=self.device)
        ).flatten()
        new = (completion, torch.zeros_like(completion), logits)
        old = (self.rows.completion, self.rows.step, self.rows.logits)
        self.rows = _Rows(*(torch.cat(pair) for pair in zip(old, new, strict=True)))

    def _after(self, token: Tensor) -> Tensor:
        """Return the logits (B, V) after one token more (B,) in every row."""
        if self.decoder is None:
            return self._logits(token[:, None], self.cache.positions[:, None])[:, -1]
        logits: Tensor = self.model.get_output_embeddings()(self.decoder(token, self.cache))
        return logits

    def _logits(self, ids: Tensor, positions: Tensor, last: Tensor | None = None) -> Tensor:
        """Run tokens (B, T) through the model; return logits (B, 1, V) after column `last` (B,) of each
        row.
        """
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        hidden = decoder(
            input_ids=ids,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            slots=self.cache,
        ).last_hidden_state
        if last is not None:
            hidden = hidden[torch.arange(len(ids), device=self.device), last][:, None]
        logits: Tensor = head(hidden).float()
        return logits

    def _step(self) -> Tensor:
        """Draw a token for every row and let go of those that end; return the tokens of the others (B,)."""
        rows = self.rows
        token, logprob = draw(
            rows.logits, self.uniform[rows.completion, rows.step], self.sampling.temperature
        )
        self.tokens[rows.completion, rows.step] = token
        self.logprobs[rows.completion, rows.step] = logprob
        rows.step = rows.step + 1
        stop = torch.isin(token, self.eos_ids)
        ended = stop | (rows.step == self.sampling.max_tokens)
        if ended.any():
            self.lengths[rows.completion[ended]] = rows.step[ended]
            self.stopped[rows.completion[stop]] = True
            order = self.cache.drop(ended)
            rows.keep(order)
            token = token[order]
        return token


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return tokens (B,) and their log-probs (B,) from logits (B, V), by uniform numbers (B,) below 1;
    temperature 0 takes the best.
    """
    if temperature == 0:
        logprobs = torch.log_softmax(logits, -1)
        best = logprobs.max(-1)
        return best.indices, best.values
    probabilities = torch.softmax(logits / temperature, -1)
    cumulative = probabilities.cumsum(-1)
    token = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return token[:, 0], probabilities.gather(-1, token)[:, 0].log()
