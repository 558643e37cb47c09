"""Which GPUs stages see: those of the driver, the least used first, whoever else uses them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.runners import devices, local
from llmzero.runners.local import LocalHandle, LocalRunner, LocalRunnerSettings
from tests.unit.runners.test_warm import ENTRY_POINT, ended, stage_in, started, until

UUIDS = ["GPU-8f2a", "GPU-11bc", "MIG-7/1/0"]


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parents: dict[Any, Any] = {}
    monkeypatch.setattr(local, "_parents", parents)
    yield
    for parent in parents.values():
        parent.close()


def runner(gpus: int, warm: bool = True, workers: int = 1) -> LocalRunner:
    settings = LocalRunnerSettings(ENTRY_POINT, warm, threads=1, gpus_per_stage=gpus, processes_per_stage=1)
    return LocalRunner(settings, workers)


def begin(directory: Path, which: LocalRunner) -> LocalHandle:
    return which.start(stage_in(directory, "see_and_wait"))


def seen(directory: Path) -> str:
    return str(until(lambda: (directory / "seen").exists() and json.loads((directory / "seen").read_text())))


@pytest.mark.parametrize("warm", [True, False])
def test_stages_side_by_side_see_different_gpus_and_a_free_one_is_taken_again(
    warm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ", ".join(UUIDS))
    one = runner(1, warm)
    handles = {name: begin(tmp_path / name, one) for name in "abc"}
    assert [seen(tmp_path / name) for name in "abc"] == UUIDS
    (tmp_path / "b/go").touch()
    assert ended(handles["b"]) == "completed"
    begin(tmp_path / "d", runner(1, warm))  # of another search here
    assert seen(tmp_path / "d") == UUIDS[1]
    begin(tmp_path / "e", one)
    assert seen(tmp_path / "e") == UUIDS[0], "all are in use: they are shared"
    os.kill(started(tmp_path / "c")[0], signal.SIGKILL)
    assert ended(handles["c"]) == "failed"
    begin(tmp_path / "f", one)
    assert seen(tmp_path / "f") == UUIDS[2]
    for name in "adef":
        (tmp_path / name / "go").touch()


def test_two_gpus_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,0,2,7")
    begin(tmp_path / "a", runner(1))
    begin(tmp_path / "b", runner(2))
    begin(tmp_path / "c", runner(2))
    assert [seen(tmp_path / name) for name in "abc"] == ["3", "0,2", "3,1"]
    for name in "abc":
        (tmp_path / name / "go").touch()


def test_without_gpus_a_stage_sees_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    begin(tmp_path / "a", runner(0))
    assert until((tmp_path / "a/seen").exists)
    assert json.loads((tmp_path / "a/seen").read_text()) == ""
    (tmp_path / "a/go").touch()


def test_what_is_not_told_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = len(list(Path("/dev").glob("nvidia[0-9]*")))
    assert devices.devices(3) == [str(number) for number in range(here or 3)]


@pytest.mark.parametrize(
    ("visible", "names"), [("1, 0,1", ["1", "0"]), ("-1", []), ("2,-1,3", ["2"]), ("", [])]
)
def test_a_gpu_that_is_named_twice_is_one_and_minus_one_ends_the_list(
    visible: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.devices(3) == names


@pytest.mark.parametrize("visible", ["", "0"])
def test_fewer_gpus_than_a_stage_wants_are_refused(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=rf"runner.gpus_per_stage=2: CUDA_VISIBLE_DEVICES={visible} has"):
        runner(2)


def test_a_directory_of_locks_that_leads_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"llmzero-{os.getuid()}-gpus").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not ours"):
        begin(tmp_path / "a", runner(1))
    assert not list((tmp_path / "elsewhere").iterdir())
