"""Why a stage failed, in a form that an agent can answer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import torch

from llmzero.core.files import FULL

# What drives a phase's memory: first among what a proposal may lower.
MEMORY_DRIVERS = {
    "generation": ("max_completion_length", "group_size", "prompts_per_step"),
    "logprobs": ("max_completion_length", "kl_coef"),
    "update": ("max_completion_length", "kl_coef"),
}
OUT_OF_MEMORY = re.compile(
    "can't allocate memory"  # PyTorch on a CPU
    "|cannot allocate memory"  # the operating system
    "|out of memory"  # CUDA; "CUDA Error: out of memory at ..." is vLLM's pool
    "|CUBLAS_STATUS_ALLOC_FAILED"
    "|Free memory on device .* is less than"  # vLLM, at its start
    "|No available memory for the cache blocks"  # the same
    "|larger than the available KV cache memory",  # the same
    re.IGNORECASE | re.DOTALL,
)
REQUESTED = re.compile(r"allocate (?:memory: you tried to allocate )?([\d.]+) (bytes|KiB|MiB|GiB)")
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class NotFiniteError(RuntimeError):
    """Gradients were infinite or not numbers too many times in a row."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, says that the disk or its quota is full.

    safetensors and torch pass the operating system's error on as text.
    """
    words = [text for number in FULL for text in (f"os error {number}", os.strerror(number))]
    return any(
        (isinstance(each, OSError) and each.errno in FULL) or any(text in str(each) for text in words)
        for each in _chain(error)
    )


def file_without_room(error: BaseException | None) -> str | None:
    """Return the file for which `is_disk_full` said so, where the error names it."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in FULL and each.filename:
            return str(each.filename)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out; vLLM says it in errors of any kind."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def cause_of(error: BaseException, phase: str, hparams: dict[str, Any]) -> dict[str, Any]:
    """Return the machine-readable cause of a failure.

    `kind` is `out_of_memory`, `not_finite`, `timeout` or `error`; `phase` is what the trainer was doing. Out
    of memory also tells the bytes that were asked for (None where the allocator did not say) and the values
    of the hyperparameters that drive memory there.
    """
    short = next(filter(_is_out_of_memory, _chain(error)), None)
    if short is not None:
        drivers = MEMORY_DRIVERS.get(phase, ())
        values = {name: hparams[name] for name in drivers if name in hparams}
        amount = REQUESTED.search(str(short))
        return {
            "kind": "out_of_memory",
            "phase": phase,
            "requested_bytes": round(float(amount[1]) * UNITS[amount[2]]) if amount else None,
            "hparams": values,
        }
    if isinstance(error, NotFiniteError):
        values = {
            name: hparams[name] for name in ("learning_rate", "max_grad_norm", "clip_high") if name in hparams
        }
        return {"kind": "not_finite", "phase": phase, "hparams": values}
    return {"kind": "timeout" if isinstance(error, TimeoutError) else "error", "phase": phase}
