"""What a checkpoint puts back into an optimizer lies where the optimizer itself would have put it.

There is no GPU here. Parameters on the meta device stand in for a GPU's: they are not on the CPU, and take
part in all bookkeeping, but not in arithmetic.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmzero.core.stage import OPTIMIZER_FILE
from llmzero.grpo.accelerator import deepspeed
from llmzero.grpo.checkpoint import _make_partitioned_state, restore_optimizer
from llmzero.grpo.distributed import World

STEPS = 7
ALONE = World(0, 1, None)


def described(state: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (each.device.type, each.dtype, each.shape) if isinstance(each, Tensor) else type(each)
        for key, each in state.items()
    }


def adamw(parameter: Tensor) -> torch.optim.AdamW:
    return torch.optim.AdamW([parameter], fused=True)


def own_state(parameter: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the state that torch's fused AdamW makes for itself at the first step."""
    monkeypatch.setattr(import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda _: None)
    copy = nn.Parameter(torch.empty_like(parameter))
    copy.grad = torch.empty_like(copy)
    optimizer = adamw(copy)
    optimizer._init_group(optimizer.param_groups[0], [], [], [], [], [], [])
    return described(optimizer.state[copy])


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("zero", [0, 1, 3])
def test_all_state_of_fused_adamw_lies_beside_its_parameter(
    zero: int, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = nn.Parameter(torch.ones(3, 2, device=device))
    optimizer = adamw(parameter)
    if zero == 0:
        engine = SimpleNamespace(zero_optimization_stage=lambda: 0, optimizer=optimizer)
        moments = {f"w.{key}": torch.full((3, 2), 0.5) for key in ("exp_avg", "exp_avg_sq")}
        save_file(moments, tmp_path / OPTIMIZER_FILE)
        policy: Any = SimpleNamespace(engine=engine, trained={"w": parameter})
        restore_optimizer(tmp_path, policy, ALONE, STEPS)
    else:
        held: Any = SimpleNamespace(optimizer=optimizer, _lazy_init_hp_params_optimizer_state=lambda: None)
        if zero == 3:
            held.fp32_partitioned_groups_flat = [parameter]
        _make_partitioned_state(held, STEPS)
    state = optimizer.state[parameter]
    assert described(state) == own_state(parameter, monkeypatch)
    if device == "cpu":
        assert float(state["step"]) == STEPS
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert float(state["step"]) == STEPS + 1


class Kernels:
    """DeepSpeed's compiled part, which notes the step counts that it is given."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def create_adam(self, *_: Any) -> None:
        pass

    def destroy_adam(self, *_: Any) -> None:
        pass

    def adam_update(self, _: int, step: Any, *__: Any) -> None:
        self.steps.append(step)


def test_an_optimizer_on_the_host_counts_on_in_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels()
    module = deepspeed.ops.adam.cpu_adam
    monkeypatch.setattr(module, "CPUAdamBuilder", lambda: SimpleNamespace(load=lambda: kernels))
    parameter = nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.ones_like(parameter)
    fresh, carried = module.DeepSpeedCPUAdam([parameter]), module.DeepSpeedCPUAdam([parameter])
    fresh.step()
    held: Any = SimpleNamespace(optimizer=carried, _lazy_init_hp_params_optimizer_state=lambda: None)
    _make_partitioned_state(held, STEPS)
    assert described(carried.state[parameter]) == described(fresh.state[parameter])
    carried.step()
    assert kernels.steps == [1, STEPS + 1] and type(kernels.steps[1]) is int
