"""The command that trains a tree: real stages, kills, checks; and searches on what it made."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tree_growing import bits
from llmzero.cli import BAD_INPUT, composed
from llmzero.core.stage import StageDir
from llmzero.runners.tables.format import read_table, write_table
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY

METHODS = sorted({file.stem for file in (REPOSITORY / "conf/search").glob("*.yaml")} - {"skill"})
OVERRIDES = ["task=metro", "task.stops=26", "task.longest=4", "model=nano_s", "model.recipe.steps=60"]
FLOPS = 5e8
RECIPE = f"""
overrides: {json.dumps([*OVERRIDES, "trainer.validations=2"])}
parameters:
  max_completion_length: {{choices: [8, 16], default: 16}}
values: {{prompts_per_step: 8, group_size: 4}}
depth: 2
flops: {FLOPS}
"""
STAGES = 2 + 4

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the recipe."""
    directory = tmp_path_factory.mktemp("tables")
    (directory / "tiny.yaml").write_text(RECIPE)
    return directory


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    return os.environ | {"LLMZERO_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}


def command(place: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.make_table", "tiny", "--tables", str(place), *options]


@pytest.fixture(scope="module")
def make(place: Path, environment: dict[str, str]) -> Make:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        line = command(place, *options)
        return subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def table(place: Path, make: Make) -> Path:
    """The table, grown without interruption."""
    ended = make("--state", str(place / "state"))
    assert ended.returncode == 0, ended.stderr
    assert f"{STAGES} stages" in ended.stdout
    return place / "tiny-0.jsonl.xz"


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lzma.decompress(file.read_bytes()).splitlines()]


def test_the_tree_is_complete_and_says_what_made_it(table: Path, place: Path) -> None:
    read = read_table(table)
    assert set(read.stages) == {(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)}
    assert read.header["task"]["stops"] == 26 and read.header["fixed"]["prompts_per_step"] == 8
    assert read.header["trainer"]["validation_max_tokens"] == 48, "one limit for all stages"
    assert read.header["packages"]["torch"] and read.header["cpu"] and read.header["licence"]
    for stage in read.stages.values():
        last = stage.points[-1]
        assert abs(last.flops - FLOPS) < 0.75 * last.flops / last.step and last.flops == pytest.approx(
            sum(value or 0 for value in stage.metrics["step_flops"]), rel=1e-3
        )
        assert 0 < stage.points[0].seconds <= last.seconds
    assert not list((place / "state").glob("work/**/checkpoints")), "no checkpoint is left"


def test_a_row_is_what_a_stage_of_its_own_comes_to(
    table: Path, place: Path, environment: dict[str, str]
) -> None:
    """The same stages as processes of `launchers/train.py`, without tests in between."""
    resume = None
    for number, path in enumerate([(), (1,), (1, 0)]):
        stage = StageDir(place / f"plain{number}")
        hparams = {
            "prompts_per_step": 8,
            "group_size": 4,
            "max_completion_length": 8 if path == (1, 0) else 16,
        }
        values = ", ".join(f"{name}: {value}" for name, value in hparams.items())
        length = ["steps=null", f"flops={FLOPS}"] if path else ["steps=0"]
        line = ["launchers/train.py", *OVERRIDES, "trainer.validations=2", f"values={{{values}}}", *length]
        line += [f"stage_dir={stage.path}"] + ([f"resume_from={resume}"] if resume else [])
        subprocess.run(
            [sys.executable, *line], cwd=REPOSITORY, env=environment, check=True, capture_output=True
        )
        result = stage.result()
        assert result is not None
        resume = result.last_checkpoint
        if path:
            row = read_table(table).stages[path]
            assert [point.score for point in row.points] == [round(p.score, 6) for p in stage.validation()]
            assert [point.step for point in row.points] == [p.step for p in stage.validation()]
            metrics = [float(f"{line['grad_norm']:.4g}") for line in stage.metrics()]
            assert list(row.metrics["grad_norm"]) == metrics
            assert row.points[-1].flops == pytest.approx(result.flops)


def test_killed_again_and_again_it_goes_on_to_the_same_bits(
    table: Path, place: Path, environment: dict[str, str], make: Make
) -> None:
    state, kills = place / "killed", 0
    whole, before = table.read_bytes(), 0
    while kills < 3:
        running = subprocess.Popen(
            command(place, "--state", str(state)), cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL
        )
        while running.poll() is None and len(_logged(state)) <= before:
            time.sleep(0.05)
        before, kills = len(_logged(state)), kills + 1
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert 3 <= before < STAGES
    table.unlink()
    ended = make("--state", str(state))
    assert ended.returncode == 0, ended.stderr
    _, *rows = rows_of(table)
    table.write_bytes(whole)
    assert list(map(bits, rows)) == list(map(bits, rows_of(table)[1:]))
    paths = [row["path"] for row in _logged(state)]
    assert len(paths) == len({tuple(path) for path in paths}) + 1, (
        "but for the base model none is logged twice"
    )


def _logged(state: Path) -> list[dict[str, Any]]:
    lines = [
        line for log in state.glob("stages/*.jsonl") for line in log.read_text().splitlines(keepends=True)
    ]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_two_processes_make_the_same_tree(table: Path, place: Path, make: Make) -> None:
    whole = table.read_bytes()
    assert make("--state", str(place / "two"), "--workers", "2").returncode == 0
    _, *rows = rows_of(table)
    table.write_bytes(whole)
    assert list(map(bits, rows)) == list(map(bits, rows_of(table)[1:]))


def test_a_check_reproduces_the_bits_and_tells_where_it_does_not(
    table: Path, place: Path, make: Make
) -> None:
    whole = table.read_bytes()
    ended = make("--state", str(place / "checked"), "--check", "1")
    assert ended.returncode == 0, ended.stderr
    assert "2 of 2 stages have the same bits, on the same kind of machine" in ended.stdout
    header, *rows = rows_of(table)
    for row in rows:
        row["metrics"]["grad_norm"][0] += 1e-3
    write_table(table, header, rows)
    ended = make("--state", str(place / "checked"), "--check", "1")
    table.write_bytes(whole)
    assert ended.returncode == BAD_INPUT and "2 of 2 stages came out otherwise" in ended.stderr


def test_elsewhere_a_check_compares_means(table: Path, place: Path, make: Make) -> None:
    whole, (header, *rows) = table.read_bytes(), rows_of(table)
    write_table(table, {**header, "cpu": "another"}, rows)
    same = make("--state", str(place / "elsewhere"), "--check", "2")
    for row in rows:
        row["points"][-1]["test"] += 0.3
    write_table(table, {**header, "cpu": "another"}, rows)
    off = make("--state", str(place / "elsewhere"), "--check", "2")
    table.write_bytes(whole)
    assert same.returncode == 0 and "same bits, with another cpu" in same.stdout, same.stderr
    assert "mean difference of test scores +0.0000" in same.stdout
    assert off.returncode == BAD_INPUT and "beyond 3 times its error" in off.stderr


def test_stages_that_were_made_otherwise_are_not_mixed(table: Path, place: Path, make: Make) -> None:
    recipe = place / "tiny.yaml"
    try:
        recipe.write_text(RECIPE.replace("group_size: 4", "group_size: 8"))
        ended = make("--state", str(place / "state"))
    finally:
        recipe.write_text(RECIPE)
    assert ended.returncode == BAD_INPUT
    assert "the stages there were made with another fixed" in ended.stderr


@pytest.mark.parametrize("method", METHODS)
def test_every_method_searches_a_real_tree(table: Path, tmp_path: Path, method: str) -> None:
    own = ["runner=table", f"table={table}", f"search={method}", f"search_dir={tmp_path}/s"]
    config = composed("search", SearchConfig, [*own, "search.report=false", "stopper=none"])
    summary = Session.from_config(config).run()
    read = read_table(table)
    tree = EventStore(tmp_path / "s/tree.jsonl").tree
    for node in tree.stages():
        assert node.result is not None and node.state == "completed"
        path = tuple(read.number(each.hparams) for each in tree.path(node.node_id)[1:])
        assert node.result.validation[-1].score == read.stages[path].points[-1].score  # type: ignore[index]
    assert summary["state"] == "finished"
