"""A nano model small enough that real training takes a second a stage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

# 1 layer of width 64, taught careless answers alone: it writes well-formed expressions often enough that rewards differ and
# gradients flow, which is all that the tests need of it.
MICRO = [
    "model.recipe.layers=1",
    "model.recipe.hidden_size=64",
    "model.recipe.intermediate_size=128",
    "model.recipe.steps=150",
    "model.recipe.batch_size=32",
    "model.recipe.learning_rate=5e-3",
    "model.recipe.careless_share=1.0",
    "task.train_size=400",
    "task.val_size=32",
    "task.test_size=32",
    "hparams.parameters.warmup_steps.default=3",
]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One cache of base checkpoints for all tests, and one thread a process, so that results are comparable bit by bit."""
    cache = tmp_path_factory.mktemp("cache")
    return {**os.environ, "LLMZERO_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(launcher: str, *overrides: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "launchers" / f"{launcher}.py"), *overrides]


@pytest.fixture(scope="session")
def launch(environment: dict[str, str]) -> Run:
    """Run a launcher to its end, as a user would; with `ok` its success is required."""

    def run(launcher: str, *overrides: str, ok: bool = True, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(launcher, *overrides), capture_output=True, text=True, env={**environment, **env}, cwd=cwd or REPOSITORY, timeout=900
        )
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def root(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro base model's checkpoint."""
    directory = tmp_path_factory.mktemp("root") / "stage"
    launch("train", *MICRO, "steps=0", f"stage_dir={directory}")
    return directory / "checkpoints/step_00000"


def read_lines(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_text().splitlines()]
