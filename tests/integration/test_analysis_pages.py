"""Figures, tables and the page of a study of simulated searches, the page in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from analysis.compare import compare
from analysis.curves import best_so_far, scores_on_test
from analysis.figures import FIGURES, draw
from analysis.load import load
from analysis.paths import path_of
from analysis.report import page
from analysis.scaling import scores_by_model
from analysis.tables import Tables
from analysis.transfer import transfer_matrix
from llmzero.core.errors import UserError
from tests.conftest import REPOSITORY
from tests.unit.analysis.searches import simulated_search

HOSTILE = (
    '</td></table><script>window.pwned=1</script><img src=x onerror="window.pwned=2">'
    "| **x** [a](javascript:window.pwned=3)"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two tasks, two seeds each, and two replays."""
    folder = tmp_path_factory.mktemp("study")
    for task in ("plateau", "kl_collapse"):
        for method in ("llmzero", "random"):
            for seed in (0, 1):
                overrides = [
                    f"runner.landscape={task}",
                    f"search={method}",
                    f"seed={seed}",
                    "search.test_incumbents=true",
                    "budget.stages=8",
                ]
                simulated_search(folder / task / method / f"seed-{seed}", *overrides)
    command = [
        sys.executable,
        "launchers/transfer.py",
        f"strategies={{mine: {folder}/plateau/llmzero/seed-0}}",
        f"study_dir={folder}/transfer",
    ]
    command += ["tasks={easy: ['runner.landscape=easy']}", "common=['experiment=simulated']", "seeds=2"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def tables(study: Path) -> Tables:
    return load([study])


def test_the_best_so_far_is_the_trajectory_of_the_search(study: Path, tables: Tables) -> None:
    directory = study / "plateau/llmzero/seed-0"
    summary = json.loads((directory / "summary.json").read_text())
    rows = best_so_far(tables)
    own = rows[(rows["search"] == str(directory)) & (rows["stages"] > 0)]
    assert own[["stages", "best"]].to_numpy().tolist() == [
        [point["stages"], point["best"]] for point in summary["trajectory"]
    ]
    assert own["gpu_seconds"].to_numpy() == pytest.approx(
        [point["gpu_seconds"] for point in summary["trajectory"]], abs=1e-2
    )
    assert path_of(tables.of([str(directory)]).stages, summary["best"]["node_id"]) == summary["best"]["path"]
    assert scores_on_test(str(directory))["score"].iloc[-1] == summary["test"]["best"]["score"]


def test_a_comparison_of_directories_is_that_of_the_study(
    study: Path, tables: Tables, tmp_path: Path
) -> None:
    comparison = compare(tables.of([name for name in tables.searches["search"] if "transfer" not in name]))
    assert comparison["methods"] == ["llmzero", "random"]
    assert comparison["unfinished"] == []
    ours = comparison["overall"]["llmzero"]["final"]["value"]
    finals = [run["normalised"] for run in comparison["runs"] if run["method"] == "llmzero"]
    assert ours == pytest.approx(sum(finals) / len(finals))
    with pytest.raises(UserError, match="--first 'nobody': must be one of 'llmzero', 'random'"):
        compare(tables, "nobody")
    shutil.copytree(study / "plateau/llmzero/seed-0", tmp_path / "again")
    with pytest.raises(UserError, match=r"both are llmzero on .*plateau with seed 0"):
        compare(twice := load([study / "plateau/llmzero", tmp_path]))
    assert "with seed 0; leave one out" in page(twice, None, "Twice", {}), "a page says what it leaves out"


def test_the_transfer_of_directories_is_that_of_the_launcher(study: Path, tables: Tables) -> None:
    written = json.loads((study / "transfer/transfer.json").read_text())
    (task,) = transfer_matrix(tables)["tasks"]
    assert transfer_matrix(tables)["gains"][task]["mine"] == written["gains"]["easy"]["mine"]
    with pytest.raises(UserError, match="no finished replay"):
        transfer_matrix(load([study / "plateau"]))


def test_scaling_tells_each_model_apart(tables: Tables) -> None:
    searches = tables.searches.copy()
    searches["model"] = ["small" if "seed-0" in name else "large" for name in searches["search"]]
    sized = Tables(**{**dict(tables.items()), "searches": searches})
    table = scores_by_model(sized)
    assert set(table["model"]) == {"small", "large"}
    row = table[(table["name"] == "llmzero") & (table["model"] == "small")].iloc[0]
    own = searches[
        (searches["method"] == "llmzero")
        & (searches["model"] == "small")
        & (searches["task"] == row["task", ""])
    ]
    assert row["test_best", "mean"] == pytest.approx(own["test_best"].mean())
    assert set(draw(sized)) == set(FIGURES)


def test_figures_are_left_out_where_the_searches_do_not_tell(tables: Tables, tmp_path: Path) -> None:
    assert "scaling" not in draw(tables)
    lone = simulated_search(tmp_path / "begun", "budget.stages=1")
    (lone / "test.json").unlink()
    assert "test_over_cost" not in draw(load([lone]))


def test_one_command_makes_all_of_it(study: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "analysis.report",
        str(study),
        "--out",
        str(tmp_path / "out"),
        "--title",
        "Two tasks",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    made = {file.name for file in (tmp_path / "out").iterdir()}
    assert made >= {
        "report.html",
        *(
            f"{name}.{kind}"
            for name in ("test_over_cost", "best_so_far", "strategies", "tree")
            for kind in ("pdf", "png")
        ),
    }
    assert "scaling" not in done.stdout
    assert (tmp_path / "out/tree.pdf").read_bytes().startswith(b"%PDF")
    empty = subprocess.run(
        [*command[:3], str(tmp_path / "none"), "--out", "x"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert empty.returncode == 2
    assert "no such directory" in empty.stderr


def test_the_page_opens_without_errors_and_runs_no_text_of_the_searches(
    tables: Tables, tmp_path: Path, browser: webdriver.Chrome
) -> None:
    words = (
        "rationale",
        "diagnosis",
        "agent",
        "method",
        "task",
        "model",
        "before",
        "after",
        "parameter",
        "proposer",
        "stopper",
    )
    bad = {
        name: table.assign(
            **{column: HOSTILE for column in words if column in table and table[column].notna().any()}
        )
        for name, table in tables.items()
    }
    for title, shown in (("Two tasks", tables), (HOSTILE, Tables(**bad))):
        file = tmp_path / "report.html"
        file.write_text(page(shown, None, title, draw(shown)), encoding="utf-8")
        browser.get(f"file://{file}")
        assert browser.execute_script("return window.pwned") is None
        assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
        pictures: list[Any] = browser.find_elements(By.TAG_NAME, "img")
        assert len(pictures) >= 3
        assert all(
            browser.execute_script("return arguments[0].naturalWidth", picture) > 100 for picture in pictures
        )
        assert browser.find_element(By.TAG_NAME, "h1").text == title
        assert (
            "Capacity grows while regularization oscillates"
            in browser.find_element(By.CLASS_NAME, "verdict").text
        )
