from __future__ import annotations

from types import SimpleNamespace
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


IN_OTHER_WORDS = {
    "vLLM's pool": RuntimeError("CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:146"),
    "CUDA": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "NCCL": RuntimeError(
        "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"
    ),
    "the system": OSError(12, "Cannot allocate memory"),
    "an error behind another": ValueError("Engine core initialization failed."),
}
IN_OTHER_WORDS["an error behind another"].__cause__ = IN_OTHER_WORDS["vLLM's pool"]


@pytest.mark.parametrize("who", IN_OTHER_WORDS)
def test_out_of_memory_is_known_whoever_says_it(who: str) -> None:
    assert cause_of(IN_OTHER_WORDS[who], "generation", HPARAMS) == {
        "kind": "out_of_memory",
        "phase": "generation",
        "requested_bytes": None,
        "hparams": {"max_completion_length": 512, "group_size": 8, "prompts_per_step": 32},
    }


def test_vllm_without_room_at_its_start_is_out_of_memory_in_vllms_own_words() -> None:
    pytest.importorskip("vllm")
    from vllm.v1.core.kv_cache_utils import _check_enough_kv_cache_memory
    from vllm.v1.worker.utils import request_memory

    gib = 2**30
    device = SimpleNamespace(free_memory=10 * gib, total_memory=80 * gib, device_="cuda:0")
    settings = SimpleNamespace(gpu_memory_utilization=0.4)
    asks: dict[str, Any] = {
        r"^Free memory on device cuda:0 \(10\.0": lambda: request_memory(device, settings),
        r"^No available memory": lambda: _check_enough_kv_cache_memory(0, lambda: gib, 64, lambda _: 0),
        r"^To serve at least one request": lambda: _check_enough_kv_cache_memory(
            gib, lambda: 2 * gib, 64, lambda _: 32
        ),
    }
    for words, ask in asks.items():
        with pytest.raises(ValueError, match=words) as caught:
            ask()
        cause = cause_of(caught.value, "starting", HPARAMS)
        assert cause == {
            "kind": "out_of_memory",
            "phase": "starting",
            "requested_bytes": None,
            "hparams": {},
        }, "no hyperparameter decides how much vLLM takes"


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
