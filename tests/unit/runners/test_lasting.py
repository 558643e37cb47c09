"""Processes that keep an engine between stages, by a real warm parent."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmzero.runners import entry
from llmzero.runners.warm import WarmParent, WarmStage
from tests.unit.runners.test_warm import until

ENTRY_POINT = "tests.unit.runners.lasting_stages.run"
TWO = [{**os.environ, "RANK": rank} for rank in "01"]


@pytest.fixture
def parent() -> Iterator[WarmParent]:
    with WarmParent(ENTRY_POINT, os.environ) as parent:
        yield parent


def begin(
    parent: WarmParent, directory: Path, what: str = "", environments: list[dict[str, str]] | None = None
) -> WarmStage:
    directory.mkdir()
    (directory / "what").write_text(what)
    lock = entry.locked(directory / entry.LOCK)
    assert lock is not None
    with lock:
        return parent.start(directory, environments or [dict(os.environ)], [lock.fileno()])


def facts(directory: Path, rank: int = 0) -> list[str]:
    return (directory / f"facts{rank}").read_text().split()


def finish(stage: WarmStage) -> int | None:
    until(lambda: stage.poll() is not None)
    return stage.poll()


def test_the_next_stage_runs_in_the_same_process_with_its_engine(parent: WarmParent, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        stage = begin(parent, tmp_path / name)
        assert finish(stage) == 0
        assert not entry.is_running(tmp_path / name), "its lock is free although the process lives"
        assert stage.pids == [int(facts(tmp_path / name)[0])]
        assert f"printed {name}" in (tmp_path / name / "log.txt").read_text()
    assert [facts(tmp_path / name)[1:] for name in "abc"] == [
        ["None", "False"],
        ["of-a", "True"],
        ["of-b", "True"],
    ]
    assert len({facts(tmp_path / name)[0] for name in "abc"}) == 1


def test_a_stage_that_is_asked_for_while_the_one_before_ends_waits_for_its_engine(
    parent: WarmParent, tmp_path: Path
) -> None:
    first = begin(parent, tmp_path / "a", "linger")
    until((tmp_path / "a/done0").exists)
    second = begin(parent, tmp_path / "b")
    assert finish(second) == finish(first) == 0
    assert facts(tmp_path / "b") == [facts(tmp_path / "a")[0], "of-a", "True"]


def test_a_stage_side_by_side_has_a_process_of_its_own(parent: WarmParent, tmp_path: Path) -> None:
    waiting = begin(parent, tmp_path / "a", "wait")
    until((tmp_path / "a/facts0").exists)
    assert finish(begin(parent, tmp_path / "b")) == 0
    (tmp_path / "a/go").touch()
    assert finish(waiting) == 0
    assert facts(tmp_path / "a")[0] != facts(tmp_path / "b")[0]


def test_another_environment_gets_another_process_and_the_idle_one_ends(
    parent: WarmParent, tmp_path: Path
) -> None:
    finish(begin(parent, tmp_path / "a"))
    finish(begin(parent, tmp_path / "b", environments=[{**os.environ, "OTHER": "1"}]))
    assert facts(tmp_path / "b")[1] == "None"
    until(lambda: not psutil.pid_exists(int(facts(tmp_path / "a")[0])))


@pytest.mark.parametrize("what", ["fail", "give up 0"])
def test_a_process_that_keeps_nothing_ends(parent: WarmParent, tmp_path: Path, what: str) -> None:
    finish(begin(parent, tmp_path / "a"))
    assert finish(begin(parent, tmp_path / "b", what)) == int(what == "fail")
    assert facts(tmp_path / "b")[1] == "of-a"
    finish(begin(parent, tmp_path / "c"))
    assert facts(tmp_path / "c")[1] == "None"
    assert facts(tmp_path / "c")[0] != facts(tmp_path / "a")[0]


def test_a_stage_that_is_killed_is_told_and_the_next_one_begins_afresh(
    parent: WarmParent, tmp_path: Path
) -> None:
    finish(begin(parent, tmp_path / "a"))
    killed = begin(parent, tmp_path / "b", "wait")
    until((tmp_path / "b/facts0").exists)
    assert facts(tmp_path / "b")[1] == "of-a"
    killed.signal(signal.SIGKILL)
    assert finish(killed) == -signal.SIGKILL
    assert not entry.is_running(tmp_path / "b")
    assert finish(begin(parent, tmp_path / "c")) == 0
    assert facts(tmp_path / "c")[1] == "None"


def test_a_stage_given_to_a_process_that_dies_first_begins_in_another(
    parent: WarmParent, tmp_path: Path
) -> None:
    finish(begin(parent, tmp_path / "a"))
    idle = int(facts(tmp_path / "a")[0])
    os.kill(idle, signal.SIGSTOP)
    stage = begin(parent, tmp_path / "b")
    time.sleep(0.2)
    assert entry.is_running(tmp_path / "b"), "its lock is held while it waits"
    assert not (tmp_path / "b/facts0").exists()
    os.kill(idle, signal.SIGKILL)
    assert finish(stage) == 0
    assert facts(tmp_path / "b")[1] == "None"


def test_idle_processes_end_with_their_parent(tmp_path: Path) -> None:
    with WarmParent(ENTRY_POINT, os.environ) as parent:
        finish(begin(parent, tmp_path / "a"))
        idle = int(facts(tmp_path / "a")[0])
        assert psutil.pid_exists(idle)
    until(lambda: not psutil.pid_exists(idle) or psutil.Process(idle).status() == psutil.STATUS_ZOMBIE)


def test_a_stage_in_a_kept_process_outlives_a_parent_that_is_killed(
    parent: WarmParent, tmp_path: Path
) -> None:
    finish(begin(parent, tmp_path / "a"))
    begin(parent, tmp_path / "b", "wait")
    until((tmp_path / "b/facts0").exists)
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not parent.alive)
    assert entry.is_running(tmp_path / "b")
    (tmp_path / "b/go").touch()
    until((tmp_path / "b/done0").exists)
    with (tmp_path / "b" / entry.LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it ends, as nobody will ask it for more


def test_all_processes_of_a_stage_go_on_or_none(parent: WarmParent, tmp_path: Path) -> None:
    for name, what in (("a", ""), ("b", ""), ("c", "give up 1"), ("d", "")):
        assert finish(begin(parent, tmp_path / name, what, environments=TWO)) == 0
    pids = {name: [facts(tmp_path / name, rank)[0] for rank in (0, 1)] for name in "abcd"}
    assert pids["a"] == pids["b"] == pids["c"]
    assert not set(pids["d"]) & set(pids["a"])
    assert [facts(tmp_path / "d", rank)[1] for rank in (0, 1)] == ["None", "None"]


def test_a_stage_that_is_forked_meanwhile_does_not_hold_the_lock_of_one_that_waits_for_a_process(
    parent: WarmParent, tmp_path: Path
) -> None:
    finish(begin(parent, tmp_path / "a"))
    idle = int(facts(tmp_path / "a")[0])
    os.kill(idle, signal.SIGSTOP)
    waiting = begin(parent, tmp_path / "b")
    beside = begin(parent, tmp_path / "c", "wait", environments=[{**os.environ, "OTHER": "1"}])
    until((tmp_path / "c/facts0").exists)
    os.kill(idle, signal.SIGCONT)
    assert finish(waiting) == 0
    until(lambda: not entry.is_running(tmp_path / "b"))
    (tmp_path / "c/go").touch()
    assert finish(beside) == 0
