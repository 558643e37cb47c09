"""Which of the driver's environment a stage gets: all but secrets that it has no use for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmzero.core.stage import StageSpec

SECRET = re.compile(
    r"(^|_)(API_?KEY|APIKEY|KEY|PAT|TOKEN|SECRET|CREDENTIALS?)(_|$)|PASSWORD|PASSWD|PASSPHRASE", re.IGNORECASE
)
HUB = ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN")  # to load gated models and data sets
# What launchers tell a process of itself: a stage started from there takes it for its own rank or job.
LAUNCHERS = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_")
RANKS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "CROSS_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "LOCAL_SIZE", "CROSS_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
WHERE_SLURM_IS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")
PASS_ENV = (
    "environment variables that stages get although they are named like secrets (*_KEY, *_TOKEN, ...), e.g. "
    "[JUDGE_API_KEY] for a task of your own; those of the hub reach stages that load from it anyway"
)


def withheld(spec: StageSpec, passed: Collection[str], secrets: Collection[str] = ()) -> list[str]:
    """Return the variables that a stage's processes do not get.

    Args:
        spec: the stage; variables that a setting `*_env` of it names it gets.
        passed: others that it gets.
        secrets: variables that hold secrets whatever their names.
    """
    needed = {*passed, *_named(spec.config), *(HUB if _loads_from_hub(spec.config) else ())}
    return [name for name in secret_names(secrets) if name not in needed]


def secret_names(others: Collection[str] = ()) -> list[str]:
    """Return the variables of this process that are named like secrets, and `others`."""
    return [name for name in os.environ if name in others or SECRET.search(name)]


@contextmanager
def hidden(names: Iterable[str]) -> Iterator[None]:
    """Take variables out of this process's environment while it starts others."""
    values = {name: os.environ.pop(name) for name in list(names) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)


@contextmanager
def outside_a_job() -> Iterator[None]:
    """Hide what torchrun, SLURM, submitit or MPI have told this process, which may be one of theirs."""
    with hidden(_of_launchers()):
        yield


def of_stage(spec: StageSpec, passed: Collection[str], secrets: Collection[str] = ()) -> dict[str, str]:
    """Return this process's environment without what `withheld` returns, and without its own launcher's."""
    left = {*withheld(spec, passed, secrets), *_of_launchers()}
    return {name: value for name, value in os.environ.items() if name not in left}


def of_all_stages(secrets: Collection[str] = ()) -> dict[str, str]:
    """Return this process's environment without any secret, and without its own launcher's."""
    left = {*secret_names(secrets), *_of_launchers()}
    return {name: value for name, value in os.environ.items() if name not in left}


def _of_launchers() -> list[str]:
    own = [name for name in os.environ if name.startswith(LAUNCHERS) or name in RANKS]
    return [name for name in own if name not in WHERE_SLURM_IS]


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the variables that settings named `*_env` name, at any depth."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif isinstance(value, str) and str(key).endswith("_env"):
            yield value


def _loads_from_hub(config: Mapping[str, Any]) -> bool:
    """Return whether the stage's model or its task's data set is named as the hub names them."""
    model, task = (config.get(name) or {} for name in ("model", "task"))
    path = model.get("path")
    here = not isinstance(path, str) or Path(path).expanduser().exists()
    return not here or task.get("source", "generated") != "generated"
