"""The wall that simulated stages run into: what does not fit fails in the words of a GPU's allocator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmzero.core.hparams import HParams
from llmzero.runners.simulation.drive import Drive
from llmzero.runners.simulation.landscape import Landscape

DRIVERS = {
    "generation": ("max_completion_length", "group_size", "prompts_per_step"),
    "update": ("max_completion_length", "kl_coef"),
}
WITHOUT_REFERENCE = (
    0.75  # of a completion's memory in an update, where kl_coef is 0 and no reference model is held
)
FULL_GIB = 8.0  # asked for at the wall


@dataclass(frozen=True)
class OutOfMemory:
    """Why a stage fails in its first step: the phase, the error and the cause, as a trainer reports them."""

    phase: str
    error: str
    cause: dict[str, Any]


def out_of_memory(land: Landscape, drive: Drive, hparams: HParams) -> OutOfMemory | None:
    """Return how a stage fails whose completions do not fit: a whole step in sampling, one in an update."""
    held = 1.0 if drive.kl_coef > 0 else WITHOUT_REFERENCE
    excess = {
        "generation": drive.batch * drive.room / land.memory,
        "update": drive.room * held / land.sequence,
    }
    phase = next((phase for phase, share in excess.items() if share > 1), None)
    if phase is None:
        return None
    asked = f"{FULL_GIB * excess[phase]:.2f}"
    values = {name: hparams[name] for name in DRIVERS[phase] if name in hparams}
    cause = {
        "kind": "out_of_memory",
        "phase": phase,
        "requested_bytes": round(float(asked) * 2**30),
        "hparams": values,
    }
    return OutOfMemory(phase, f"OutOfMemoryError: CUDA out of memory. Tried to allocate {asked} GiB.", cause)
