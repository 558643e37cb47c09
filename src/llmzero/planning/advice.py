"""Whether a stage fits, what would help where it does not, and the most demanding stage that a search may ask
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from llmzero.core.hparams import Catalogue
from llmzero.planning.gpu import cached_rows, vllm_pool, worst_phase
from llmzero.planning.memory import GIB, MemoryModel
from llmzero.rollout.settings import TorchEngineSettings

# Largest of these need the most memory.
CAPACITIES = ("max_completion_length", "group_size", "prompts_per_step", "kl_coef", "entropy_coef")


def problems(stage: MemoryModel) -> list[str]:
    """Return why a stage cannot run on its GPUs; nothing where it can, or where the GPU is unknown."""
    if stage.gpu_bytes is None:
        return []
    texts = []
    name, needed = worst_phase(stage)
    if needed > stage.gpu_bytes:
        texts.append(f"{name} needs {needed / GIB:.1f} GiB of a GPU's {stage.gpu_bytes / GIB:.1f}")
    rows = cached_rows(stage)
    if rows is not None and rows < 1:
        assert stage.vllm is not None
        pool = f"rollout.gpu_memory_utilization={stage.vllm.gpu_memory_utilization}"
        texts.append(
            f"{pool}: {vllm_pool(stage) / GIB:.1f} GiB hold the weights but no completion "
            f"of {stage.sampled} tokens; raise it"
        )
    limit = stage.vllm.max_model_len if stage.vllm else None
    if limit is not None and stage.sampled > limit:
        texts.append(
            f"rollout.max_model_len={limit}: the longest prompt and completion are {stage.sampled} tokens; "
            "raise it"
        )
    return texts


def remedies(stage: MemoryModel) -> list[str]:
    """Return single changes that lower what the worst phase needs, the most helpful first, each with what is
    needed after it.
    """
    before = worst_phase(stage)[1]
    after = {
        text: worst_phase(changed)[1]
        for text, changed in _changes(stage)
        if (rows := cached_rows(changed)) is None or rows >= 1
    }
    helpful = sorted((needed, text) for text, needed in after.items() if needed < before - GIB / 4)
    limit = stage.gpu_bytes or 0
    return [
        f"{text}: {needed / GIB:.1f} GiB" + (", which fits" if needed <= limit else "")
        for needed, text in helpful
    ]


def _changes(stage: MemoryModel) -> Iterator[tuple[str, MemoryModel]]:
    """Yield what a user could change, one key at a time."""
    trainer, values = stage.trainer, stage.values
    of_trainer: dict[str, Any] = {
        "activation_checkpointing": True,
        "micro_batch_tokens": max(1, trainer.micro_batch_tokens // 2),
        "dtype": "bfloat16",
        "lora": replace(trainer.lora, rank=16),
        "validation_max_tokens": max(1, trainer.validation_limit(values) // 2),
    }
    for key, value in of_trainer.items():
        yield f"trainer.{key}={_as_override(value)}", replace(stage, trainer=replace(trainer, **{key: value}))
    for key, value in {"kl_coef": 0.0, "max_completion_length": values["max_completion_length"] // 2}.items():
        yield f"values.{key}={value}", replace(stage, values={**values, key: value})
    if stage.vllm:
        share = round(stage.vllm.gpu_memory_utilization * 0.75, 2)
        smaller = replace(stage.vllm, gpu_memory_utilization=share)
        yield f"rollout.gpu_memory_utilization={share}", replace(stage, rollout=smaller)
    if stage.plain_engine:
        rows = max(1, stage.plain_engine.max_rows // 4)
        yield f"rollout.max_rows={rows}", replace(stage, rollout=TorchEngineSettings(rows))
    yield (
        "trainer.offload_optimizer=true with trainer.zero_stage=2",
        replace(stage, trainer=replace(trainer, offload_optimizer=True, zero_stage=2)),
    )
    if stage.processes > 1:
        yield "trainer.zero_stage=3", replace(stage, trainer=replace(trainer, zero_stage=3))
    yield f"hardware.gpus_per_stage={2 * stage.processes}", replace(stage, processes=2 * stage.processes)


def _as_override(value: Any) -> str:
    """Return a value as a command line takes it."""
    if is_dataclass(value) and not isinstance(value, type):
        return "{" + ", ".join(f"{key}: {_as_override(item)}" for key, item in asdict(value).items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def worst_of(stage: MemoryModel, catalogue: Catalogue) -> MemoryModel:
    """Return the stage with hyperparameters within the catalogue's bounds that need the most memory; all
    others stay.
    """
    limits = {
        name: catalogue[name].choices or catalogue[name].bounds for name in CAPACITIES if name in catalogue
    }
    parent = "reference" in catalogue and "parent" in (catalogue["reference"].choices or ())
    values = {
        **stage.values,
        **{name: max(of) for name, of in limits.items()},
        **({"reference": "parent"} if parent else {}),
    }
    return replace(
        stage,
        values=values,
        shortest=int(min(limits.get("max_completion_length", [values["max_completion_length"]]))),
    )
