"""A nano model small enough that real training takes a second a stage, and a browser."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from selenium import webdriver

from llmzero.cli import BAD_INPUT, composed, explain
from llmzero.config import LAUNCHERS
from llmzero.core.errors import UserError
from tests.conftest import REPOSITORY, made_once

# 1 layer of width 64, taught careless answers alone: it writes well-formed expressions often enough that
# rewards differ and gradients flow, which is all that the tests need of it.
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
FEW = {
    "prompts_per_step": 8,
    "group_size": 4,
    "learning_rate": 1e-3,
    "minibatches": 2,
    "max_completion_length": 12,
}
Run = Callable[..., subprocess.CompletedProcess[str]]
Stages = Callable[..., None]


@pytest.fixture(scope="session")
def environment(shared: Path) -> dict[str, str]:
    """Environment of all processes that tests start: this repository's code, and one cache of base models."""
    path = [str(REPOSITORY / "src"), str(REPOSITORY)]
    return {
        **os.environ,
        "LLMZERO_CACHE": str(shared / "cache"),
        "PYTHONPATH": os.pathsep.join(path),
        "COLUMNS": "200",
    }


def command(launcher: str, *overrides: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "launchers" / f"{launcher}.py"), *overrides]


@pytest.fixture(scope="session")
def launch(environment: dict[str, str]) -> Run:
    """Run a launcher to its end, as a user would; with `ok` its success is required."""

    def run(
        launcher: str, *overrides: str, ok: bool = True, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        if "PYTHONPATH" in env:
            env["PYTHONPATH"] += os.pathsep + environment["PYTHONPATH"]
        done = subprocess.run(
            command(launcher, *overrides),
            capture_output=True,
            text=True,
            env={**environment, **env},
            cwd=cwd or REPOSITORY,
            timeout=900,
        )
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def run_here(environment: dict[str, str]) -> Run:
    """Do in this process what a launcher does in its own, and return the same; that spares its start."""

    def run(launcher: str, *overrides: str, ok: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        if overrides[0] == "--config-dir":
            overrides = (f"hydra.searchpath=[file://{overrides[1]}]", *overrides[2:])
        code, out, err = 0, io.StringIO(), io.StringIO()
        with patch.dict(os.environ, {**environment, **env}), redirect_stdout(out), redirect_stderr(err):
            try:
                config: Any = composed(launcher, LAUNCHERS[launcher], overrides)
                import_module(f"launchers.{launcher}").run(config)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                code = BAD_INPUT
                print(f"error: {explain(error)}", file=err)
        done = subprocess.CompletedProcess([launcher, *overrides], code, out.getvalue(), err.getvalue())
        assert not ok or code == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def root(run_here: Run, shared: Path) -> Path:
    """The micro base model's checkpoint."""
    stage = made_once(
        shared / "root", lambda stage: run_here("train", *MICRO, "steps=0", f"stage_dir={stage}")
    )
    return stage / "checkpoints/step_00000"


@pytest.fixture(scope="session")
def spec(run_here: Run, root: Path, shared: Path) -> dict[str, Any]:
    """The `stage.json` of a stage that begins at the micro base model, to be varied."""

    def make(stage: Path) -> None:
        run_here("train", *MICRO, "steps=0", f"resume_from={root}", f"stage_dir={stage}")

    stage = made_once(shared / "spec", make)
    stored: dict[str, Any] = json.loads((stage / "stage.json").read_text())
    stored["hparams"] |= FEW
    stored["trainer"] |= {"validation_every": 100, "micro_batch_tokens": 400}
    return stored


@pytest.fixture(scope="session")
def run_stages(environment: dict[str, str], spec: dict[str, Any]) -> Stages:
    """Run stages one after another in the same processes, given by directory and changes of `spec`."""

    def run(wanted: dict[Path, dict[str, Any]], size: int = 1) -> None:
        for directory, changes in wanted.items():
            write_stage(directory, spec, changes)
        launcher = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"] if size > 1 else []
        )
        arguments = [sys.executable, *launcher, "tests/integration/run_stages.py", *map(str, wanted)]
        done = subprocess.run(
            arguments, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=900
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]

    return run


def write_stage(directory: Path, spec: dict[str, Any], changes: dict[str, Any]) -> None:
    """Write a stage's `stage.json`; sections are changed key by key."""
    nested = {
        key: {**spec[key], **value} if isinstance(value, dict) else value for key, value in changes.items()
    }
    directory.mkdir(parents=True)
    (directory / "stage.json").write_text(json.dumps({**spec, **nested}))


def last_checkpoint(stage: Path) -> Path:
    return stage / json.loads((stage / "result.json").read_text())["last_checkpoint"]


def same_bits(a: Path, b: Path) -> bool:
    """Whether two checkpoints have the same weights and the same optimizer state."""
    return all(
        (a / name).read_bytes() == (b / name).read_bytes()
        for name in ("model.safetensors", "optimizer.safetensors")
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A real, headless Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must look at the report in a browser: install chromium and chromedriver")
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic")
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--no-first-run",
        "--window-size=1280,1000",
        *(f"--disable-{name}" for name in quiet),
    ]
    for flag in (*flags, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()
