"""Qwen3 with random weights and one token for each character: as costly as the real one, and no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.cache import cached_directory

REPOSITORY = Path(__file__).resolve().parents[1]
CONTEXT = 40_960  # tokens
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 512,
}


def random_qwen3_directory(small: bool) -> Path:
    """Return a Hugging Face directory in bfloat16, which the first call makes.

    Args:
        small: take the architecture `SMALL` in place of Qwen3-0.6B's.
    """
    return cached_directory(
        "random_qwen3_small" if small else "random_qwen3_0_6b",
        lambda directory: _build(SMALL if small else {}, directory),
    )


def _build(changes: dict[str, int], directory: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from llmzero.grpo.nano import character_tokenizer
    from llmzero.tasks.countdown import Countdown

    tokenizer = character_tokenizer(Countdown.alphabet)
    model_config = yaml.safe_load((REPOSITORY / "conf/model/qwen3_0_6b.yaml").read_text())
    architecture: dict[str, Any] = model_config["architecture"] | changes
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**architecture, max_position_embeddings=CONTEXT, **ids))
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
