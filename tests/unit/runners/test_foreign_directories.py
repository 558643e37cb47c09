"""What others left in a stage's or a search's directory is neither run nor written through."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from llmzero.core.errors import UserError
from llmzero.core.files import open_own
from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners import snapshot
from llmzero.runners.inline import InlineRunner, InlineRunnerSettings
from llmzero.runners.local import LocalRunner, LocalRunnerSettings
from llmzero.runners.slurm import SlurmRunner, SlurmRunnerSettings
from llmzero.runners.slurm_queue import JOB_FILE, Queue, job_name
from llmzero.runners.slurm_resources import JobResources


def spec_in(directory: Path) -> StageSpec:
    spec = StageSpec("0001", "0000", 1, directory, None, {}, 4, 0)
    StageDir(directory).write_spec(spec)
    return spec


def test_code_that_lies_in_the_search_directory_is_not_what_jobs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = snapshot._digest()
    planted = tmp_path / digest / "llmzero"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text("raise SystemExit('planted')")
    copy = snapshot.snapshot(tmp_path)
    assert copy.parent == tmp_path
    assert copy.name.startswith(digest)
    assert copy != tmp_path / digest
    assert [path.name for path in copy.iterdir()] == ["llmzero"]
    monkeypatch.setattr(snapshot, "PACKAGE", copy / "llmzero")
    assert snapshot._digest() == digest
    assert snapshot.snapshot(tmp_path) == copy, "equal code is copied once"


def test_a_path_of_a_snapshot_is_no_shell_command() -> None:
    [line] = JobResources().parameters({}, "name", Path('/tmp/a$(touch x)"; touch y; "'))["setup"]
    command = f'PYTHONPATH=before; {line}; printf %s "$PYTHONPATH"'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == '/tmp/a$(touch x)"; touch y; ":before'


@pytest.mark.parametrize("name", ["stage.lock", "log.txt", "stop"])
def test_links_in_place_of_a_stages_files_are_not_followed(name: str, tmp_path: Path) -> None:
    spec = spec_in(tmp_path / "0001")
    precious = tmp_path / "precious"
    precious.write_text("content")
    (spec.directory / name).symlink_to(precious)
    runner = InlineRunner(InlineRunnerSettings("os.getpid", threads=1))
    write = StageDir(spec.directory).request_stop if name == "stop" else runner.start(spec).poll
    with pytest.raises(UserError, match=f"{name}: is a link"):
        write()
    assert precious.read_text() == "content"
    if name == "stage.lock":
        local = LocalRunner(LocalRunnerSettings("os.getpid"))
        with pytest.raises(UserError, match="is a link"):
            local.start(spec)
        assert precious.read_text() == "content"


def test_a_file_of_ones_own_is_appended_to(tmp_path: Path) -> None:
    for line in ("a", "b"):
        with open_own(tmp_path / "log") as log:
            print(line, file=log)
            assert (tmp_path / "log").read_text().endswith(f"{line}\n"), "line by line"
    assert (tmp_path / "log").read_text() == "a\nb\n"
    os.mkfifo(tmp_path / "fifo")
    open_own(tmp_path / "fifo").close()  # it does not wait for a reader


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a SLURM that lists one job of this user's, and writes down what it is asked."""
    (tmp_path / "bin").mkdir()
    asked = tmp_path / "asked"
    for name, answer in (
        ("squeue", "12|PENDING|my other job|None"),
        ("sacct", "77|COMPLETED"),
        ("scancel", ""),
    ):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\necho {name} "$@" >> {asked}\necho "{answer}"\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize("recorded", ["12", "--user=me", "77 12", "", "7\n7", None, 12, ["77"]])
def test_a_job_that_a_file_names_is_followed_only_where_it_can_be_the_stages(
    recorded: object, slurm: Path, tmp_path: Path
) -> None:
    spec = spec_in(tmp_path / "nodes/0001")
    (spec.directory / JOB_FILE).write_text(json.dumps({"job_id": recorded}))
    runner = SlurmRunner(SlurmRunnerSettings(entry_point="os.getpid", poll_s=0.0))
    assert runner.attach(spec) is None
    assert "scancel" not in slurm.read_text()


def test_a_job_that_squeue_has_forgotten_is_asked_for_among_the_accounts(slurm: Path, tmp_path: Path) -> None:
    spec = spec_in(tmp_path / "nodes/0001")
    (spec.directory / JOB_FILE).write_text(json.dumps({"job_id": "77"}))
    handle = SlurmRunner(SlurmRunnerSettings(entry_point="os.getpid", poll_s=0.0, grace_s=0.0)).attach(spec)
    assert handle is not None
    assert handle.job_id == "77"
    assert Queue(0.0).may_be("12", "my other job")
    assert not Queue(0.0).may_be("12", job_name(spec.directory))
