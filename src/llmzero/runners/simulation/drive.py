"""What a configuration amounts to for a simulated policy, relative to the practitioner's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmzero.core.hparams import HParams

# The practitioner's values of conf/hparams/grpo.yaml, for what a catalogue does not have, and for paths that
# do not begin at a base model.
REFERENCE: Mapping[str, Any] = {
    "max_completion_length": 1024,
    "group_size": 8,
    "prompts_per_step": 64,
    "learning_rate": 1e-6,
    "kl_coef": 0.001,
    "entropy_coef": 0.0,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "temperature": 1.0,
    "reference": "base",
    "epochs": 1,
    "minibatches": 1,
    "warmup_steps": 0,
    "rewarm": False,
    "lr_schedule": "constant",
    "optimizer_state": "carry",
    "max_grad_norm": 1.0,
}


@dataclass(frozen=True, slots=True)
class Drive:
    """A stage's hyperparameters as the equations use them.

    Attributes:
        rate: learning rate, `batch`: completions a step, `room`: length limit, `leash`: gradient norm limit;
            in multiples of the reference.
        updates: optimizer updates a step.
        width: mean of the two clip ranges.
        explore: from 0 to 1, how much entropy bonus, a temperature above 1 and a high upper clip bound keep
            alternatives alive.
        completions: a step; `limit`: of their length in tokens; `unit`: the reference's limit.
    """

    rate: float
    batch: float
    room: float
    leash: float
    group: float
    prompts: float
    epochs: float
    updates: float
    width: float
    clip_high: float
    explore: float
    temperature: float
    kl_coef: float
    entropy_coef: float
    warmup: float
    rewarm: bool
    schedule: str
    reset: bool
    to_parent: bool
    learning_rate: float
    completions: float
    limit: float
    unit: float


def drive_of(hparams: HParams, reference: Mapping[str, Any]) -> Drive:
    """Return what hyperparameters amount to.

    Those that the catalogue lacks, or that are not of the reference's type, take the reference's value.
    """
    base = {**REFERENCE, **of_reference(reference)}
    value = {**base, **of_reference(hparams)}
    completions = value["group_size"] * value["prompts_per_step"]
    return Drive(
        rate=value["learning_rate"] / base["learning_rate"],
        batch=completions / (base["group_size"] * base["prompts_per_step"]),
        room=value["max_completion_length"] / base["max_completion_length"],
        leash=value["max_grad_norm"] / base["max_grad_norm"],
        group=value["group_size"],
        prompts=value["prompts_per_step"],
        epochs=value["epochs"],
        updates=value["epochs"] * value["minibatches"],
        width=(value["clip_low"] + value["clip_high"]) / 2,
        clip_high=value["clip_high"],
        explore=_explore(value),
        temperature=value["temperature"],
        kl_coef=value["kl_coef"],
        entropy_coef=value["entropy_coef"],
        warmup=value["warmup_steps"],
        rewarm=bool(value["rewarm"]),
        schedule=value["lr_schedule"],
        reset=value["optimizer_state"] == "reset",
        to_parent=value["reference"] == "parent",
        learning_rate=value["learning_rate"],
        completions=completions,
        limit=value["max_completion_length"],
        unit=base["max_completion_length"],
    )


def of_reference(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a configuration's values that `REFERENCE` has, as a number where it has a number."""
    kinds = {
        name: int | float if isinstance(value, int | float) else str for name, value in REFERENCE.items()
    }
    return {name: values[name] for name, kind in kinds.items() if isinstance(values.get(name), kind)}


def _explore(value: Mapping[str, Any]) -> float:
    bonus = (
        value["entropy_coef"] / 0.01
        + max(0.0, value["temperature"] - 1) / 0.3
        + max(0.0, value["clip_high"] - 0.2) / 0.3
    )
    return 1 - math.exp(-float(bonus))
