"""Searches to W&B and back, and reports of them: the real clients against a local server that records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from tests.wandb_server import ENTITY, WandbServer, wandb_server

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # a port that nobody listens at


def command(*arguments: object, url: str = NOBODY) -> subprocess.CompletedProcess[str]:
    """Run a module of analysis with a key for the server at `url`."""
    environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40}
    line = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished searches of one name, as a study has them."""
    folder = tmp_path_factory.mktemp("study")
    for method in ("llmzero", "random"):
        line = [
            sys.executable,
            "launchers/search.py",
            "experiment=simulated",
            f"search={method}",
            "budget.stages=4",
            "hydra.output_subdir=null",
        ]
        line += [f"search_dir={folder / 'easy' / method / 'seed-0'}", f"hydra.run.dir={folder}"]
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=900)
    return folder


@pytest.fixture(scope="module")
def server(study: Path) -> Iterator[WandbServer]:
    """A server that the searches were sent to."""
    with wandb_server() as server:
        result = command("analysis.sync", study, url=server.url)
        assert result.returncode == 0, result.stderr
        yield server
    assert not server.unknown


def read(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what analysis reads of a folder, without the searches' places."""
    tables = {name: table.drop(columns="search") for name, table in load([directory]).items()}
    return {
        name: sorted(json.loads(table.to_json(orient="records")), key=json.dumps)
        for name, table in tables.items()
    }


def test_syncing_twice_adds_nothing(study: Path, server: WandbServer) -> None:
    assert len({run.group for run in server.runs.values()}) == 2, "searches of one name are two groups"
    before = dict(server.files)
    result = command("analysis.sync", study, url=server.url)
    assert result.stderr.count("INFO 0 runs written") == 2
    assert server.files == before
    assert {run.begun for run in server.runs.values()} == {1}


def test_searches_come_back_from_a_server_as_they_went(
    study: Path, server: WandbServer, tmp_path: Path
) -> None:
    result = command(
        "analysis.wandb_source", f"{ENTITY}/llmzero", "--into", tmp_path / "pulled", url=server.url
    )
    assert len(result.stdout.splitlines()) == 2, result.stderr
    assert read(tmp_path / "pulled") == read(study)


def test_one_group_comes_back_alone(server: WandbServer, tmp_path: Path) -> None:
    group = next(run.group for run in server.runs.values())
    result = command("analysis.wandb_source", f"{ENTITY}/llmzero/{group}", "--into", tmp_path, url=server.url)
    assert result.stdout.splitlines() == [str(tmp_path / group)]


def test_offline_runs_come_back_too(study: Path, tmp_path: Path) -> None:
    search = study / "easy" / "random" / "seed-0"
    assert command("analysis.sync", search, "--mode", "offline").returncode == 0
    moved = (search / "wandb").rename(tmp_path / "wandb")
    result = command("analysis.wandb_source", moved, "--into", tmp_path / "pulled")
    assert result.returncode == 0, result.stderr
    assert read(tmp_path / "pulled") == read(search)


@pytest.mark.parametrize("source", ["nowhere", f"{ENTITY}/llmzero/nothing"])
def test_a_source_without_searches_is_one_line(server: WandbServer, tmp_path: Path, source: str) -> None:
    result = command("analysis.wandb_source", source, "--into", tmp_path, url=server.url)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert source in result.stderr


def test_a_report_can_be_read_without_a_server(study: Path) -> None:
    search = study / "easy" / "llmzero" / "seed-0"
    best = json.loads((search / "summary.json").read_text())["best"]
    text = command("analysis.wandb_report", search, "--print").stdout
    assert f"{best['score']:.4g}" in text
    assert all(f"| {node_id} |" in text for node_id in best["path"][1:])
    assert "MediaBrowser: tree" in text


def test_what_a_report_shows_is_in_the_runs(study: Path, server: WandbServer) -> None:
    result = command(
        "analysis.wandb_report", study, study / "easy" / "llmzero", "--title", "Methods", url=server.url
    )
    assert f"{server.url}/{ENTITY}/llmzero/reports/Methods" in result.stdout, result.stderr
    for line in shown(server.reports[-1]["spec"]):
        rows = [row for run in server.runs.values() for row in run.history.values()]
        assert any({line["xAxis"], *line["metrics"]} <= row.keys() for row in rows), line


def shown(spec: str) -> list[dict[str, Any]]:
    """Return the configurations of a report's line plots."""
    grids = [block["metadata"] for block in json.loads(spec)["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    assert lines
    return lines
