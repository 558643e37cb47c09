"""The final test of a search that trains: side by side, after a kill, and where a part of it fails."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Run, read_lines
from tests.integration.searches import start, summary

# The nano model itself, which learns enough in six steps to have incumbents.
SEARCH = ["tracking=none", "runner.threads=1", "budget.stages=2", "search.stage_steps=6"]
SEARCH += [
    "trainer.validation_every=3",
    "task.val_size=64",
    "task.test_size=64",
    "search.test_incumbents=true",
]


@pytest.fixture(scope="module")
def sequential(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    search = tmp_path_factory.mktemp("tested") / "s"
    launch("search", *SEARCH, "search.workers=1", f"search_dir={search}")
    return search


def untested(search: Path, copy: Path) -> list[str]:
    """Copy a search without its final test; return the command line that runs that on four workers."""
    shutil.copytree(search, copy)
    shutil.rmtree(copy / "test")
    (copy / "test.json").unlink()
    events = [event for event in read_lines(copy / "tree.jsonl") if event["event"] not in ("setup", "ended")]
    (copy / "tree.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return [*SEARCH, "search.workers=4", f"search_dir={copy}"]


def scores(search: Path) -> dict[str, Any]:
    """What was measured, without the seconds that it took."""
    test = json.loads((search / "test.json").read_text())
    return json.loads(
        json.dumps(test), object_hook=lambda each: {k: v for k, v in each.items() if k != "gpu_seconds"}
    )


def most_side_by_side(search: Path) -> int:
    results = [json.loads(file.read_text()) for file in search.glob("test/*/result.json")]
    spans = [(result["ended_at"] - result["seconds"], result["ended_at"]) for result in results]
    return max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)


def charged(search: Path) -> list[str]:
    return sorted(event["name"] for event in read_lines(search / "tree.jsonl") if event["event"] == "setup")


def test_four_workers_measure_side_by_side_what_one_measures(
    launch: Run, sequential: Path, tmp_path: Path
) -> None:
    launch("search", *untested(sequential, tmp_path / "s"))
    assert scores(tmp_path / "s") == scores(sequential)
    assert charged(tmp_path / "s") == charged(sequential) == measured(sequential)
    assert len(measured(sequential)) >= 4, (
        "base, incumbents, the practitioner's training, and what came of it"
    )
    assert most_side_by_side(sequential) == 1
    assert most_side_by_side(tmp_path / "s") >= 2


def measured(search: Path) -> list[str]:
    return sorted(path.name for path in (search / "test").iterdir())


def test_a_killed_driver_finds_its_measurements_again(
    launch: Run, environment: dict[str, str], sequential: Path, tmp_path: Path
) -> None:
    search = tmp_path / "s"
    overrides = untested(sequential, search)
    driver = start(environment, *overrides)
    while len(list(search.glob("test/*/status.json"))) < 2:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    stages = [file.with_name("stage.json") for file in search.glob("test/*/status.json")]
    begun = {file: file.stat().st_mtime_ns for file in stages}
    assert len(begun) >= 2
    launch("search", *overrides)
    assert {file: file.stat().st_mtime_ns for file in begun} == begun, "none is started again"
    assert scores(search) == scores(sequential)
    assert charged(search) == charged(sequential)


def test_a_measurement_that_fails_leaves_the_others_alone_and_is_made_anew(
    launch: Run, sequential: Path, tmp_path: Path
) -> None:
    search = tmp_path / "s"
    overrides = untested(sequential, search)
    best = f"best-{summary(search)['best']['node_id']}"
    stage = json.loads((sequential / "test" / best / "stage.json").read_text())
    weights = search / stage["resume_from"].removeprefix("../../") / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    failed = launch("search", *overrides, ok=False)
    assert failed.returncode == 2
    assert f"the final test of {best} failed" in failed.stderr
    assert summary(search)["state"] == "interrupted"
    states = {
        path.parent.name: json.loads(path.read_text())["state"] for path in search.glob("test/*/result.json")
    }
    assert states == {**dict.fromkeys(measured(sequential), "completed"), best: "failed"}
    weights.write_bytes(content)
    launch("search", *overrides)
    assert scores(search) == scores(sequential)
    assert charged(search) == charged(sequential)
