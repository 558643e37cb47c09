"""Which models may be trained: those for which our forward pass says what transformers' own modules say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from llmzero.grpo.head import LogprobModel
from llmzero.grpo.policy import check_logprobs, plain_logprobs

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


def built(family: str, config: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, config)(**SHAPE, **settings)
    ).eval()


@pytest.mark.parametrize("family", SUPPORTED, ids=lambda family: family[0])
def test_families_of_plain_attention_are_supported(family: tuple[str, str, dict[str, Any]]) -> None:
    model = built(*family)
    expected = plain_logprobs(model)
    assert len({round(float(value), 3) for row in expected for value in row}) > 4
    check_logprobs(LogprobModel(model), expected)


@pytest.mark.parametrize("family", REFUSED, ids=["capped_attention", "capped_logits", "scaled_logits"])
def test_a_model_with_parts_of_its_own_is_refused(family: tuple[str, str, dict[str, Any]]) -> None:
    model = built(*family)
    expected = plain_logprobs(model)
    with pytest.raises(ValueError, match="not supported"):
        check_logprobs(LogprobModel(model), expected)
