"""Stages within this process: what they print, what holds their lock, and what becomes of a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.runners.entry import is_running
from llmzero.runners.inline import InlineRunner, InlineRunnerSettings
from tests.conftest import REPOSITORY


def trained(directory: Path, *, started: float, interrupted: Callable[[], bool]) -> None:
    """A stage that prints, is told to leave where a file says so, and ends all the same."""
    print("by Python")
    os.write(1, b"past Python\n")
    assert is_running(directory)
    if (directory / "tell").exists():
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()
    StageDir(directory).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


@pytest.fixture
def spec(tmp_path: Path) -> StageSpec:
    return StageSpec("0001", "0000", 1, tmp_path, None, {}, 4, 0)


def run_one(directory: str) -> None:
    """What a driver does, in a process whose output is its own."""
    stage = StageSpec("0001", "0000", 1, Path(directory), None, {}, 4, 0)
    runner = InlineRunner(InlineRunnerSettings(f"{__name__}.trained", threads=1))
    assert runner.attach(stage) is None
    print("before")
    handle = runner.start(stage)
    print("started")
    assert handle.poll().state == handle.poll().state == "completed"
    print("after")
    assert runner.attach(stage) is not None
    assert not is_running(stage.directory)


def test_a_stage_has_ended_when_it_was_polled_and_its_output_is_in_its_log(spec: StageSpec) -> None:
    code = f"from tests.unit.runners.test_inline import run_one; run_one({str(spec.directory)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout == "before\nstarted\nafter\n"
    assert sorted((spec.directory / "log.txt").read_text().splitlines()) == ["by Python", "past Python"]


def test_a_signal_that_came_too_late_for_the_stage_still_ends_the_driver(spec: StageSpec) -> None:
    (spec.directory / "tell").touch()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        InlineRunner(InlineRunnerSettings(f"{__name__}.trained", threads=1)).start(spec).poll()
    assert StageDir(spec.directory).result() is not None
    assert signal.getsignal(signal.SIGTERM) is before
