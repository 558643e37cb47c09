"""Engines that outlive their stage. An engine that is worth it has a method `renew(weights)`."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Mapping
from typing import Any

import psutil
import torch

from llmzero.core.kept import Kept
from llmzero.rollout.base import Engine, Weights

GROWTH_BYTES = 2 * 2**30  # of the process, or of what it holds of a GPU, after which an engine is not kept
ORIGIN = ("_name_or_path", "transformers_version")  # of a model's configuration: not its architecture
log = logging.getLogger(__name__)


def made_for(rollout: Mapping[str, Any], weights: Weights, processes: int) -> str:
    """Return what an engine is made for: equal texts, equal engines but for their weights."""
    config = weights.model.config.to_dict()
    architecture = {key: value for key, value in config.items() if key not in ORIGIN}
    what = [dict(rollout), architecture, str(weights.model.dtype), processes]
    return json.dumps(what, sort_keys=True, default=str)


def take(kept: Kept, wanted: str) -> Engine | None:
    """Take the engine out that is kept; None where there is none, or one made for something else, which is
    closed.
    """
    if kept.made_for != wanted:
        close(kept)
    engine: Engine | None = kept.engine
    kept.engine = None
    return engine


def keep(kept: Kept, engine: Engine, wanted: str) -> None:
    """Keep an engine that is worth it, and have it release what it does not need meanwhile."""
    if hasattr(engine, "renew"):
        engine.release()
        kept.engine, kept.made_for = engine, wanted


def settle(kept: Kept) -> None:
    """Free what a stage has left, and give its engine up where the process has grown too much since the
    first stage with it.
    """
    free()
    if kept.engine is None:
        return
    host = psutil.Process().memory_info().rss
    gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    kept.host_bytes, kept.gpu_bytes = kept.host_bytes or host, kept.gpu_bytes or gpu
    grown = max(host - kept.host_bytes, gpu - kept.gpu_bytes)
    if grown > GROWTH_BYTES:
        log.warning("the process has grown by %d MiB: its engine is not kept", grown // 2**20)
        close(kept)
    else:
        kept.announce()


def close(kept: Kept | None) -> None:
    """Close an engine that is kept."""
    if kept is not None and kept.engine is not None:
        kept.engine.close()
        kept.engine, kept.host_bytes, kept.gpu_bytes = None, 0, 0
        free()


def free() -> None:
    """Free the memory of what nobody refers to any more; engines refer to themselves in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
