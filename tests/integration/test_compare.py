"""Comparisons and transfers by their launchers, on the simulator: numbers, resumption, bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmzero.cli import BAD_INPUT, INTERRUPTED
from llmzero.search.final_test import incumbents_of
from llmzero.studies.carry_out import FAILED
from llmzero.studies.statistics import mean_interval
from llmzero.tree.store import EventStore
from tests.integration.conftest import Run, command

METHODS = "methods={paper: ['search=paper'], practitioner: ['search=practitioner']}"
TASKS = (
    "tasks={easy: ['runner.landscape=easy'], deceptive: ['runner.landscape=deceptive', 'budget.stages=6']}"
)
COMMON = (
    "common=['experiment=simulated', 'budget.stages=8', 'search.workers=1', 'stopper.audit_fraction=0.5']"
)
SMALL = [METHODS, TASKS, COMMON, "seeds=2"]
FIGURES = ("curves_stages", "curves_gpu_seconds", "final_scores", "improvement")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def replaced(change: str) -> list[str]:
    """Return the small comparison with one of its settings changed: mappings given twice would be merged."""
    key = change.partition("=")[0]
    return [change if setting.partition("=")[0] == key else setting for setting in SMALL]


@pytest.fixture(scope="module")
def compared(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("compared") / "study"
    printed = launch("compare", *SMALL, f"study_dir={study}").stdout
    assert "2 x 2 tasks x 2 seeds = 8 searches of up to 56 stages, 0 of them finished" in printed
    return study


def summaries(study: Path, task: str, method: str) -> list[dict[str, Any]]:
    return [read(study / task / method / f"seed-{seed}" / "summary.json") for seed in (0, 1)]


def by_hand(trajectory: list[dict[str, Any]], stages: int) -> float:
    return [point["score"] for point in trajectory if point["stages"] <= stages][-1]


def test_every_incumbent_is_tested(compared: Path) -> None:
    directory = compared / "easy" / "paper" / "seed-0"
    test, tree = read(directory / "test.json"), EventStore(directory / "tree.jsonl", repair=False).tree
    first, *changes = test["trajectory"]
    assert (first["stages"], first["gpu_seconds"], first["node_id"], first["score"]) == (
        0,
        0.0,
        "0000",
        test["base"]["score"],
    )
    best, incumbents = tree.root.score, []
    for number, node in enumerate(tree.finished[1:], 1):
        if node.usable and node.score > best:
            best = node.score
            incumbents.append((number, node.node_id))
    assert [(change["stages"], change["node_id"]) for change in changes] == incumbents
    assert (
        [change.node.node_id for change in incumbents_of(tree)][-1]
        == tree.best().node_id
        == test["best"]["node_id"]
    )
    assert (changes[-1]["score"], changes[-1]["stderr"]) == (test["best"]["score"], test["best"]["stderr"])
    spent = [point["gpu_seconds"] for point in read(directory / "summary.json")["trajectory"]]
    assert [change["gpu_seconds"] for change in changes] == pytest.approx(
        [spent[change["stages"] - 1] for change in changes]
    )


@pytest.mark.parametrize(("task", "budget"), [("easy", 8), ("deceptive", 6)])
def test_scores_and_areas_are_those_of_the_searches(compared: Path, task: str, budget: int) -> None:
    comparison = read(compared / "comparison.json")
    tests = {
        method: [summary["test"] for summary in summaries(compared, task, method)]
        for method in comparison["methods"]
    }
    for method in comparison["methods"]:
        areas = []
        for seed in (0, 1):
            base = np.mean([tests[other][seed]["base"]["score"] for other in tests])
            top = max(point["score"] for other in tests for point in tests[other][seed]["trajectory"])
            values = [
                (by_hand(tests[method][seed]["trajectory"], stage) - base) / (top - base)
                for stage in range(1, budget + 1)
            ]
            areas.append(np.mean(values))
        entry = comparison["per_task"][task][method]
        assert comparison["budget_stages"][task] == budget
        assert entry["area"]["value"] == pytest.approx(np.mean(areas))
        finals = np.array([test["best"]["score"] for test in tests[method]])
        assert entry["final"] == pytest.approx(vars(mean_interval([finals])))
        curve = comparison["curves"][task][method]["stages"]
        assert curve["mean"] == pytest.approx(
            [np.mean([by_hand(test["trajectory"], at) for test in tests[method]]) for at in curve["at"]]
        )


def test_the_first_method_is_set_against_the_other(compared: Path) -> None:
    comparison = read(compared / "comparison.json")
    wins, ranks = [], []
    for task in comparison["tasks"]:
        ours, theirs = (
            [summary["test"]["best"]["score"] for summary in summaries(compared, task, method)]
            for method in comparison["methods"]
        )
        against = comparison["per_task"][task]["practitioner"]["against"]
        assert against["difference"]["value"] == pytest.approx(np.mean(ours) - np.mean(theirs))
        wins += [(a > b) + (a == b) / 2 for a in ours for b in theirs]
        assert against["improvement"]["value"] == pytest.approx(np.mean(wins[-4:]))
        assert against["p_holm"] == against["p_wilcoxon"]  # there is one other method
        ranks += [1.5 if a == b else 1 if a > b else 2 for a, b in zip(ours, theirs, strict=True)]
    assert comparison["overall"]["paper"]["against"] is None
    assert comparison["overall"]["paper"]["rank"] == pytest.approx(np.mean(ranks))


def test_confirmed_scores_are_those_of_the_confirmations(launch: Run, tmp_path: Path) -> None:
    methods = METHODS.replace("['search=paper']", "['search=paper', 'search.confirm_seeds=2']")
    study = tmp_path / "study"
    launch("compare", methods, TASKS, COMMON, "seeds=2", f"study_dir={study}")
    comparison = read(study / "comparison.json")
    means = []
    for seed, summary in enumerate(summaries(study, "easy", "paper")):
        confirmed = read(study / f"easy/paper/seed-{seed}/confirmation.json")
        means.append(confirmed["strategies"][confirmed["winner"]]["mean"])
        assert summary["confirmation"] == confirmed
    table = comparison["per_task"]["easy"]
    assert table["paper"]["confirmed"]["value"] == pytest.approx(np.mean(means))
    assert table["practitioner"]["confirmed"] is None
    text = (study / "comparison.md").read_text()
    assert f"| {np.mean(means):.3f} [" in text
    apart = table["practitioner"]["against"]["difference"]["value"]
    assert f"| {apart:+.3f} [" in text


def test_costs_are_those_of_the_searches(compared: Path) -> None:
    entry = read(compared / "comparison.json")["overall"]["paper"]
    searches = [summary for task in ("easy", "deceptive") for summary in summaries(compared, task, "paper")]
    spent, saved = (
        sum(summary[part][key] for summary in searches)
        for part, key in (("budget", "gpu_seconds"), ("stopper", "saved_gpu_seconds"))
    )
    assert entry["gpu_seconds"] == pytest.approx(spent / 4)
    assert entry["stopper"]["saved_share"] == pytest.approx(saved / (spent + saved))
    assert entry["stopper"]["audited"] == sum(summary["stopper"]["audited"] for summary in searches)
    assert entry["llm"] == {"calls": 0.0, "tokens": 0.0, "dollars": 0.0}


def test_people_get_a_table_and_figures(compared: Path) -> None:
    table = (compared / "comparison.md").read_text()
    assert [line for line in table.splitlines() if line.startswith("## ")] == [
        "## All tasks",
        "## easy",
        "## deceptive",
    ]
    assert table.count("| paper | ") == 3
    assert all((compared / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in FIGURES)
    assert all((compared / f"{name}.pdf").read_bytes().startswith(b"%PDF") for name in FIGURES)
    assert "Testing" in (compared / "easy" / "paper" / "seed-0" / "log.txt").read_text()


def test_a_killed_comparison_goes_on_to_the_same_numbers(
    compared: Path, environment: dict[str, str], launch: Run, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    arguments = command("compare", *SMALL, "at_once=1", f"study_dir={study}")
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def ended() -> list[Path]:
        return [path for path in study.glob("*/*/*/summary.json") if read(path)["state"] == "finished"]

    while not ended():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its worker notices
    finished = ended()
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert 1 <= len(finished) < 8
    again = launch("compare", *SMALL, f"study_dir={study}").stdout
    assert f"= 8 searches of up to 56 stages, {len(finished)} of them finished" in again
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert (study / "comparison.json").read_text() == (compared / "comparison.json").read_text()


def test_an_interruption_ends_the_workers_too(
    environment: dict[str, str], launch: Run, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    arguments = command("compare", *SMALL, "seeds=50", f"study_dir={study}")
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not list(study.glob("*/*/*/tree.jsonl")):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, "the same command goes on" in errors) == (INTERRUPTED, True)
    begun = set(study.glob("*/*/*/tree.jsonl"))
    time.sleep(0.5)
    assert set(study.glob("*/*/*/tree.jsonl")) == begun
    assert len(begun) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "methods={good: ['search=paper'], bad: ['search=nothing']}",
            "methods.bad on tasks.easy: search=nothing: must be one of",
        ),
        ("methods={good: ['search=paper'], bad: ['search.depth=3']}", "methods.bad on tasks.easy: "),
        (
            "tasks={easy: [], hard: ['runner.landscape=hard']}",
            "methods.paper on tasks.hard: runner.landscape=hard: must be one of",
        ),
        ("methods={paper: ['seed=3']}", "seed=3: the study gives every search its own seed"),
        ("methods={a/b: ['search=paper']}", "names become directories"),
        ("methods={paper: 'search=paper'}", "methods.paper=search=paper: give methods={NAME: ['KEY=VALUE']}"),
        (
            "methods={a: ['search=paper'], b: ['budget.stages=99']}",
            "budget.stages on tasks.easy: is 8 for methods.a and 99 for methods.b",
        ),
        ("seeds=0", "seeds=0: must be how many"),
        ("seeds=[1,1]", "different integers"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    run_here: Run, tmp_path: Path, change: str, message: str
) -> None:
    refused = run_here("compare", *replaced(change), f"study_dir={tmp_path}/study", ok=False)
    assert refused.returncode == BAD_INPUT
    assert message in refused.stderr
    assert not (tmp_path / "study").exists()


def test_other_searches_are_not_mixed_in(run_here: Run, compared: Path) -> None:
    """The budget counts too: searches of other budgets cannot be compared."""
    changed = COMMON.replace("stages=8", "stages=9")
    refused = run_here("compare", *replaced(changed), f"study_dir={compared}", ok=False)
    assert refused.returncode == BAD_INPUT
    assert "budget.stages is 8 there and 9 here. Choose another study_dir" in refused.stderr


def test_a_failing_cell_is_reported_and_leaves_the_others_alone(launch: Run, tmp_path: Path) -> None:
    study = tmp_path / "study"
    one_task = [*replaced("tasks={easy: []}"), f"study_dir={study}"]
    launch("compare", *one_task, "dry_run=true")
    assert not study.exists()
    in_the_way = study / "easy" / "paper" / "seed-1" / "tree.jsonl"
    in_the_way.mkdir(parents=True)
    failed = launch("compare", *one_task, ok=False)
    assert failed.returncode == FAILED
    assert "failed: paper on easy, seed 1: " in failed.stdout.splitlines()[-1]
    comparison = read(study / "comparison.json")
    assert comparison["unfinished"] == ["paper on easy, seed 1"]
    assert [comparison["per_task"]["easy"][method]["runs"] for method in comparison["methods"]] == [1, 2]
    assert "- paper on easy, seed 1" in (study / "comparison.md").read_text()
    in_the_way.rmdir()
    launch("compare", *one_task)
    assert read(study / "comparison.json")["unfinished"] == []


def test_a_process_that_dies_takes_no_other_cell_with_it(launch: Run, tmp_path: Path) -> None:
    deadly = [
        "methods={deadly: ['runner._target_=tests.integration.odd_runners.DeadlyRunner']}",
        "tasks={easy: []}",
        COMMON,
    ]
    died = launch("compare", *deadly, "seeds=4", f"study_dir={tmp_path}/study", ok=False)
    assert died.returncode == FAILED
    assert "failed: deadly on easy, seed 1: its process ended: " in died.stdout
    assert read(tmp_path / "study" / "comparison.json")["unfinished"] == ["deadly on easy, seed 1"]


DEADLY = "runner._target_=tests.integration.odd_runners.DeadlyRunner"


@pytest.mark.parametrize(
    ("methods", "tasks", "finished", "complete"),
    [
        (
            METHODS,
            f"tasks={{easy: [], deadly: ['{DEADLY}']}}",
            {"easy": ["paper", "practitioner"], "deadly": []},
            ["easy"],
        ),
        (
            f"methods={{deadly: ['{DEADLY}'], paper: ['search=paper']}}",
            "tasks={easy: []}",
            {"easy": ["paper"]},
            [],
        ),
        (f"methods={{deadly: ['{DEADLY}']}}", "tasks={easy: []}", {"easy": []}, []),
    ],
)
def test_methods_are_compared_where_all_have_finished(
    launch: Run, tmp_path: Path, methods: str, tasks: str, finished: dict[str, list[str]], complete: list[str]
) -> None:
    study = tmp_path / "study"
    launched = launch("compare", methods, tasks, COMMON, "seeds=[1]", f"study_dir={study}", ok=False)
    assert launched.returncode == FAILED
    comparison = read(study / "comparison.json")
    assert {task: list(table) for task, table in comparison["per_task"].items()} == finished
    assert comparison["complete_tasks"] == complete
    assert list(comparison["overall"]) == (["paper", "practitioner"] if complete else [])
    assert ("Without deadly" in (study / "comparison.md").read_text()) == bool(complete)
    assert (study / "final_scores.png").exists() == any(finished.values())


def test_a_finished_search_has_its_incumbents_tested_when_asked_later(run_here: Run, tmp_path: Path) -> None:
    search = ["experiment=simulated", "budget.stages=4", f"search_dir={tmp_path}/s"]
    run_here("search", *search)
    without = read(tmp_path / "s" / "test.json")
    run_here("search", *search, "search.test_incumbents=true")
    assert {
        key: value for key, value in read(tmp_path / "s" / "test.json").items() if key != "trajectory"
    } == without
    assert (
        read(tmp_path / "s" / "summary.json")["test"]["trajectory"][-1]["score"] == without["best"]["score"]
    )


def test_a_search_without_a_report_gets_one_when_asked_later(run_here: Run, tmp_path: Path) -> None:
    search = ["experiment=simulated", "budget.stages=4", f"search_dir={tmp_path}/s"]
    run_here("search", *search, "search.report=false")
    assert not (tmp_path / "s" / "report.html").exists()
    run_here("search", *search)
    assert "0004" in (tmp_path / "s" / "report.html").read_text()


def test_strategies_are_replayed_on_every_task(launch: Run, compared: Path, tmp_path: Path) -> None:
    sources = {name: compared / name / "paper" / "seed-0" for name in ("easy", "deceptive")}
    strategies = (
        f"strategies={{of_easy: {sources['easy']}, of_deceptive: {sources['deceptive']}/strategy.yaml}}"
    )
    tasks = TASKS.replace(", 'budget.stages=6'", "")
    launch(
        "transfer", strategies, tasks, "common=['experiment=simulated']", "seeds=3", f"study_dir={tmp_path}/t"
    )
    transfer = read(tmp_path / "t" / "transfer.json")
    assert transfer["unfinished"] == []
    for task in ("easy", "deceptive"):
        for name, source in (("of_easy", sources["easy"]), ("of_deceptive", sources["deceptive"])):
            directories = [tmp_path / "t" / task / name / f"seed-{seed}" for seed in range(3)]
            tests = [read(directory / "test.json") for directory in directories]
            apart = np.array([test["best"]["score"] - test["practitioner"]["score"] for test in tests])
            gain = transfer["gains"][task][name]
            assert (gain["runs"], gain["mean"]) == (3, pytest.approx(apart.mean()))
            assert gain["stderr"] == pytest.approx(apart.std(ddof=1) / np.sqrt(3))
            replayed = EventStore(directories[0] / "tree.jsonl", repair=False).tree
            tree = EventStore(source / "tree.jsonl", repair=False).tree
            assert [n.hparams for n in replayed.stages()] == [
                n.hparams for n in tree.path(tree.best().node_id)[1:]
            ]
    assert (tmp_path / "t" / "transfer.md").read_text().count("| of_easy |") == 1
    assert (tmp_path / "t" / "transfer.png").read_bytes().startswith(b"\x89PNG")


def test_a_transfer_says_which_baselines_failed_and_tries_them_again(
    launch: Run, run_here: Run, tmp_path: Path
) -> None:
    run_here("search", "experiment=simulated", "budget.stages=3", f"search_dir={tmp_path}/s")
    runner = "runner._target_=tests.integration.odd_runners.FailsOnceRunner"
    transfer = (f"strategies={{mine: {tmp_path}/s}}", "tasks={easy: ['runner.landscape=easy']}", "seeds=1")
    asked = (*transfer, f"common=['experiment=simulated', '{runner}']", f"study_dir={tmp_path}/t")
    launch("transfer", *asked)
    first = read(tmp_path / "t/transfer.json")
    gain = first["gains"]["easy"]["mine"]
    assert (gain["runs"], gain["mean"], gain["failed"]) == (0, None, 1)
    assert first["unfinished"] == []
    assert [line.partition(": ")[0] for line in first["failed"]] == ["mine on easy, seed 0"]
    page = (tmp_path / "t/transfer.md").read_text()
    assert "| mine | failed |" in page
    assert "## Baselines that failed" in page
    launch("transfer", *asked)
    again = read(tmp_path / "t/transfer.json")
    assert again["failed"] == []
    assert (again["gains"]["easy"]["mine"]["runs"], again["gains"]["easy"]["mine"]["failed"]) == (1, 0)


def test_a_missing_strategy_is_refused(run_here: Run, tmp_path: Path) -> None:
    refused = run_here(
        "transfer",
        f"strategies={{gone: {tmp_path}/gone.yaml}}",
        TASKS,
        COMMON,
        f"study_dir={tmp_path}/t",
        ok=False,
    )
    assert refused.returncode == BAD_INPUT
    assert "strategies.gone on tasks.easy: " in refused.stderr
