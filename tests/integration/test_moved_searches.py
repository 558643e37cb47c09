"""Search directories are moved, copied and passed around: they go on, and write nowhere else."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from llmzero.cli import run_command
from llmzero.core.stage import StageDir
from llmzero.tree.store import EventStore
from tests.integration.conftest import MICRO, Run

SIMULATED = ["experiment=simulated", "search.workers=1"]
TRAINED = [
    *MICRO,
    *("tracking=none", "search.stage_steps=4", "trainer.validation_every=2", "stopper=none"),
    *("search.workers=1", "runner.threads=1"),
]


def outcome(search: Path) -> list[Any]:
    tree = EventStore(search / "tree.jsonl", repair=False).tree
    return [(node.node_id, node.parent_id, node.hparams, node.state, node.score) for node in tree]


def weights(search: Path) -> dict[str, bytes]:
    files = sorted(search.glob("nodes/*/checkpoints/*/model.safetensors"))
    return {str(file.relative_to(search)): file.read_bytes() for file in files}


def moved(search: Path, there: Path) -> Path:
    search.rename(there)
    return there


def copied(search: Path, there: Path) -> Path:
    """Copy the search and spoil the original, so that nothing of it can be used in silence."""
    shutil.copytree(search, there)
    for file in search.glob("nodes/*/checkpoints/*/*"):
        file.write_text("of the original")
    return there


def as_written_before(search: Path) -> None:
    """Write absolute paths into log and results, as earlier versions did."""
    lines = []
    for line in (search / "tree.jsonl").read_text().splitlines():
        event = json.loads(line)
        directory = search / "nodes" / str(event.get("node_id"))
        for holder in (event, event.get("result") or {}):
            for name in ("resume_from", "checkpoint", "last_checkpoint"):
                if holder.get(name):
                    holder[name] = os.path.normpath(directory / holder[name])
        lines.append(json.dumps(event))
        if event["event"] == "finished":
            StageDir(directory).result_file.write_text(json.dumps(event["result"]))
    (search / "tree.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("old", [False, True], ids=["now", "absolute paths"])
@pytest.mark.parametrize("take", [moved, copied])
def test_a_simulated_search_goes_on_elsewhere(
    run_here: Run, tmp_path: Path, take: Callable[[Path, Path], Path], old: bool
) -> None:
    for stages in (4, 10):
        run_here("search", *SIMULATED, f"budget.stages={stages}", f"search_dir={tmp_path}/whole")
    run_here("search", *SIMULATED, "budget.stages=4", f"search_dir={tmp_path}/a/begun")
    if old:
        as_written_before(tmp_path / "a/begun")
    there = take(tmp_path / "a/begun", tmp_path / "elsewhere")
    before = sorted(path for path in (tmp_path / "a").rglob("*"))
    run_here("search", *SIMULATED, "budget.stages=10", f"search_dir={there}")
    assert outcome(there) == outcome(tmp_path / "whole")
    assert sorted(path for path in (tmp_path / "a").rglob("*")) == before, (
        "nothing is written at the old place"
    )


@pytest.mark.parametrize("take", [moved, copied])
def test_a_search_that_trains_goes_on_elsewhere_with_the_same_bits(
    launch: Run, trained: Path, tmp_path: Path, take: Callable[[Path, Path], Path]
) -> None:
    begun = tmp_path / "a/begun"
    launch("search", *TRAINED, "budget.stages=1", f"search_dir={begun}")
    there = take(begun, tmp_path / "elsewhere")
    launch("search", *TRAINED, "budget.stages=3", f"search_dir={there}")
    assert outcome(there) == outcome(trained)
    assert weights(there) == weights(trained)
    names = [*there.rglob("*.json"), *there.rglob("*.jsonl")]
    named = [file for file in names if str(tmp_path / "a") in file.read_text(errors="replace")]
    assert not named, "no file of the copy names the original"


@pytest.fixture(scope="module")
def trained(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    search = tmp_path_factory.mktemp("trained") / "whole"
    for stages in (1, 3):
        launch("search", *TRAINED, f"budget.stages={stages}", f"search_dir={search}")
    return search


# --- what a stranger may have put in ---


@pytest.fixture
def theirs(run_here: Run, tmp_path: Path) -> Path:
    """A search whose last stage has not ended, by its log."""
    search = tmp_path / "theirs"
    run_here("search", *SIMULATED, "budget.stages=3", f"search_dir={search}")
    events = [json.loads(line) for line in (search / "tree.jsonl").read_text().splitlines()]
    last = max(number for number, event in enumerate(events) if event["event"] == "finished")
    (search / "tree.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[:last]))
    (search / "nodes/0003/result.json").unlink()
    return search


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    directory = tmp_path / "victim"
    (directory / "checkpoints/precious").mkdir(parents=True)
    (directory / "checkpoints/precious/file").write_text("precious")
    return directory


def command(run_here: Run, name: str, search: Path) -> subprocess.CompletedProcess[str]:
    """Run `status.py` or `stop.py` in this process, or go on with the search."""
    if name == "search":
        return run_here("search", *SIMULATED, "budget.stages=6", f"search_dir={search}", ok=False)
    error, code = io.StringIO(), 0
    with patch("sys.argv", [name, str(search)]), redirect_stdout(io.StringIO()), redirect_stderr(error):
        try:
            run_command(import_module(f"launchers.{name}").main)
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess([name], code, "", error.getvalue())


def files_of(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): file.read_text() for file in directory.rglob("*") if file.is_file()
    }


@pytest.mark.parametrize("name", ["stop", "search"])
@pytest.mark.parametrize(
    "link", ["nodes", "nodes/0003", "nodes/0003/checkpoints", "nodes/0003/calls", "nodes/0004"]
)
def test_a_link_that_leads_out_is_not_followed(
    run_here: Run, theirs: Path, victim: Path, name: str, link: str
) -> None:
    path = theirs / link
    if path.exists():
        path.rename(theirs / "aside") if path.is_dir() else path.unlink()
    path.symlink_to(victim if link != "nodes" else theirs.parent, target_is_directory=True)
    before = files_of(victim)
    done = command(run_here, name, theirs)
    assert files_of(victim) == before
    if name == "search" or link in ("nodes/0003", "nodes/0003/checkpoints", "nodes/0003/calls"):
        assert done.returncode == 2
        assert "out of the search directory" in done.stderr and str(path) in done.stderr


@pytest.mark.parametrize("name", ["stop", "search", "status"])
@pytest.mark.parametrize(
    "node_id", ["/somewhere", "../../victim", "..", "0003/../../../victim", "", "3", None, 3]
)
def test_an_id_that_is_a_path_is_refused(
    run_here: Run, theirs: Path, victim: Path, name: str, node_id: Any
) -> None:
    log = theirs / "tree.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    number = next(n for n, e in enumerate(events) if e["event"] == "created" and e["node_id"] == "0003")
    for event in events[number:]:
        event["node_id"] = node_id if node_id != "/somewhere" else str(victim)
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    before = files_of(victim)
    done = command(run_here, name, theirs)
    assert done.returncode == 2
    assert f"{log}:{number + 1}: cannot be read" in done.stderr
    assert files_of(victim) == before


def test_a_result_names_no_checkpoint_of_another_place(run_here: Run, theirs: Path, victim: Path) -> None:
    log = theirs / "tree.jsonl"
    lines = log.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if json.loads(line)["event"] == "finished")
    event = json.loads(lines[number])
    event["result"]["checkpoint"] = str(victim / "checkpoints/precious")
    lines[number] = json.dumps(event)
    log.write_text("\n".join(lines) + "\n")
    done = run_here("search", *SIMULATED, "budget.stages=6", f"search_dir={theirs}", ok=False)
    assert done.returncode == 2
    assert f"{log}:{number + 1}: cannot be read" in done.stderr and "no checkpoint" in done.stderr
