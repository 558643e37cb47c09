from __future__ import annotations

from typing import Any

import pytest
import torch

from llmzero.grpo.failures import NotFiniteError, cause_of

HPARAMS = {
    "max_completion_length": 512,
    "group_size": 8,
    "prompts_per_step": 32,
    "kl_coef": 0.01,
    "learning_rate": 1e-6,
    "max_grad_norm": 1.0,
    "clip_high": 0.2,
    "temperature": 1.0,
}


def caught(function: Any) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as info:
        function()
    return info.value


def test_a_failed_allocation_of_torch_on_the_cpu_is_out_of_memory() -> None:
    error = caught(lambda: torch.empty(2**58, dtype=torch.uint8))
    cause = cause_of(error, "update", HPARAMS)
    values = {"max_completion_length": 512, "kl_coef": 0.01}
    assert cause == {"kind": "out_of_memory", "phase": "update", "requested_bytes": 2**58, "hparams": values}


@pytest.mark.parametrize(
    ("amount", "requested"),
    [("20.00 MiB", 20 * 2**20), ("1.17 GiB", round(1.17 * 2**30)), ("512 bytes", 512), ("2.00 KiB", 2048)],
)
def test_a_failed_allocation_on_a_gpu_tells_the_bytes_that_were_asked_for(
    amount: str, requested: int
) -> None:
    message = (
        f"CUDA out of memory. Tried to allocate {amount}. GPU 0 has a total capacity of "
        "79.15 GiB of which 14.56 MiB is free. "
        "Including non-PyTorch memory, this process has 79.13 GiB memory in use. Of the "
        "allocated memory 77.50 GiB is allocated by "
        "PyTorch, and 1.07 GiB is reserved by PyTorch but unallocated. "
        "If reserved but unallocated memory is large try setting "
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
    )
    cause = cause_of(torch.OutOfMemoryError(message), "generation", HPARAMS)
    values = {"max_completion_length": 512, "group_size": 8, "prompts_per_step": 32}
    assert cause == {
        "kind": "out_of_memory",
        "phase": "generation",
        "requested_bytes": requested,
        "hparams": values,
    }


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("no memory left")])
def test_out_of_memory_without_a_number_is_still_out_of_memory(error: BaseException) -> None:
    cause = cause_of(error, "validation", HPARAMS)
    assert cause == {
        "kind": "out_of_memory",
        "phase": "validation",
        "requested_bytes": None,
        "hparams": {},
    }, "no hyperparameter drives the memory of validations"


def test_a_phase_whose_memory_no_hyperparameter_drives_names_none() -> None:
    assert cause_of(MemoryError(), "checkpoint", HPARAMS)["hparams"] == {}


@pytest.mark.parametrize("phase", ["generation", "validation", "logprobs", "update"])
def test_causes_name_only_hyperparameters_that_the_stage_has(phase: str) -> None:
    assert cause_of(MemoryError(), phase, {"group_size": 4})["hparams"] == (
        {"group_size": 4} if phase == "generation" else {}
    )


def test_gradients_that_are_not_finite_name_what_keeps_them_in_bounds() -> None:
    cause = cause_of(NotFiniteError("four updates in a row"), "update", HPARAMS)
    assert cause == {
        "kind": "not_finite",
        "phase": "update",
        "hparams": {"learning_rate": 1e-6, "max_grad_norm": 1.0, "clip_high": 0.2},
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("no answer"), "timeout"),
        (RuntimeError("shape mismatch"), "error"),
        (ValueError("allocate more"), "error"),
    ],
)
def test_other_failures_tell_their_kind_and_phase_alone(error: BaseException, kind: str) -> None:
    assert cause_of(error, "reward", HPARAMS) == {"kind": kind, "phase": "reward"}
