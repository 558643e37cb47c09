"""A model of a few thousand numbers with its tokenizer, as `save_pretrained` writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmzero.grpo.nano import character_tokenizer

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def write_tiny_model(directory: Path, characters: str = "0123456789+=", **config: Any) -> None:
    """Write a Qwen3 with random weights; `config` changes its configuration."""
    tokenizer = character_tokenizer(characters)
    values = {**SIZES, "vocab_size": len(tokenizer), "eos_token_id": 1, "bos_token_id": None, **config}
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**values)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
