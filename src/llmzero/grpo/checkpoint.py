"""Checkpoints: weights, optimizer moments and position, written whole or not at all, read without pickle.

Tensors are stored whole under their parameter's name, so a checkpoint may be resumed at any world size and
ZeRO stage.
"""

from __future__ import annotations

import functools
import logging
import shutil
import subprocess
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmzero import __version__
from llmzero.core.compute import summed
from llmzero.core.errors import UserError
from llmzero.core.files import no_room, read_json, reading, write_json
from llmzero.core.locations import located, stored
from llmzero.core.model_files import check_weights
from llmzero.core.shapes import NUMBER, NUMBER_OR_NOTHING, Shape, require
from llmzero.core.stage import OPTIMIZER_FILE, commit_checkpoint
from llmzero.grpo.accelerator import deepspeed
from llmzero.grpo.distributed import World
from llmzero.grpo.failures import is_disk_full
from llmzero.grpo.policy import ADAPTER, Policy

log = logging.getLogger(__name__)

MOMENTS = ("exp_avg", "exp_avg_sq")
FLOAT_BYTES = 4  # of a moment
MASTER = "master"  # float32 weights behind bfloat16 ones
UNCOUNTED = {"flops": None, "stage_flops": None}  # in checkpoints of earlier versions


@dataclass(frozen=True)
class Position:
    """Where on its path a policy stands. With the seed it decides every random number that is still to be
    drawn.

    Attributes:
        global_step: GRPO steps since the base model.
        prompts_seen: the data cursor.
        optimizer_steps: updates behind the optimizer's moments.
        sampler_calls: the sampler's seed counter.
        data_seed: seed of data order, sampling and minibatches, kept along the path.
        base: directory of the base model, the reference policy unless it is the parent.
        tokens: completion tokens trained on since the base model.
        gpu_seconds: device seconds spent since the base model.
        flops: of all steps since the base model.
        stage_flops: of those of the stage that wrote the checkpoint. Both are None, unknown, in checkpoints
            of earlier versions, `flops` in those that follow one too.
    """

    global_step: int
    prompts_seen: int
    optimizer_steps: int
    sampler_calls: int
    data_seed: int
    base: str
    tokens: int
    gpu_seconds: float
    flops: float | None = 0.0
    stage_flops: float | None = 0.0

    def after(self, step_flops: float) -> Position:
        """Return the position with the compute of one more step."""
        flops, stage_flops = (summed((before, step_flops)) for before in (self.flops, self.stage_flops))
        return replace(self, flops=flops, stage_flops=stage_flops)


