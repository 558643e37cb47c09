"""Confirmation on fresh seeds: runs, cost and winner; added later, killed at any moment, and trained."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, Run, command, read_lines
from tests.integration.odd_runners import CountingRunner

SIMULATED = ["experiment=simulated", "search.workers=1", "budget.stages=8"]
CONFIRMED = [*SIMULATED, "search.confirm_seeds=3"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def confirmed(run_here: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    search = tmp_path_factory.mktemp("confirmed") / "s"
    (search.parent / "printed").write_text(run_here("search", *CONFIRMED, f"search_dir={search}").stdout)
    return search


def test_the_best_strategies_and_the_practitioner_are_replayed_on_fresh_seeds(confirmed: Path) -> None:
    confirmation = read(confirmed / "confirmation.json")
    assert confirmation["seeds"] == [1000, 1001, 1002]
    assert confirmation["stages"] == 8
    assert len(confirmation["strategies"]) == 2
    best = read(confirmed / "summary.json")["best"]["node_id"]
    assert f"strategy-{best}" in confirmation["strategies"]
    most = max(strategy["flops"] for strategy in confirmation["strategies"].values())
    assert confirmation["practitioner"]["flops"] == pytest.approx(most, rel=0.1)
    (practitioner,) = {path.name for path in (confirmed / "confirm").glob("practitioner-*")}
    names = {**confirmation["strategies"], practitioner: confirmation["practitioner"]}
    assert {path.name for path in (confirmed / "confirm").iterdir()} == set(names)
    for name, scores in names.items():
        replays = [
            read(confirmed / "confirm" / name / f"seed-{seed}" / "summary.json")
            for seed in confirmation["seeds"]
        ]
        assert scores["test"] == [replay["test"]["best"]["score"] for replay in replays]
        assert scores["validation"] == [replay["best"]["score"] for replay in replays]
        assert scores["incomplete"] == 0
        assert {replay["test"]["practitioner"] for replay in replays} == {None}, "it has replays of its own"
        assert {replay["confirmation"] for replay in replays} == {None}
        configs = [
            yaml.safe_load((confirmed / "confirm" / name / f"seed-{seed}" / "config.yaml").read_text())
            for seed in confirmation["seeds"]
        ]
        assert [config["seed"] for config in configs] == confirmation["seeds"]
    assert confirmation["winner"] == max(
        confirmation["strategies"], key=lambda name: confirmation["strategies"][name]["validation_mean"]
    )
    assert read(confirmed / "summary.json")["confirmation"] == confirmation


def test_a_strategy_is_replayed_as_the_search_found_it(confirmed: Path) -> None:
    tree = EventStore(confirmed / "tree.jsonl", repair=False).tree
    for name in read(confirmed / "confirmation.json")["strategies"]:
        path = tree.path(name.removeprefix("strategy-"))[1:]
        replayed = EventStore(
            confirmed / "confirm" / name / "seed-1001/tree.jsonl", repair=False
        ).tree.stages()
        assert [node.hparams for node in replayed] == [node.hparams for node in path]


def test_test_data_is_read_after_each_replay_alone(confirmed: Path) -> None:
    def splits(pattern: str) -> list[str]:
        return [
            json.loads(path.read_text())["trainer"]["evaluation_split"] for path in confirmed.glob(pattern)
        ]

    assert set(splits("confirm/*/*/nodes/*/stage.json")) == {"val"}
    assert splits("confirm/*/*/test/*/stage.json") == ["test"] * 18  # base and best of nine replays


def test_it_is_told_in_a_line_and_charged_as_setup(run_here: Run, confirmed: Path, tmp_path: Path) -> None:
    printed = (confirmed.parent / "printed").read_text()
    assert sum(line.startswith("test on 3 fresh seeds: strategy-") for line in printed.splitlines()) == 1
    assert "not confirmed" not in printed
    assert (
        "  confirm      the best 2 strategies and the practitioner's on 3 fresh seeds, beyond the budget"
        in printed.splitlines()
    )
    alone = run_here("search", *SIMULATED, f"search_dir={tmp_path}/s").stdout
    assert "one seed; not confirmed" in alone
    with_it, without = read(confirmed / "summary.json")["budget"], read(tmp_path / "s/summary.json")["budget"]
    replays = [read(path)["budget"] for path in confirmed.glob("confirm/*/*/summary.json")]
    cost = sum(replay["gpu_seconds"] + replay["setup_gpu_seconds"] for replay in replays)
    assert cost > 0
    assert with_it["gpu_seconds"] == without["gpu_seconds"]
    assert with_it["setup_gpu_seconds"] == pytest.approx(without["setup_gpu_seconds"] + cost)


def test_a_finished_search_is_confirmed_later_and_by_more_seeds_and_strategies(
    run_here: Run, confirmed: Path, tmp_path: Path
) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, f"search_dir={search}")
    before = read_lines(search / "tree.jsonl")
    run_here("search", *SIMULATED, "search.confirm_seeds=2", "search.confirm_top=1", f"search_dir={search}")
    after = read_lines(search / "tree.jsonl")
    assert after[: len(before)] == before
    assert [event["event"] for event in after[len(before) :]] == ["setup"] * 4
    first = {path: path.read_bytes() for path in search.glob("confirm/*/*/tree.jsonl")}
    run_here("search", *CONFIRMED, f"search_dir={search}")
    assert read(search / "confirmation.json") == read(confirmed / "confirmation.json")
    assert {path: path.read_bytes() for path in first} == first, "what had been run is not run again"
    assert len(read_lines(search / "tree.jsonl")) == len(before) + len(list(search.glob("confirm/*/*")))


def test_killing_it_fifteen_times_changes_nothing(
    run_here: Run, environment: dict[str, str], confirmed: Path, tmp_path: Path
) -> None:
    search, rng = tmp_path / "s", random.Random(0)
    run_here("search", *SIMULATED, f"search_dir={search}")
    for _ in range(15):
        process = subprocess.Popen(
            command("search", *CONFIRMED, "search.workers=3", f"search_dir={search}"),
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
        while not (search / "confirm").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3 + rng.random() * 0.5)
        process.kill()
        process.wait()
    run_here("search", *CONFIRMED, f"search_dir={search}")
    assert read(search / "confirmation.json") == read(confirmed / "confirmation.json")
    setups = [
        event["name"]
        for event in read_lines(search / "tree.jsonl")
        if event["event"] == "setup" and event["name"].startswith("confirm/")
    ]
    assert len(setups) == len(set(setups)) == 9
    assert read(search / "summary.json")["state"] == "finished"


def test_replays_run_side_by_side_on_one_runner_and_come_out_alike(
    run_here: Run, confirmed: Path, tmp_path: Path
) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, f"search_dir={search}")
    CountingRunner.made = CountingRunner.most = 0
    counting = "runner._target_=tests.integration.odd_runners.CountingRunner"
    printed = run_here("search", *CONFIRMED, "search.workers=4", counting, f"search_dir={search}").stdout
    assert read(search / "confirmation.json") == read(confirmed / "confirmation.json")
    assert (CountingRunner.made, CountingRunner.most) == (1, 4)
    lines = [line for line in printed.splitlines() if line.startswith("Confirm")]
    assert [line.split()[0] for line in lines[:5]] == ["Confirming"] * 4 + ["Confirmed"]
    assert re.search(r"\(1 of 9, about \d+\.\d min left\)$", lines[4])
    assert lines[-1].endswith("(9 of 9)")


def test_a_replay_that_fails_leaves_the_others_alone(run_here: Run, confirmed: Path, tmp_path: Path) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, f"search_dir={search}")
    side_by_side = [*CONFIRMED, "search.workers=4", f"search_dir={search}"]
    unlucky = "runner._target_=tests.integration.odd_runners.UnluckyRunner"
    failed = run_here("search", *side_by_side, unlucky, ok=False)
    assert failed.returncode == 2
    assert "the base model could not be prepared: no luck" in failed.stderr
    assert "seed-1001" in failed.stderr
    states = {path.parent.name: read(path)["state"] for path in search.glob("confirm/*/*/summary.json")}
    assert states == {"seed-1000": "finished", "seed-1001": "interrupted", "seed-1002": "finished"}
    assert not (search / "confirmation.json").exists()
    run_here("search", *side_by_side)
    assert read(search / "confirmation.json") == read(confirmed / "confirmation.json")


def test_it_trains_for_real(launch: Run, tmp_path: Path) -> None:
    small = [
        *MICRO,
        "tracking=none",
        "runner.threads=1",
        "budget.stages=2",
        "search.stage_steps=4",
        "trainer.validation_every=2",
    ]
    launch("search", *small, "search.confirm_seeds=2", "search.confirm_top=1", f"search_dir={tmp_path}/s")
    confirmation = read(tmp_path / "s/confirmation.json")
    (strategy,) = confirmation["strategies"].values()
    assert strategy["incomplete"] == confirmation["practitioner"]["incomplete"] == 0
    assert confirmation["practitioner"]["flops"] == pytest.approx(strategy["flops"], rel=0.3)
    assert len(set(confirmation["base"]["test"])) == 1, "greedy answers of one base model to one test split"
    (replays,) = (tmp_path / "s/confirm").glob("practitioner-*")
    orders = [read_lines(replays / f"seed-{seed}/nodes/0001/metrics.jsonl") for seed in (1000, 1001)]
    assert orders[0][0]["reward_mean"] != orders[1][0]["reward_mean"], (
        "each seed has its own data and samples"
    )
