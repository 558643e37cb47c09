#!/usr/bin/env python
"""Say what a stage will need of GPU and host memory, part by part and phase by phase, before anything is
loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table
from rich.text import Text

from llmzero.cli import launch
from llmzero.config import PlanConfig
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.core.parts import make
from llmzero.core.settings import read
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible_line
from llmzero.grpo.settings import (
    AlgorithmSettings,
    HardwareSettings,
    HfModelSettings,
    NanoModelSettings,
    TrainerSettings,
)
from llmzero.planning.advice import problems, remedies, worst_of
from llmzero.planning.architecture import Architecture
from llmzero.planning.gpu import PARTS, cached_rows, phases, total, worst_phase
from llmzero.planning.host import host
from llmzero.planning.memory import GIB, MemoryModel
from llmzero.rollout.settings import TorchEngineSettings, VllmEngineSettings

S = TypeVar("S")

COLUMNS = ("as configured", "worst in bounds")
SHOWN = ("max_completion_length", "group_size", "kl_coef", "reference")


def run(config: PlanConfig) -> None:
    """Print the plan; exit status 1 where something does not fit."""
    stages = dict(zip(COLUMNS, stages_of(config), strict=True))
    limit = hardware_of(config).host_memory_gib
    reasons = {name: problems(stage) + host_problems(stage, limit) for name, stage in stages.items()}
    if config.json:
        print(json.dumps({name: report(stage, reasons[name]) for name, stage in stages.items()}, indent=2))
    else:
        show(config, stages, reasons)
    if any(reasons.values()):
        sys.exit(1)


def stages_of(config: PlanConfig) -> tuple[MemoryModel, MemoryModel]:
    """Return the stage as it is configured, and the most demanding one that a search may ask for.

    Raises:
        UserError: the configuration does not say enough.
    """
    catalogue = config.catalogue
    hardware = hardware_of(config)
    configured = MemoryModel(
        architecture=architecture_of(config),
        trainer=read(TrainerSettings, config.stage_groups["trainer"], "trainer"),
        rollout=engine_of(config.rollout),
        values=catalogue.complete(config.values or {}),
        corrected=read(AlgorithmSettings, config.algorithm, "algorithm").correction != "none",
        processes=max(1, hardware.gpus_per_stage),
        prompt_tokens=config.prompt_tokens,
        gpu_bytes=None if hardware.gpu_memory_gib is None else hardware.gpu_memory_gib * GIB,
    )
    return configured, worst_of(configured, catalogue)


def architecture_of(config: PlanConfig) -> Architecture:
    """Return the model's architecture: as configured, of the nano recipe, or of a directory's config.json.

    Raises:
        UserError: none of them is there.
    """
    if "recipe" in config.model:
        recipe = own_settings(NanoModelSettings, config.model, "model").recipe
        characters = len(set(make(config.task, "task").alphabet))
        return Architecture.from_config(asdict(recipe.architecture(characters)))
    model = own_settings(HfModelSettings, {"path": "", **config.model}, "model")
    if model.architecture:
        return Architecture.from_config(asdict(model.architecture))
    file = Path(model.path).expanduser() / "config.json"
    described = read_json(file)
    if described is None:
        raise UserError(
            f"model.architecture: not given, and {file} is not there; choose a model that conf/model "
            "describes, or give a directory"
        )
    return Architecture.from_config(described, f"{file}:")


def engine_of(rollout: Mapping[str, Any]) -> TorchEngineSettings | VllmEngineSettings | None:
    """Return the settings of the engine that samples on the GPUs that train, known by a key of its own; None
    samples elsewhere.
    """
    if "gpu_memory_utilization" in rollout:
        return own_settings(VllmEngineSettings, rollout, "rollout")
    return own_settings(TorchEngineSettings, rollout, "rollout") if "max_rows" in rollout else None


def hardware_of(config: PlanConfig) -> HardwareSettings:
    """Return the machine's settings."""
    return read(HardwareSettings, config.hardware, "hardware")


def own_settings(kind: type[S], group: Mapping[str, Any], where: str) -> S:
    """Return a group's settings as ours; a part from outside the repository may have other keys beside
    them.
    """
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return read(kind, {key: value for key, value in group.items() if key in names}, where)


