"""Log-probabilities and entropies straight from hidden states: the (tokens, vocabulary) logits are made a
chunk at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmzero.grpo.fused import fuse
from llmzero.grpo.limits import CHUNK_ELEMENTS
from llmzero.grpo.packing import ATTENTION, Pack


class TokenLogprobs(torch.autograd.Function):
    """log softmax(h W' / temperature) at given tokens, and its entropy, for N tokens of width D and a
    vocabulary of V.

    The backward pass makes each chunk's logits anew; a batch of one chunk keeps its probabilities instead.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropies (nats), both (N,) in float32, of hidden (N, D), weight (V, D),
        tokens (N,).
        """
        logprobs = torch.empty(len(tokens), device=hidden.device)
        entropy, normaliser = torch.empty_like(logprobs), torch.empty_like(logprobs)
        cached = None
        for rows in _chunks(len(tokens), chunk):
            logits = (hidden[rows] @ weight.T).float().div_(temperature)
            normaliser[rows] = torch.logsumexp(logits, -1)
            logprobs[rows] = logits.gather(-1, tokens[rows, None])[:, 0] - normaliser[rows]
            probabilities = logits.sub(normaliser[rows, None]).exp_()
            entropy[rows] = normaliser[rows] - (probabilities * logits).sum(-1)
            cached = probabilities if chunk >= len(tokens) else None
        ctx.save_for_backward(
            hidden, weight, tokens, normaliser, entropy, *([] if cached is None else [cached])
        )
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return gradients for hidden and weight, from those of log-probs and entropies."""
        hidden, weight, tokens, normaliser, entropy, *cached = ctx.saved_tensors
        to_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(tokens), ctx.chunk):
            if cached:
                probabilities = cached[0]
            else:
                logits = (hidden[rows] @ weight.T).float().div_(ctx.temperature)
                probabilities = logits.sub_(normaliser[rows, None]).exp_()
            parts = [None if g is None else g[rows] for g in gradients]
            to_logits = (
                _logit_gradient(probabilities, tokens[rows], entropy[rows], parts[0], parts[1])
                .div_(ctx.temperature)
                .to(weight.dtype)
            )
            if to_hidden is not None:
                to_hidden[rows] = to_logits @ weight
            if to_weight is not None:
                to_weight.addmm_(to_logits.T, hidden[rows])
        return to_hidden, to_weight, None, None, None


def _logit_gradient(
    probabilities: Tensor,
    tokens: Tensor,
    entropy: Tensor,
    of_logprob: Tensor | None,
    of_entropy: Tensor | None,
) -> Tensor:
    """Return (n, V): d logprob / d z = onehot - p; d entropy / d z = -p (log p + entropy)."""
    total = torch.zeros_like(probabilities)
    if of_entropy is not None:
        log_p = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        total -= of_entropy[:, None] * probabilities * (log_p + entropy[:, None])
    if of_logprob is not None:
        total.addcmul_(probabilities, of_logprob[:, None], value=-1)
        total.scatter_add_(1, tokens[:, None], of_logprob[:, None])
    return total


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


class LogprobHead(nn.Module):
    """A causal language model's output layer that answers with log-probs instead of logits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropies (N,) of tokens (N,) after hidden states (N, D), under the sampling
        temperature.
        """
        weight = self.linear.weight
        chunk = max(1, CHUNK_ELEMENTS // weight.shape[0])
        arguments = (hidden, weight, tokens, temperature, chunk)
        pair: tuple[Tensor, Tensor] = TokenLogprobs.apply(*arguments)  # type: ignore[no-untyped-call]
        return pair


class LogprobModel(nn.Module):
    """What is trained: a Hugging Face causal language model that answers with log-probs of given completions.

    The temperature is that of the sampler, so that ratios compare like with like.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.config._attn_implementation = ATTENTION
        fuse(model)
        self._decoder = [inner.get_decoder()]  # in a list: it is the model's own submodule already
        self.head = LogprobHead(inner.get_output_embeddings())

    def forward(self, pack: Pack, temperature: float) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropies (B, T) of a pack's completions; 0 where they have no token."""
        hidden = self._decoder[0](
            input_ids=pack.ids, position_ids=pack.positions, use_cache=False, pack=pack
        ).last_hidden_state
        logprobs, entropy = self.head(pack.predictors(hidden[0]), pack.targets, temperature)
        return pack.spread(logprobs), pack.spread(entropy)
