"""One token more for every row in few operations: what a small model costs on a CPU is the number of its
operations.

It computes what transformers' own modules do for models that are built like Llama and Qwen, with a third of
the calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from llmzero.rollout.slots import SlotCache, attention_over_slots

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def is_family(config: Any) -> bool:
    """Return whether a model's layers are those of one of the families, without sliding windows."""
    full = all(
        kind == "full_attention" for kind in getattr(config, "layer_types", None) or []
    ) and not getattr(config, "sliding_window", None)
    return config.model_type in FAMILIES and full


def is_known(model: Any) -> bool:
    """Return whether `Decoder` can stand in for a model's decoder: one of the families, in float32."""
    return is_family(model.config) and model.config.hidden_act == "silu" and model.dtype == torch.float32


class Decoder:
    """A decoder's pass over one new token a row.

    Args:
        model: a model that `is_known`; its weights are used as they stand.
        columns: longest row.
    """

    def __init__(self, model: Any, columns: int) -> None:
        decoder = model.get_decoder()
        positions = torch.arange(columns, device=model.device)[None]
        cos, sin = decoder.rotary_emb(torch.zeros(1, device=model.device), positions)
        self._cos, self._sin = cos[0][:, None], signed(sin[0][:, None])
        self._embedding: Tensor = decoder.embed_tokens.weight
        self._layers = [_Layer(i, layer) for i, layer in enumerate(decoder.layers)]
        self._norm = _weights_of_norm(decoder.norm)

    def __call__(self, tokens: Tensor, cache: SlotCache) -> Tensor:
        """Return the last hidden states (B, D) after tokens (B,), for which `cache.extend` has made room."""
        positions = cache.positions
        cos, sin = self._cos[positions], self._sin[positions]
        hidden = self._embedding[tokens]
        for layer in self._layers:
            hidden = layer(hidden, cos, sin, cache)
        return _scaled(hidden, *self._norm)


class _Layer:
    """One layer; queries, keys and values are written side by side, so that queries and keys are normalised
    and turned together.
    """

    def __init__(self, index: int, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index, self._dim, self._scaling = index, attention.head_dim, attention.scaling
        self._projections = [
            (p.weight.T, p.bias) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        self._heads = [weight.shape[1] // self._dim for weight, _ in self._projections]
        self._norms = [
            _weights_of_norm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        self._out, self._gate, self._up, self._down = (
            (p.weight, p.bias) for p in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        self._turning = None
        if hasattr(attention, "q_norm"):
            weights = [
                norm.weight.expand(count, -1)
                for norm, count in zip((attention.q_norm, attention.k_norm), self._heads[:2], strict=True)
            ]
            self._turning = (torch.cat(weights), attention.q_norm.variance_epsilon)

    def __call__(self, hidden: Tensor, cos: Tensor, sin: Tensor, cache: SlotCache) -> Tensor:
        """Return what follows on hidden (B, hidden size), for positions of cosine and sine (B, 1, D)."""
        query, key, value = self._project(_scaled(hidden, *self._norms[0]), cos, sin)
        keys, values = cache.update(key[:, :, None], value[:, :, None], self._index)
        out, _ = attention_over_slots(
            None, query[:, :, None], keys, values, None, slots=cache, scaling=self._scaling
        )
        hidden = hidden + linear(out.view(len(hidden), -1), *self._out)
        inner = _scaled(hidden, *self._norms[1])
        gate = silu(linear(inner, *self._gate), inplace=True).mul_(linear(inner, *self._up))
        return hidden.add_(linear(gate, *self._down))

    def _project(self, inner: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values (B, H, D)."""
        heads = inner.new_empty(len(inner), sum(self._heads), self._dim)
        columns = torch.split(heads.view(len(inner), -1), [count * self._dim for count in self._heads], 1)
        for (weight, bias), out in zip(self._projections, columns, strict=True):
            torch.mm(inner, weight, out=out)
            if bias is not None:
                out.add_(bias)
        turning, value = torch.split(heads, [sum(self._heads[:2]), self._heads[2]], 1)
        if self._turning is not None:
            turning = _scaled(turning, *self._turning)
        query, key = torch.split(turned(turning, cos, sin), self._heads[:2], 1)
        return query, key, value


def _weights_of_norm(norm: Any) -> tuple[Tensor, float]:
    return norm.weight, norm.variance_epsilon


def _scaled(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square normalisation over the last dimension."""
    length: Tensor = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    scale = length.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
    return (hidden * scale).mul_(weight)


def turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of heads (B, H, D) by a `signed` sine: x cos + (second half, first half) sin; RoFormer
    (arXiv 2104.09864).
    """
    return (heads * cos).addcmul_(swapped(heads), sin)


def signed(sin: Tensor) -> Tensor:
    """Return a sine (..., D) whose first half is negative."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[..., :half], sin[..., half:]], -1)


def swapped(heads: Tensor) -> Tensor:
    """Return heads (..., D) with their halves in each other's place."""
    half = heads.shape[-1] // 2
    return torch.cat([heads[..., half:], heads[..., :half]], -1)