def save(directory: Path, policy: Policy, world: World, position: Position, config: dict[str, Any]) -> None:
    """Write a checkpoint that is complete once its directory holds `COMPLETE`; called by every process,
    written by rank 0.

    It is an ordinary Hugging Face model directory with two files more: `optimizer.safetensors` and
    `trainer.json`. With LoRA the weights are merged, and the adapter lies beside them.
    """
    weights = _collect(policy.tensors(), world)
    moments = _collect(_moments(policy), world) if position.optimizer_steps else {}
    adapter = _collect(_adapter(policy), world)
    if world.leads:
        directory.parent.mkdir(parents=True, exist_ok=True)
        building = directory.with_name(f".writing-{directory.name}")
        shutil.rmtree(building, ignore_errors=True)  # what a killed attempt may have left
        building.mkdir()
        try:
            _write(building, policy, weights, moments, adapter)
            state = {
                "version": __version__,
                "commit": commit(),
                "world_size": world.size,
                "position": asdict(position) | {"base": _stored_base(position.base, directory)},
                "config": config,
            }
            write_json(building / "trainer.json", state)
            commit_checkpoint(building, directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    world.from_leader(None)


def rehearse(directory: Path, policy: Policy, world: World) -> None:
    """Write and remove all of a checkpoint but its tensors, so that what would keep it from being written is
    known before anything is trained; called by every process, written by rank 0.

    Args:
        directory: that of a checkpoint to come.
        policy: what would be saved.
        world: the stage's processes.

    Raises:
        UserError: the model's configuration or tokenizer cannot be saved, or not there.
        OSError: the disk has no room for it.
    """
    adapter = _collect(_adapter(policy), world)
    if world.leads:
        building = directory.with_name(".writing-rehearsal")
        try:
            building.mkdir(parents=True, exist_ok=True)
            _write(building, policy, {}, {}, adapter)
            _check_room(building, policy)
        except Exception as error:  # whatever transformers makes of what the model's files say
            if is_disk_full(error):
                raise
            raise UserError(
                f"{directory.parent}: no checkpoint of {policy.directory} can be written: "
                f"{' '.join(str(error).split())[:400]}; mend that, or choose another directory or model"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    world.from_leader(None)


def _check_room(directory: Path, policy: Policy) -> None:
    sizes = {True: 0, False: 0}
    for parameter in policy.model.parameters():
        sizes[parameter.requires_grad] += getattr(parameter, "ds_numel", parameter.numel())
    needed = checkpoint_bytes(sum(sizes.values()), sizes[True], policy.model.dtype.itemsize)
    free = shutil.disk_usage(directory).free
    if needed > free:
        log.warning("%s: a checkpoint needs %d bytes, and %d are free", directory.parent, needed, free)
        raise no_room(directory.parent)


def checkpoint_bytes(weights: int, trained: int, item: int) -> int:
    """Return the size of a checkpoint of so many weights of `item` bytes, with the optimizer's state of those
    that are trained.
    """
    return weights * item + trained * FLOAT_BYTES * (len(MOMENTS) + (item != FLOAT_BYTES))


@functools.cache
def commit() -> str | None:
    """Return the commit of the code that runs, with `-dirty` where it was changed since; None outside of a
    checkout.
    """
    git, here = shutil.which("git"), Path(__file__)
    if (
        git is None
        or subprocess.run(
            [git, "ls-files", "--error-unmatch", here.name], cwd=here.parent, capture_output=True
        ).returncode
    ):
        return None
    describe = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(describe, cwd=here.parent, capture_output=True, text=True).stdout.strip() or None


def _write(
    directory: Path,
    policy: Policy,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    adapter: dict[str, Tensor],
) -> None:
    model = policy.model.get_base_model() if adapter else policy.model
    model.save_pretrained(directory, state_dict=weights)
    policy.tokenizer.save_pretrained(directory)
    if moments:
        save_file(moments, directory / OPTIMIZER_FILE)
    if adapter:
        policy.model.save_pretrained(directory / ADAPTER, state_dict=adapter)


def _collect(tensors: Any, world: World) -> dict[str, Tensor]:
    """Run through named tensors, a collective call where they are partitioned, and keep copies on rank 0
    alone.
    """
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in tensors
        if tensor is not None and world.leads
    }


def _adapter(policy: Policy) -> Any:
    for name, parameter in policy.trained.items():
        if "lora_" in name:
            with policy.whole([parameter]):
                yield name.replace(".default", ""), parameter.data


def _moments(policy: Policy) -> Any:
    """Yield the optimizer's moments, and the float32 master weights where there are any, for any ZeRO
    stage.
    """
    for name, parameter in policy.trained.items():
        for key in MOMENTS:
            if policy.engine.zero_optimization_stage() == 0:
                yield f"{name}.{key}", policy.engine.optimizer.state[parameter][key]
            else:
                yield f"{name}.{key}", deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
        if parameter.dtype != torch.float32:
            yield f"{name}.{MASTER}", deepspeed.utils.safe_get_full_fp32_param(parameter)


def _stored_base(base: str, checkpoint: Path) -> str | None:
    """Return how a checkpoint names its base model: by its path from the stage on, or by its hub id."""
    is_path = Path(base).is_absolute() or Path(base).exists()
    return stored(Path(base).absolute(), checkpoint.parent.parent) if is_path else base


def position_of(directory: Path) -> Position:
    """Return the position a checkpoint was written at.

    Raises:
        DamagedFileError: its `trainer.json` is missing or cannot be read.
    """
    file = directory / "trainer.json"
    remedy = "restore it, or resume from another checkpoint"
    state = read_json(file, remedy)
    with reading(file, remedy):
        position = Position(**{**UNCOUNTED, **(state or {})["position"]})
        numbers: dict[str, Shape] = dict.fromkeys((each.name for each in fields(Position)), int)
        counted = dict.fromkeys(UNCOUNTED, NUMBER_OR_NOTHING)
        require(vars(position), {**numbers, **counted, "base": str, "gpu_seconds": NUMBER})
        base = located(position.base, directory.parent.parent)
        return replace(position, base=str(base)) if base and base.exists() else position


def gpu_seconds_behind(directory: Path | None) -> float:
    """Return the device seconds spent on the path up to a checkpoint; 0 for a base model."""
    if directory is None or not (directory / "trainer.json").exists():
        return 0.0
    return position_of(directory).gpu_seconds


def holds_optimizer(directory: Path, policy: Policy) -> bool:
    """Return whether a checkpoint has the moments of everything that is trained: not where they were dropped,
    or an adapter was trained.

    Raises:
        DamagedFileError: the file with them is truncated, or none.
    """
    file = directory / OPTIMIZER_FILE
    if not file.exists():
        return False
    check_weights(file)
    with safe_open(str(file), framework="pt") as stored:
        return {f"{name}.{key}" for name in policy.trained for key in MOMENTS} <= set(stored.keys())


def restore_optimizer(directory: Path, policy: Policy, world: World, steps: int) -> None:
    """Restore moments and master weights; learning rate and all other settings stay those of the new
    stage.
    """
    engine = policy.engine
    if engine.zero_optimization_stage() > 0:
        _make_partitioned_state(engine.optimizer, steps)
    with safe_open(str(directory / OPTIMIZER_FILE), framework="pt") as file:
        names = set(file.keys())
        for name, parameter in policy.trained.items():
            for key in (*MOMENTS, MASTER):
                if f"{name}.{key}" in names:
                    _set(engine, world, parameter, key, file.get_tensor(f"{name}.{key}"))
            if engine.zero_optimization_stage() == 0:
                engine.optimizer.state[parameter]["step"] = _step_count(engine.optimizer, parameter, steps)


def _set(engine: Any, world: World, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    """Put a whole tensor where this ZeRO stage keeps its part of it."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        if key != MASTER:
            engine.optimizer.state[parameter][key] = value.to(parameter.device)
        return
    if stage == 3:
        part = _partition(value, parameter, world)
        if key == MASTER:
            deepspeed.utils.safe_set_local_fp32_param(parameter, part)
        else:
            deepspeed.utils.safe_set_local_optimizer_state(parameter, part, key)
    elif key == MASTER:
        deepspeed.utils.safe_set_full_fp32_param(parameter, value)
    else:
        deepspeed.utils.safe_set_full_optimizer_state(parameter, value, key)


def _step_count(optimizer: torch.optim.Optimizer, parameter: Tensor, steps: int) -> Tensor | int:
    """Return a step count as the optimizer itself keeps it beside a parameter's moments: torch's fused AdamW
    where they are, as it refuses another device; DeepSpeed's, for the host, as a number.
    """
    if "fused" not in optimizer.defaults:
        return steps
    return torch.tensor(float(steps), device=parameter.device)


def _partition(value: Tensor, parameter: Any, world: World) -> Tensor:
    """Return this process's part of a tensor, padded with zeros as ZeRO 3 pads."""
    size = parameter.ds_tensor.ds_numel
    flat = torch.zeros(size * world.size)
    flat[: value.numel()] = value.flatten()
    return flat[size * world.rank : size * (world.rank + 1)]


def _make_partitioned_state(zero_optimizer: Any, steps: int) -> None:
    """Create what ZeRO creates at the first step only, so that moments can be written into it before."""
    inner = zero_optimizer.optimizer
    partitioned = hasattr(zero_optimizer, "fp32_partitioned_groups_flat")
    flat = (
        zero_optimizer.fp32_partitioned_groups_flat
        if partitioned
        else [p for group in inner.param_groups for p in group["params"]]
    )
    for part in flat:
        fresh = {key: torch.zeros_like(part) for key in MOMENTS}
        inner.state[part] = {"step": _step_count(inner, part, steps), **fresh}
    if not partitioned:
        zero_optimizer._lazy_init_hp_params_optimizer_state()
