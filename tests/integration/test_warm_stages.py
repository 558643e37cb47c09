"""Real training by the local runner: the bits of a warm start are those of a cold one, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners import local
from llmzero.runners.local import LocalHandle, LocalRunner, LocalRunnerSettings
from llmzero.tree.store import EventStore
from tests.integration.conftest import Run, last_checkpoint, read_lines, same_bits, write_stage
from tests.integration.searches import TRAINED, assert_consistent, start
from tests.integration.stage_processes import stage_processes

LIMIT_S = 600  # after which something hangs


@pytest.fixture(autouse=True)
def _own_parents(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    parents: dict[Any, Any] = {}
    monkeypatch.setattr(local, "_parents", parents)
    yield
    for parent in parents.values():
        parent.close()


def begin(directory: Path, warm: bool, processes: int = 1) -> LocalHandle:
    settings = LocalRunnerSettings(warm=warm, threads=1, processes_per_stage=processes)
    return LocalRunner(settings).start(StageDir(directory).read_spec())


def until_ended(handle: LocalHandle) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not handle.poll().final:
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.02)


def of_steps(stage: Path) -> list[dict[str, Any]]:
    """The metrics and validations, without the times they hold."""
    rows = [*read_lines(stage / "metrics.jsonl"), *read_lines(stage / "validation.jsonl")]
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_bits_of_warm_and_cold_stages_are_the_same(
    processes: int, spec: dict[str, Any], tmp_path: Path
) -> None:
    stages = {"cold": False, "first": True, "second": True}
    for name, warm in stages.items():
        write_stage(tmp_path / name, spec, {"steps": 4, "trainer": {"validation_every": 2}})
        handle = begin(tmp_path / name, warm, processes)
        until_ended(handle)
        assert handle.result().state == "completed", handle.result().error
        assert handle.result().gpu_seconds == pytest.approx(processes * handle.result().seconds, abs=0.01)
    assert len(of_steps(tmp_path / "cold")) == 4 + 2
    for name in ("first", "second"):
        assert of_steps(tmp_path / name) == of_steps(tmp_path / "cold")
        assert same_bits(last_checkpoint(tmp_path / name), last_checkpoint(tmp_path / "cold"))


def test_a_stage_that_is_told_to_leave_and_killed_ends_with_the_same_bits(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    """It is told to leave by both signals, killed, and once its warm parent is killed while it works."""
    whole, stage = tmp_path / "whole", tmp_path / "stage"
    for directory in (whole, stage):
        write_stage(directory, spec, {"steps": 40, "trainer": {"validation_every": 4}})
    until_ended(begin(whole, warm=False))
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL):
        handle = begun(stage)
        os.kill(int(StageDir(stage).status()["pid"]), number)
        until_ended(handle)
        assert handle.poll().died
        assert (StageDir(stage).status()["phase"] == "interrupted") == (number != signal.SIGKILL)
    handle = begun(stage)
    [parent] = local._parents.values()
    os.kill(parent.pid, signal.SIGKILL)
    until_ended(handle)
    assert handle.result().state == "completed"
    assert of_steps(stage) == of_steps(whole)
    assert same_bits(last_checkpoint(stage), last_checkpoint(whole))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_trainers_libraries_find_the_same_process_warm_and_cold(threads: int, tmp_path: Path) -> None:
    facts = {}
    for name, warm in {"cold": False, "first": True, "second": True}.items():
        stage = StageDir(tmp_path / name)
        stage.write_spec(StageSpec("0001", "0000", 1, stage.path, None, {}, 4, 0))
        settings = LocalRunnerSettings("tests.integration.trainer_facts.run", warm, threads=threads)
        handle = LocalRunner(settings).start(stage.read_spec())
        until_ended(handle)
        assert handle.result().state == "completed", handle.result().error
        facts[name] = json.loads((stage.path / "facts.json").read_text())
    assert facts["cold"]["threads"][0] == threads
    assert facts["first"] == facts["second"] == facts["cold"]
    drawn = [json.loads((tmp_path / name / "drawn.json").read_text()) for name in facts]
    assert len({value for values in drawn for value in values}) == 9, "what nobody has seeded differs"


def begun(stage: Path) -> LocalHandle:
    """Start a stage once more, and wait until it has got further than before."""
    reached = len(StageDir(stage).metrics())
    handle = begin(stage, warm=True)
    while len(StageDir(stage).metrics()) <= reached:
        assert not handle.poll().final, "it has ended too early"
        time.sleep(0.005)
    return handle


def test_the_time_of_a_warm_stage_is_its_own(spec: dict[str, Any], tmp_path: Path) -> None:
    """What its parent idles before, or imports, is not charged."""
    write_stage(tmp_path / "a", spec, {"steps": 0})
    write_stage(tmp_path / "b", spec, {"steps": 0})
    until_ended(begin(tmp_path / "a", warm=True))
    time.sleep(3.0)
    before = time.time()
    handle = begin(tmp_path / "b", warm=True)
    until_ended(handle)
    seconds, most = handle.result().seconds, time.time() - before
    assert most / 2 < seconds <= most + 0.02, "the kernel counts in ticks"


def parents_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(driver.pid).children() if "warm_parent" in " ".join(child.cmdline())
    ]


def test_kills_of_warm_parents_lose_nothing_and_charge_nothing_twice(
    environment: dict[str, str], root: Path, tmp_path: Path
) -> None:
    search, rng, killed = tmp_path / "s", random.Random(2), 0
    driver = start(environment, *TRAINED, f"search_dir={search}")
    while driver.poll() is None:
        if killed < 4 and stage_processes(search):
            for parent in parents_of(driver):
                parent.kill()
                killed += 1
        time.sleep(2 * rng.random())
    assert driver.returncode == 0
    assert killed >= 2
    assert_consistent(search, 4)
    tree = EventStore(search / "tree.jsonl").tree
    assert all(node.usable for node in tree)


def test_searches_that_do_not_train_have_no_warm_parent(run_here: Run, tmp_path: Path) -> None:
    run_here("search", "experiment=simulated", "budget.stages=2", f"search_dir={tmp_path}/simulated")
    run_here("search", *TRAINED, "dry_run=true", f"search_dir={tmp_path}/dry")
    cold = [*TRAINED, "budget.stages=1", f"search_dir={tmp_path}/cold"]
    run_here("search", *cold, "runner.warm=false")
    assert not local._parents
    run_here("search", *cold)
    assert not local._parents, "that search had ended"
    run_here("search", *TRAINED, "budget.stages=1", f"search_dir={tmp_path}/warm")
    [parent] = local._parents.values()
    assert parent.alive
