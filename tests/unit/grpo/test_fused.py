"""The fused parts of a layer against transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm, apply_rotary_pos_emb

from llmzero.grpo.fused import _RmsNorm, _Rotary, _SwiGlu, fuse
from llmzero.rollout.decoder import signed

D = 12


def parts() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    norm = Qwen3RMSNorm(D, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    return [norm, Qwen3MLP(Qwen3Config(hidden_size=D, intermediate_size=20))]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_transformers(index: int, dtype: torch.dtype) -> None:
    plain = parts()[index].to(dtype)
    fused = copy.deepcopy(plain)
    fuse(fused)
    assert fused.forward != plain.forward
    found = []
    for module in (plain, fused):
        hidden = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        out = module(hidden)
        (out.float() * torch.linspace(-1, 2, D)).sum().backward()
        found.append([out, hidden.grad, *(parameter.grad for parameter in module.parameters())])
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for expected, value in zip(*found, strict=True):
        assert expected is not None and value is not None and value.dtype == dtype
        torch.testing.assert_close(
            value, expected, rtol=tolerance, atol=tolerance * float(expected.detach().abs().max())
        )


def test_gradients_are_slopes() -> None:
    rows = torch.randn(3, D, dtype=torch.float64)
    gate, up, weight = (
        rows.clone().requires_grad_(),
        torch.randn_like(rows).requires_grad_(),
        torch.randn(D, dtype=torch.float64).requires_grad_(),
    )
    assert torch.autograd.gradcheck(_SwiGlu.apply, (gate, up))
    plain = weight * rows / (rows.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(_RmsNorm.apply(rows, weight, 1e-3).double(), plain, rtol=1e-5, atol=1e-6)


def test_rotary_positions_are_those_of_transformers() -> None:
    heads = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(5, 4, dtype=torch.float64).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    plain, _ = apply_rotary_pos_emb(
        heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cos[None], sin[None]
    )
    places = (cos[:, None], signed(sin[:, None]))
    torch.testing.assert_close(_Rotary.apply(heads, *places), plain[0].transpose(0, 1))
    assert torch.autograd.gradcheck(lambda x: _Rotary.apply(x, *places), heads)


def test_a_frozen_norm_has_no_gradient_of_its_own() -> None:
    norm = parts()[0]
    norm.requires_grad_(False)
    fuse(norm)
    hidden = torch.randn(4, D, requires_grad=True)
    norm(hidden).sum().backward()
    assert hidden.grad is not None and norm.weight.grad is None
