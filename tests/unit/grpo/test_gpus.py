"""What is said where a stage is to compute on a GPU and cannot. What CUDA would say is a stand-in here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmzero.core.errors import UserError
from llmzero.grpo import distributed, gpus
from llmzero.grpo.accelerator import deepspeed
from llmzero.grpo.gpus import check_gpus, choice_problem, driver_version
from llmzero.grpo.settings import TrainerSettings

OLD = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC 12.2.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (archive)\n"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that gives this machine a driver and PyTorch's word on what it can do with it."""

    def have(driver: str, devices: int = 1, refusal: str | None = None, said: bool = True) -> None:
        def init() -> None:
            if refusal:
                raise RuntimeError(refusal)

        (tmp_path / "version").write_text(driver)
        monkeypatch.setattr(gpus, "DRIVER", tmp_path / "version")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: said)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")

    return have


@without_gpu
def test_a_cpu_takes_no_stage_that_is_to_have_gpus() -> None:
    with pytest.raises(
        UserError, match=r"hardware.gpus_per_stage=8 .*: no GPU can be used: PyTorch .*"
    ) as it:
        check_gpus(TrainerSettings(gpus=8))
    assert "hardware=none" in str(it.value)
    check_gpus(TrainerSettings())
    assert choice_problem(TrainerSettings()) is None


@pytest.mark.parametrize("said", [True, False], ids=["by the driver's count", "by CUDA itself"])
def test_an_old_driver_is_named_with_the_one_that_is_needed(cuda: Any, said: bool) -> None:
    cuda(OLD, refusal=TOO_OLD, said=said)
    with pytest.raises(UserError) as caught:
        check_gpus(TrainerSettings(gpus=1))
    text = str(caught.value)
    for words in (TOO_OLD, "NVIDIA driver: 550.54.15", "built for CUDA 13.0", "driver 580 or newer"):
        assert words in text


def test_a_driver_that_counts_gpus_which_cuda_cannot_use_is_told_in_any_case(cuda: Any) -> None:
    cuda(OLD, refusal=TOO_OLD)
    with pytest.raises(UserError, match="too old"):
        check_gpus(TrainerSettings())


def test_no_visible_gpu_names_the_variable(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    cuda(OPEN, devices=0, said=False)
    with pytest.raises(UserError, match=r"no GPU is visible \(NVIDIA driver: 580.65.06; .*_DEVICES: 7\)"):
        check_gpus(TrainerSettings(gpus=1))


def test_a_gpu_that_can_be_used_is(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(OPEN)
    check_gpus(TrainerSettings(gpus=1))
    assert choice_problem(TrainerSettings(gpus=1)) is None
    said = choice_problem(TrainerSettings())
    assert said is not None
    assert "NVIDIA H100 80GB HBM3 in float32 at ZeRO 0" in said and "hardware=one_80gb" in said
    monkeypatch.setattr(gpus, "DRIVER", Path("/nowhere"))
    assert driver_version() is None


def test_what_an_offloaded_optimizer_is_compiled_with_is_missed_at_the_start(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda(OPEN)
    offloads = TrainerSettings(gpus=1, dtype="bfloat16", offload_optimizer=True)
    for name in ("ninja", "g++-99"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("CXX", "g++-99")
    monkeypatch.setattr(gpus.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no Python's headers; install ninja, g\+\+"):
        check_gpus(offloads)
    (tmp_path / "Python.h").touch()
    check_gpus(offloads)
    with pytest.raises(UserError, match=r"trainer.zero_stage is 0; set trainer.zero_stage=2"):
        check_gpus(TrainerSettings(gpus=1, offload_optimizer=True))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"there is no ninja, no the C\+\+ compiler g\+\+-99; install"):
        check_gpus(offloads)


@pytest.mark.parametrize(("local_rank", "visible", "device"), [(5, 1, 0), (5, 8, 5), (2, 2, 0)])
def test_a_process_that_sees_one_gpu_takes_that_whatever_its_local_rank(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, local_rank: int, visible: int, device: int
) -> None:
    cuda(OPEN, devices=visible)
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "_object_group", lambda _: None)
    for name, value in {"RANK": 9, "WORLD_SIZE": 16, "LOCAL_RANK": local_rank}.items():
        monkeypatch.setenv(name, str(value))
    for _ in range(2):  # of two stages that follow one another in a process
        assert distributed.join(60.0).rank == 9
        assert os.environ["LOCAL_RANK"] == str(device)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: False)  # before the process ends
    module, engine = deepspeed.runtime.engine, SimpleNamespace()
    accelerator = SimpleNamespace(set_device=taken.append, device_name=lambda number: f"cuda:{number}")
    monkeypatch.setattr(module, "get_accelerator", lambda: accelerator)
    monkeypatch.setattr(module, "dist", SimpleNamespace(get_world_size=lambda: 16, get_rank=lambda: 9))
    module.DeepSpeedEngine._configure_with_arguments(engine, None, None)
    module.DeepSpeedEngine._set_distributed_vars(engine, None)
    assert engine.device == torch.device("cuda", device)
    assert set(taken) == {device}
