"""The fused output layer against log_softmax of whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llmzero.grpo import head
from llmzero.grpo.head import LogprobHead, LogprobModel, TokenLogprobs
from llmzero.grpo.packing import pack
from llmzero.rollout.slots import attention_of

N, D, V = 24, 8, 50


def inputs(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, dtype=torch.float64, generator=generator)
    weight = torch.randn(V, D, dtype=torch.float64, generator=generator) * 0.7
    return hidden.to(dtype), weight.to(dtype), torch.randint(V, (N,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(hidden @ weight.T / temperature, -1)
    return log_p.gather(-1, tokens[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def fused(
    hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, chunk: int
) -> tuple[Tensor, Tensor]:
    return TokenLogprobs.apply(hidden, weight, tokens, temperature, chunk)


def weighted(found: tuple[Tensor, Tensor], use: str) -> Tensor:
    """A scalar in which every token has a weight of its own."""
    weights = torch.linspace(-1, 2, N)
    return sum(
        (values.double() * weights * (i + 1)).sum()
        for i, values in enumerate(found)
        if use in ("both", ("logprobs", "entropy")[i])
    )  # type: ignore[return-value]


@pytest.mark.parametrize("use", ["logprobs", "entropy", "both"])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [1, 7, N, 10 * N])
def test_values_and_gradients_are_those_of_log_softmax(chunk: int, temperature: float, use: str) -> None:
    hidden, weight, tokens = inputs()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    expected, found = (
        plain(hidden, weight, tokens, temperature),
        fused(hidden, weight, tokens, temperature, chunk),
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    exact = torch.autograd.grad(weighted(expected, use), leaves)
    assert min(float(g.norm()) for g in exact) > 1
    for ours, theirs in zip(torch.autograd.grad(weighted(found, use), leaves), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_slope_of_the_value() -> None:
    """Central differences, wide enough that single precision does not drown them."""
    hidden, weight, tokens = inputs()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    gradients = torch.autograd.grad(weighted(fused(hidden, weight, tokens, 0.9, 5), "both"), leaves)
    generator = torch.Generator().manual_seed(1)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        direction = torch.randn(leaf.shape, dtype=torch.float64, generator=generator)
        step = 1e-3 * direction
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                leaf.add_(step, alpha=sign)
                ends.append(float(weighted(fused(hidden, weight, tokens, 0.9, 5), "both")))
                leaf.add_(step, alpha=-sign)
        slope = (ends[0] - ends[1]) / 2e-3
        assert abs(slope) > 1
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
@pytest.mark.parametrize("chunk", [5, N])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(frozen: str, chunk: int) -> None:
    hidden, weight, tokens = inputs()
    leaf = (hidden if frozen == "weight" else weight).requires_grad_()
    weighted(fused(hidden, weight, tokens, 1.0, chunk), "both").backward()
    (expected,) = torch.autograd.grad(weighted(plain(hidden, weight, tokens, 1.0), "both"), leaf)
    assert (weight if frozen == "weight" else hidden).grad is None
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_weights_give_float32_log_probs_of_bfloat16_logits() -> None:
    hidden, weight, tokens = inputs(torch.bfloat16)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    found = fused(hidden, weight, tokens, 0.9, 5)
    rounded = (hidden @ weight.T).float() / 0.9  # the product alone is rounded to bfloat16
    log_p = torch.log_softmax(rounded, -1)
    assert all(values.dtype == torch.float32 for values in found)
    torch.testing.assert_close(found[0], log_p.gather(-1, tokens[:, None])[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], -(log_p.exp() * log_p).sum(-1), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(weighted(found, "both"), leaves)
    double = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = torch.autograd.grad(weighted(plain(double[0], double[1], tokens, 0.9), "both"), double)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_certain_and_impossible_tokens_have_finite_gradients(scale: float) -> None:
    hidden, weight, tokens = inputs(torch.float32)
    leaf = (hidden * scale).requires_grad_()
    logprobs, entropy = fused(leaf, weight, tokens, 0.6, 5)
    weighted((logprobs, entropy), "both").backward()
    assert scale == 1 or float(logprobs.detach().min()) < -100
    assert bool(torch.isfinite(logprobs).all()) and bool(torch.isfinite(entropy).all())
    assert float(entropy.detach().min()) > -1e-3
    assert leaf.grad is not None and bool(torch.isfinite(leaf.grad).all())


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any tensor made under it has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        self.elements = max(
            [self.elements, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))]
        )
        return result


def largest(chunk: int) -> int:
    hidden, weight, tokens = inputs()
    hidden.requires_grad_()
    weight.requires_grad_()
    with LargestTensor() as seen:
        weighted(fused(hidden, weight, tokens, 1.0, chunk), "both").backward()
    return seen.elements


def test_logits_of_more_than_a_chunk_are_never_held() -> None:
    assert largest(chunk=N) == N * V
    assert largest(chunk=10) == max(10 * V, V * D)


@pytest.mark.parametrize(("chunk", "keeps"), [(N, True), (10, False)])
def test_only_a_batch_of_one_chunk_keeps_its_probabilities_for_the_backward_pass(
    chunk: int, keeps: bool
) -> None:
    hidden, weight, tokens = inputs()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        fused(hidden.requires_grad_(), weight.requires_grad_(), tokens, 1.0, chunk)
    assert (N * V in kept) is keeps
    assert keeps or max(kept) == max(N * D, V * D)


def test_the_head_cuts_tokens_so_that_logits_stay_within_its_allowance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden, weight, tokens = inputs(torch.float32)
    linear = nn.Linear(D, V, bias=False)
    linear.weight.data = weight
    whole = LogprobHead(linear)(hidden, tokens, 0.8)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 9 * V + V // 2)
    with LargestTensor() as seen:
        cut = LogprobHead(linear)(hidden, tokens, 0.8)
    assert seen.elements == 9 * V
    torch.testing.assert_close(cut, whole)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", V // 2)
    torch.testing.assert_close(LogprobHead(linear)(hidden, tokens, 0.8), whole)


# --- the whole model ---

SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}


def tiny(kind: str, tied: bool) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).double()
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=tied)).double()


ROWS = [
    ([4, 5, 6], [7, 8]),
    ([9], [10, 11, 12, 13]),
    ([4, 5, 6], [14]),
    ([4, 5, 6], [15, 16, 17]),
]  # three of one prompt


def plain_model(model: Any, ids: list[int], completion: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of one row without padding, from the model's own logits."""
    log_p = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0] / temperature, -1)[
        -completion - 1 : -1
    ]
    return log_p.gather(-1, torch.tensor(ids[-completion:])[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def compare_with_plain(wrapped: Any, trained: LogprobModel) -> dict[str, Tensor]:
    """Compare values and gradients of a pack with those of its rows alone; return the gradients."""
    packed = pack(ROWS, "cpu")
    logprobs, entropy = trained(packed, 0.7)
    assert bool((logprobs[packed.mask == 0] == 0).all()) and bool((entropy[packed.mask == 0] == 0).all())
    (logprobs * torch.arange(1, 17).view(4, 4) / 8 + 0.5 * entropy).sum().backward()
    found = gradients(wrapped)
    total = torch.tensor(0.0, dtype=torch.float64)
    with attention_of(wrapped, "eager"):
        for i, (prompt, completion) in enumerate(ROWS):
            length = len(completion)
            expected, uncertainty = plain_model(wrapped, prompt + completion, length, 0.7)
            torch.testing.assert_close(logprobs[i, :length].double(), expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(entropy[i, :length].double(), uncertainty, rtol=1e-5, atol=1e-6)
            total = (
                total + (expected * torch.arange(4 * i + 1, 4 * i + 1 + length) / 8 + 0.5 * uncertainty).sum()
            )
    total.backward()
    exact = gradients(wrapped)
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(float(g.norm()) for g in exact.values()) > 0.1
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_pack_has_the_values_and_gradients_of_its_rows_alone(kind: str, tied: bool) -> None:
    model = tiny(kind, tied)
    found = compare_with_plain(model, LogprobModel(model))
    assert ("lm_head.weight" in found) is not tied
    embedding = found["model.embed_tokens.weight"]
    assert bool((embedding[20] != 0).any()) is tied, (
        "a token that no row holds has a gradient through a tied output layer alone"
    )


def test_parameters_are_registered_once() -> None:
    model = tiny("qwen3", tied=True)
    assert {id(p) for p in LogprobModel(model).parameters()} == {id(p) for p in model.parameters()}
    assert len(list(LogprobModel(model).parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_gets_its_gradient_through_a_frozen_output_layer(tied: bool) -> None:
    wrapped = get_peft_model(
        tiny("qwen3", tied), LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    ).double()
    found = compare_with_plain(wrapped, LogprobModel(wrapped))
    assert all("lora_" in name for name in found)
    assert all(float(g.norm()) > 0 for g in found.values())
