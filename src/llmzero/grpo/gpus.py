"""Whether a stage can compute on the GPUs that it is to have, and what to do where it cannot."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from pathlib import Path

import torch

from llmzero.core.errors import UserError
from llmzero.grpo.settings import TrainerSettings

DRIVER = Path("/proc/driver/nvidia/version")  # a line that names the driver of this machine, while it has one
LEAST_DRIVERS = {"12": 525, "13": 580}  # NVIDIA's, by the major version of CUDA


def check_gpus(settings: TrainerSettings) -> None:
    """Check that a stage that is to have GPUs can compute on one, and has what it is built with there.

    Raises:
        UserError: it would compute on the CPU, or fail at its first tensor or update.
    """
    found = torch.cuda.is_available()  # on a driver's word alone where a process may fork
    trouble = _trouble() if found or settings.gpus else None
    if trouble is not None:
        raise UserError(
            f"hardware.gpus_per_stage={settings.gpus} (trainer.gpus): no GPU can be used: {trouble} (NVIDIA "
            f"driver: {driver_version() or 'none'}; CUDA_VISIBLE_DEVICES: "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}). {_remedy()}; or train on the CPU, by "
            "hardware=none with an empty CUDA_VISIBLE_DEVICES"
        )
    if found and settings.offload_optimizer:
        _check_offload(settings)


def choice_problem(settings: TrainerSettings) -> str | None:
    """Return what to say of a stage that computes on a GPU which nobody chose settings for."""
    if settings.gpus or not torch.cuda.is_available():
        return None
    zero = max(int(settings.dtype == "bfloat16"), settings.zero_stage)
    return (
        f"trains on the {torch.cuda.get_device_name()} in {settings.dtype} at ZeRO {zero}, as no machine was "
        "chosen: hardware=one_80gb, or one like it, trains in bfloat16 and samples with vLLM (docs/memory.md)"
    )


def driver_version() -> str | None:
    """Return the version of this machine's NVIDIA driver; None where there is none."""
    if not DRIVER.is_file():
        return None
    version = re.search(r"\b\d{3}(\.\d+)+\b", DRIVER.read_text(errors="replace"))
    return version[0] if version else None


def _trouble() -> str | None:
    """Return why CUDA cannot be used, in the words of PyTorch."""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:300]
    return None if torch.cuda.device_count() else "no GPU is visible"


def _remedy() -> str:
    if torch.version.cuda is None:
        return "Install PyTorch with CUDA (pip install 'llmzero[gpu]' in a fresh environment)"
    least = LEAST_DRIVERS.get(torch.version.cuda.partition(".")[0])
    needs = f"which needs driver {least} or newer: update the driver" if least else "update the driver"
    return (
        f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}, {needs}, or install PyTorch "
        "and vLLM for the CUDA that this one has"
    )


def _check_offload(settings: TrainerSettings) -> None:
    """Check that DeepSpeed's optimizer for the host can be used; it is compiled before its first use.

    Raises:
        UserError: something for that is missing, or the optimizer would be given what lies on the GPU.
    """
    if settings.dtype == "float32" and settings.zero_stage == 0:
        raise UserError(
            "trainer.offload_optimizer=true: ZeRO moves the optimizer to the host, and trainer.zero_stage is "
            "0; set trainer.zero_stage=2, or trainer.dtype=bfloat16"
        )
    compiler = os.environ.get("CXX", "c++")
    there = {
        "ninja": shutil.which("ninja"),
        f"the C++ compiler {compiler}": shutil.which(compiler),
        "Python's headers": Path(sysconfig.get_path("include"), "Python.h").is_file(),
    }
    if missing := [name for name, found in there.items() if not found]:
        raise UserError(
            "trainer.offload_optimizer=true: DeepSpeed compiles its optimizer for the host when it is first "
            f"used, and there is no {', no '.join(missing)}; install ninja, g++ and python3-dev, have the "
            "environment's bin directory in PATH, or set trainer.offload_optimizer=false"
        )