def host_problems(stage: MemoryModel, limit_gib: float | None) -> list[str]:
    """Return what is wrong with the main memory a stage needs."""
    moment, needed = max(
        ((name, total(parts)) for name, parts in host(stage).items()), key=lambda pair: pair[1]
    )
    if limit_gib is None or needed <= limit_gib * GIB:
        return []
    remedy = (
        "spread the optimizer over more GPUs instead of trainer.offload_optimizer, "
        "or train an adapter (trainer.lora)"
    )
    return [
        f"host memory ({moment}): {needed / GIB:.1f} GiB of hardware.host_memory_gib={limit_gib:g}; {remedy}"
    ]


def report(stage: MemoryModel, reasons: list[str]) -> dict[str, Any]:
    """Return one column as plain data, in GiB."""
    name, needed = worst_phase(stage)
    return {
        "parameters": stage.architecture.parameters,
        "trained_parameters": stage.trained,
        "values": stage.values,
        "phases_gib": {
            phase: {part: size / GIB for part, size in parts.items()}
            for phase, parts in phases(stage).items()
        },
        "host_gib": {
            moment: {part: size / GIB for part, size in parts.items()}
            for moment, parts in host(stage).items()
        },
        "worst_phase": name,
        "needed_gib": needed / GIB,
        "gpu_gib": None if stage.gpu_bytes is None else stage.gpu_bytes / GIB,
        "completions_in_cache": cached_rows(stage),
        "fits": not reasons,
        "problems": reasons,
        "remedies": remedies(stage) if problems(stage) else [],
    }


def show(config: PlanConfig, stages: Mapping[str, MemoryModel], reasons: Mapping[str, list[str]]) -> None:
    """Print a table for each column, then what does not fit and what would help."""
    console = Terminal(width=None if sys.stdout.isatty() else 150, soft_wrap=False)
    for name, stage in stages.items():
        asked = ", ".join(f"{key}={stage.values[key]}" for key in SHOWN)
        about = visible_line(f": GiB on each GPU; {asked}")
        console.print(Text.assemble((name, "bold"), about), soft_wrap=True)
        console.print(gpu_table(stage))
        console.print(summary(stage, hardware_of(config)))
        for problem in reasons[name]:
            console.print(
                Text.assemble(("does not fit", "bold red"), f" {visible_line(problem)}"), soft_wrap=True
            )
        for remedy in remedies(stage) if problems(stage) else []:
            console.print(f"  would help: {visible_line(remedy)}", soft_wrap=True)
        console.print()


def gpu_table(stage: MemoryModel) -> Table:
    """Return the parts of a GPU's memory as rows, the phases as columns."""
    by_phase = phases(stage)
    worst, _ = worst_phase(stage)
    table = Table("part")
    for phase in by_phase:
        table.add_column(phase, justify="right", style="bold" if phase == worst else None)
    for part in PARTS:
        if any(parts.get(part) for parts in by_phase.values()):
            table.add_row(
                part, *(f"{parts[part] / GIB:.2f}" if parts.get(part) else "" for parts in by_phase.values())
            )
    table.add_section()
    table.add_row("all", *(f"{total(parts) / GIB:.1f}" for parts in by_phase.values()))
    return table


def summary(stage: MemoryModel, hardware: HardwareSettings) -> str:
    """Return what the table does not say."""
    name, needed = worst_phase(stage)
    of = (
        ""
        if stage.gpu_bytes is None
        else f" of {stage.gpu_bytes / GIB:.1f} ({100 * needed / stage.gpu_bytes:.0f} %)"
    )
    moment, main = max(
        ((moment, total(parts)) for moment, parts in host(stage).items()), key=lambda pair: pair[1]
    )
    lines = [
        f"worst phase: {name}, {needed / GIB:.1f} GiB{of}; host memory: {main / GIB:.1f} GiB ({moment})",
        f"{stage.architecture.parameters:,} parameters, {stage.trained:,} trained, "
        f"by {stage.processes} process(es) a stage under ZeRO {stage.zero}",
    ]
    rows = cached_rows(stage)
    if rows is not None:
        lines.append(f"vLLM's cache holds {rows:.0f} completions of {stage.sampled} tokens side by side")
    if (side_by_side := hardware.gpus // stage.processes) > 1:
        lines.append(
            f"{side_by_side} stages run side by side on {hardware.gpus} GPUs: search.workers={side_by_side}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    launch("plan", PlanConfig, run)
