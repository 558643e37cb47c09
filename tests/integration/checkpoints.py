"""What a complete checkpoint has to hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def read_whole(directory: Path) -> dict[str, Any]:
    """Read a complete checkpoint and check its tensors and position; return the position."""
    assert (directory / "COMPLETE").exists()
    json.loads((directory / "config.json").read_text())
    state = json.loads((directory / "trainer.json").read_text())
    stage = directory.parent.parent  # paths are relative to it
    shapes = {name: tensor.shape for name, tensor in tensors(directory / "model.safetensors").items()}
    base = {
        name: tensor.shape
        for name, tensor in tensors(stage / state["position"]["base"] / "model.safetensors").items()
    }
    assert shapes == base
    if state["position"]["optimizer_steps"]:
        moments = {
            name: tensor.shape for name, tensor in tensors(directory / "optimizer.safetensors").items()
        }
        assert (
            moments.items()
            >= {
                f"{name}.{key}": shape for name, shape in shapes.items() for key in ("exp_avg", "exp_avg_sq")
            }.items()
        )
    step = int(directory.name.removeprefix("step_"))
    parent = state["config"]["resume_from"]
    before = (
        json.loads((stage / parent / "trainer.json").read_text())["position"]["global_step"] if parent else 0
    )
    assert state["position"]["global_step"] == before + step
    return state["position"]


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a file; they have to be finite."""
    with safe_open(str(file), framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dictionary
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    return tensors
