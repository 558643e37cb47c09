"""Checkpoints: weights, optimizer moments, random states and position, written whole or not at all, read without pickle."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llmzero import __version__
from llmzero.rollout.base import Engine
from llmzero.stage import commit_checkpoint

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Position:
    """Where on its path a policy stands.

    Attributes:
        global_step: GRPO steps since the base model.
        prompts_seen: the data cursor.
        optimizer_steps: updates behind the optimizer's moments.
        data_seed: seed of the data order, kept along the path.
        reference: directory of the reference policy.
        tokens: completion tokens trained on since the base model.
    """

    global_step: int
    prompts_seen: int
    optimizer_steps: int
    data_seed: int
    reference: str
    tokens: int


def save(directory: Path, engine: Any, tokenizer: PreTrainedTokenizerBase, sampler: Engine, position: Position, config: dict[str, Any]) -> None:
    """Write a checkpoint that is complete once its directory holds `COMPLETE`.

    It is an ordinary Hugging Face model directory with three files more: `optimizer.safetensors`, `random.safetensors` and
    `trainer.json`.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = directory.with_name(f".writing-{directory.name}")
    shutil.rmtree(building, ignore_errors=True)  # what a killed attempt may have left
    building.mkdir()
    try:
        engine.module.save_pretrained(building)
        tokenizer.save_pretrained(building)
        if position.optimizer_steps:
            save_file(_moments(engine), building / "optimizer.safetensors")
        save_file(_random_states(sampler), building / "random.safetensors")
        state = {"version": __version__, "position": asdict(position), "config": config}
        (building / "trainer.json").write_text(json.dumps(state, indent=2))
        commit_checkpoint(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def position_of(directory: Path) -> Position:
    """Return the position a checkpoint was written at."""
    return Position(**json.loads((directory / "trainer.json").read_text())["position"])


def restore(directory: Path, engine: Any, sampler: Engine) -> None:
    """Restore optimizer moments and random states; learning rate and all other settings stay those of the new stage."""
    position = position_of(directory)
    states = load_file(directory / "random.safetensors")
    torch.set_rng_state(states["torch"])
    sampler.set_state(states["sampler"].numpy().tobytes())
    if position.optimizer_steps:
        _restore_moments(engine, load_file(directory / "optimizer.safetensors"), position.optimizer_steps)


def _random_states(sampler: Engine) -> dict[str, Tensor]:
    sampling = torch.frombuffer(bytearray(sampler.get_state()), dtype=torch.uint8)
    return {"torch": torch.get_rng_state(), "sampler": sampling}


def _moments(engine: Any) -> dict[str, Tensor]:
    """Return the optimizer's moments by parameter name, whole tensors in float32, for any ZeRO stage."""
    return {
        f"{name}.{key}": _moment(engine, parameter, key).detach().cpu().contiguous()
        for name, parameter in engine.module.named_parameters()
        for key in MOMENTS
    }


def _moment(engine: Any, parameter: torch.nn.Parameter, key: str) -> Tensor:
    state = engine.optimizer.state[parameter] if engine.zero_optimization_stage() == 0 else None
    moment: Tensor = state[key] if state else safe_get_full_optimizer_state(parameter, key)
    return moment


def _restore_moments(engine: Any, moments: dict[str, Tensor], steps: int) -> None:
    if engine.zero_optimization_stage() > 0:
        _make_partitioned_state(engine.optimizer, steps)
    for name, parameter in engine.module.named_parameters():
        for key in MOMENTS:
            value = moments[f"{name}.{key}"]
            if engine.zero_optimization_stage() > 0:
                safe_set_full_optimizer_state(parameter, value, key)
            else:
                state = engine.optimizer.state[parameter]
                state[key] = value.to(parameter.device)
                state["step"] = torch.tensor(float(steps))


def _make_partitioned_state(zero_optimizer: Any, steps: int) -> None:
    """Create what ZeRO 1 and 2 create at the first step only, so that moments can be written into it before."""
    inner = zero_optimizer.optimizer
    for group in inner.param_groups:
        for partition in group["params"]:
            fresh = {key: torch.zeros_like(partition) for key in MOMENTS}
            inner.state[partition] = {"step": torch.tensor(float(steps)), **fresh}
    zero_optimizer._lazy_init_hp_params_optimizer_state()


def remove_all(directories: set[Path]) -> None:
    """Delete checkpoints; each loses its `COMPLETE` first, so that a half-deleted one cannot be mistaken for whole."""
    for directory in directories:
        (directory / "COMPLETE").unlink()
        shutil.rmtree(directory)
