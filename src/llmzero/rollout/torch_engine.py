"""Batched key-value-cache sampling in plain PyTorch: exact log-probs, finished rows leave the batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from llmzero.rollout.base import FinishReason, Rollouts, Sampling

COMPACT_BELOW = 0.75  # compact the batch once this share or less of its rows is still running


class TorchEngine:
    """Samples with the trainer's own model object, so new weights are in force without a copy.

    Args:
        max_rows: completions generated side by side; bounds the memory of the key-value cache.
    """

    def __init__(self, max_rows: int = 1024) -> None:
        self.max_rows = max_rows
        self._generator = torch.Generator()
        self._model: PreTrainedModel | None = None
        self._eos_ids: Tensor = torch.empty(0, dtype=torch.long)
        self._pad_id = 0

    def start(self, model: PreTrainedModel, eos_ids: Sequence[int], pad_id: int, seed: int) -> None:
        """Attach to the policy: its model, the token ids that end a completion, and the sampling seed."""
        self._model = model
        self._eos_ids = torch.tensor(list(eos_ids), device=model.device)
        self._pad_id = pad_id
        self._generator = torch.Generator(model.device).manual_seed(seed)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Take the policy's weights: the engine samples with the very object that is trained."""
        self._model = model

    def get_state(self) -> bytes:
        """Return the sampling generator's state."""
        return bytes(self._generator.get_state().numpy().tobytes())

    def set_state(self, state: bytes) -> None:
        """Restore the sampling generator's state."""
        self._generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        """Return `sampling.n` completions for each prompt; at most `max_rows` rows run at a time."""
        assert self._model is not None, "start() attaches the engine to a model first"
        was_training = self._model.training
        self._model.eval()
        rollouts = Rollouts([list(p) for p in prompts], [], [], [], sampling.n)
        step = max(1, self.max_rows // sampling.n)
        for first in range(0, len(prompts), step):
            self._generate_chunk(rollouts.prompts[first : first + step], sampling, rollouts)
        self._model.train(was_training)
        return rollouts

    def _generate_chunk(self, prompts: list[list[int]], sampling: Sampling, out: Rollouts) -> None:
        batch = self._prefill(prompts, sampling.n)
        rows = len(prompts) * sampling.n
        tokens = torch.full((rows, sampling.max_tokens), self._pad_id, device=batch.logits.device)
        logprobs = torch.zeros((rows, sampling.max_tokens), device=batch.logits.device)
        lengths = torch.full((rows,), sampling.max_tokens, device=batch.logits.device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=batch.logits.device)
        for t in range(sampling.max_tokens):
            token, logprob = self._sample(batch.logits, sampling.temperature)
            running = batch.running
            tokens[batch.rows[running], t] = token[running]
            logprobs[batch.rows[running], t] = logprob[running]
            ended = running & torch.isin(token, self._eos_ids)
            lengths[batch.rows[ended]] = t + 1
            stopped[batch.rows[ended]] = True
            batch.running = running & ~ended
            left = int(batch.running.sum())
            if left == 0 or t + 1 == sampling.max_tokens:
                break
            if left <= COMPACT_BELOW * len(batch.running):
                token = batch.compact(token)
            self._decode(batch, token)
        _append(out, tokens, logprobs, lengths, stopped)

    def _prefill(self, prompts: list[list[int]], n: int) -> _Batch:
        """Run each prompt once (left-padded), then repeat its cache for the n completions."""
        assert self._model is not None
        device = self._model.device
        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad_id] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        output = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if n > 1:
            cache.batch_repeat_interleave(n)
        rows = torch.arange(len(prompts) * n, device=device)
        return _Batch(
            logits=output.logits[:, -1].repeat_interleave(n, 0),
            mask=mask.repeat_interleave(n, 0),
            position=positions[:, -1].repeat_interleave(n, 0),
            cache=cache,
            rows=rows,
            running=torch.ones_like(rows, dtype=torch.bool),
        )

    def _sample(self, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draw one token a row from logits (B, V); return tokens (B,) and their log-probs (B,)."""
        logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
        if temperature == 0:
            token = logprobs.argmax(-1)
        else:
            # Gumbel-max, equal in law to multinomial sampling and one pass over the vocabulary
            noise = torch.empty_like(logprobs).exponential_(generator=self._generator)
            token = (logprobs - noise.log()).argmax(-1)
        return token, logprobs.gather(-1, token[:, None])[:, 0]

    def _decode(self, batch: _Batch, token: Tensor) -> None:
        """Advance every row of the batch by one token."""
        assert self._model is not None
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], dim=1)
        batch.position = batch.position + 1
        output = self._model(
            input_ids=token[:, None],
            attention_mask=batch.mask,
            position_ids=batch.position[:, None],
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.logits = output.logits[:, -1]


@dataclass
class _Batch:
    """Rows being generated side by side: logits (B, V) of the next token, mask (B, T), position (B,) of the last token."""

    logits: Tensor
    mask: Tensor
    position: Tensor
    cache: DynamicCache
    rows: Tensor
    running: Tensor

    def compact(self, token: Tensor) -> Tensor:
        """Drop the finished rows everywhere; return the running rows' tokens."""
        keep = self.running.nonzero()[:, 0]
        self.cache.batch_select_indices(keep)
        self.mask, self.position, self.rows = self.mask[keep], self.position[keep], self.rows[keep]
        self.running = self.running[keep]
        return token[keep]


def _append(out: Rollouts, tokens: Tensor, logprobs: Tensor, lengths: Tensor, stopped: Tensor) -> None:
    for row, scores, length, stop in zip(tokens.tolist(), logprobs.tolist(), lengths.tolist(), stopped.tolist(), strict=True):
        out.completions.append(row[:length])
        out.logprobs.append(scores[:length])
        reason: FinishReason = "stop" if stop else "length"
        out.finish_reasons.append(reason)
