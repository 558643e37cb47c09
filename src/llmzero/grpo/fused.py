"""Norms, rotary positions and gates as one autograd step each: less to compute, and less to keep for the
backward pass.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from llmzero.grpo.packing import Pack, attend
from llmzero.rollout.decoder import is_family, signed, swapped, turned


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight in float32, Zhang and Sennrich (arXiv 1910.07467), equation 4; keeps x and 1 /
    rms.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = hidden.float()
        scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return weight * (wide * scale).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        gradient = gradients[0].float()
        normal = hidden.float() * scale
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = (gradient * normal).flatten(0, -2).sum(0).to(weight.dtype)
        inner = gradient * weight.float()
        mean = (inner * normal).mean(-1, keepdim=True)
        return inner.addcmul_(normal, mean, value=-1).mul_(scale).to(hidden.dtype), to_weight, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up, Shazeer (arXiv 2002.05202), equation 6; keeps gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        to_up = gradients[0] * silu(gate)
        to_gate = torch.ops.aten.silu_backward(gradients[0] * up, gate)
        return to_gate, to_up


class _Rotary(torch.autograd.Function):
    """Rotary positions of heads (S, H, D); keeps none of them."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(heads, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return (gradients[0] * cos).add_(swapped(gradients[0] * sin)), None, None


def _norm_forward(module: Any, hidden: Tensor) -> Tensor:
    arguments = (hidden, module.weight, module.variance_epsilon)
    normal: Tensor = _RmsNorm.apply(*arguments)  # type: ignore[no-untyped-call]
    return normal


def _mlp_forward(module: Any, hidden: Tensor) -> Tensor:
    gated = _SwiGlu.apply(module.gate_proj(hidden), module.up_proj(hidden))  # type: ignore[no-untyped-call]
    down: Tensor = module.down_proj(gated)
    return down


def _attention_forward(
    module: Any,
    plain: Any,
    hidden_states: Tensor,
    position_embeddings: Any,
    pack: Pack | None = None,
    **kwargs: Any,
) -> Any:
    if pack is None:
        return plain(hidden_states=hidden_states, position_embeddings=position_embeddings, **kwargs)
    query, key, value = (
        p(hidden_states)[0].unflatten(-1, (-1, module.head_dim))
        for p in (module.q_proj, module.k_proj, module.v_proj)
    )
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = (table[0][:, None] for table in position_embeddings)
    sin = signed(sin)
    query, key = (_Rotary.apply(heads, cos, sin) for heads in (query, key))  # type: ignore[no-untyped-call]
    out = attend(query, key, value, pack, module.scaling, None)
    return module.o_proj(out.flatten(1)[None]), None


def fuse(model: Any) -> None:
    """Let a model's root mean square norms, gated layers and, in families we know, attention layers compute
    by the functions above.
    """
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(_norm_forward, module)
        elif (
            _has(module, "gate_proj", "up_proj", "down_proj", "act_fn")
            and type(module.act_fn).__name__ == "SiLUActivation"
        ):
            module.forward = partial(_mlp_forward, module)
        elif _has(module, "q_proj", "k_proj", "v_proj", "o_proj") and is_family(model.config):
            module.forward = partial(_attention_forward, module, module.forward)


def _has(module: nn.Module, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)
