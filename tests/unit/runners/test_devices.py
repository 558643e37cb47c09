"""Which GPUs stages see: those of the driver, the least used first, whoever else uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.runners import devices, local
from llmzero.runners.entry import is_running
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


DRIVER = """
import sys, time
from pathlib import Path
from tests.unit.runners.test_devices import begin, runner
begin(Path(sys.argv[1]), runner(1))
time.sleep(1000)
"""


def test_a_driver_that_follows_a_killed_one_takes_what_its_stages_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(UUIDS))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path / "a")])
    assert seen(tmp_path / "a") == UUIDS[0]
    driver.kill()
    driver.wait()
    after = runner(1)
    begin(tmp_path / "b", after)
    assert seen(tmp_path / "b") == UUIDS[1]
    (tmp_path / "a/go").touch()
    until(lambda: not is_running(tmp_path / "a"))
    begin(tmp_path / "c", after)
    assert seen(tmp_path / "c") == UUIDS[0]
    for name in "bc":
        (tmp_path / name / "go").touch()


def test_a_number_is_another_gpu_in_another_slurm_job_and_a_uuid_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for devices_of_a_job, told in (("0,1", ["0", "0", "1", "1"]), (",".join(UUIDS[:2]), [*UUIDS[:2]] * 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices_of_a_job)
        directories = [tmp_path / f"{told[0]}{number}" for number in range(4)]
        for directory, job in zip(directories, (11, 12, 11, 12), strict=True):
            monkeypatch.setenv("SLURM_JOB_ID", str(job))
            begin(directory, runner(1))
        assert [seen(directory) for directory in directories] == told
        for directory in directories:
            (directory / "go").touch()


def test_gpus_that_no_stage_will_use_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runner(1, warm=False).warm_up({})
    assert not caplog.records
    runner(0, warm=False).warm_up({})
    assert "no GPU of this machine is used (0, 1); hardware=one_80gb" in caplog.text


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
