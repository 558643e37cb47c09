"""What a stage needs of main memory, in bytes."""

from __future__ import annotations

from math import ceil

from llmzero.planning.gpu import Parts
from llmzero.planning.memory import GIB, MemoryModel

HOST_PROCESS = 4 * GIB  # Python, torch, vLLM; an assumption


def host(stage: MemoryModel) -> dict[str, Parts]:
    """Return the bytes of main memory that all processes of a stage need together, when it starts, trains and
    writes a checkpoint.

    Rank 0 alone collects a checkpoint: the whole weights, moments and master weights.
    """
    whole, trained, size, n = stage.architecture.parameters, stage.trained, stage.size, stage.processes
    share = trained / stage.share(1)
    processes = {"processes": float(HOST_PROCESS * n)}
    offloaded: Parts = {}
    if stage.offloads:
        pinned = _pinned(4 * share) + (
            _pinned(4 * share) + _pinned(size * share) if stage.zero else 0
        )  # master, gradients, weights back
        offloaded["offloaded optimizer"] = n * (
            8 * share + pinned + size * share
        )  # moments; gradients as they accumulate
    if stage.zero == 3 and stage.trainer.offload_parameters:
        offloaded["offloaded weights"] = n * _pinned(size * whole / n)
    master = 4 if size == 2 else 0
    return {
        "start": processes | {"weights being loaded": float(n * size * whole)},
        "training": processes | offloaded,
        "checkpoint": processes
        | offloaded
        | {"checkpoint being written": float(size * whole + (8 + master) * trained)},
    }


def _pinned(size: float) -> float:
    """Return what torch takes for a page-locked block: the next power of two."""
    return float(2 ** ceil(size - 1).bit_length()) if size > 1 else size
