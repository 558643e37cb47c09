"""The claim about dynamics on searches whose truth is planted, and on simulated ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.claim import CLAIM
from analysis.dynamics import analyse
from analysis.dynamics_text import as_markdown
from analysis.load import load
from analysis.paths import SHAPES
from analysis.synthetic import BUILT_IN, PRIOR, WITH, WITHOUT, WORLDS, Sample, rejections
from analysis.synthetic_searches import CHANCE, PLANTED, World, tables_of, write_search
from analysis.tables import Tables
from tests.unit.analysis.searches import assert_same_tables, run_python, simulated_search


def test_planted_truth_is_found_and_chance_is_not() -> None:
    planted, chance = (analyse(tables_of(world, range(20)), draws=400) for world in (PLANTED, CHANCE))
    assert planted["verdict"] == "supported"
    assert planted["contrast"]["beyond_chance"]["low"] > 0
    assert chance["verdict"] == "not supported"
    assert {part["verdict"] for part in chance["parts"].values()} == {"not supported"}
    grown = {row["parameter"]: row["p_holm"] for row in planted["parameters"] if row["group"] == "capacity"}
    assert len(grown) == 3 and max(grown.values()) < 0.05


def test_what_a_prior_does_as_well_is_not_supported() -> None:
    worlds = (World("grows", "oscillates", "prior"), World("coin", "coin", "prior"))
    same_way, coins = (tables_of(world, range(100, 110)) for world in worlds)
    planted = tables_of(PLANTED, range(10))
    assert analyse(planted, coins, draws=400)["verdict"] == "supported"
    refuted = analyse(planted, same_way, draws=400)
    assert refuted["verdict"] == "not supported"
    assert "prior gives as much" in refuted["parts"]["capacity"]["why"]


def test_a_search_that_grows_or_shrinks_throughout_does_not_grow() -> None:
    report = analyse(tables_of(World("trends", "oscillates"), range(20)), draws=400)
    assert report["parts"]["capacity"]["verdict"] == "not supported"
    assert "direction gives as much" in report["parts"]["capacity"]["why"]


def test_few_searches_and_short_paths_are_too_little_data() -> None:
    few = analyse(tables_of(PLANTED, range(4)), draws=200)
    assert few["verdict"] == "too little data"
    assert "at least 5 have to" in few["parts"]["capacity"]["why"]
    tables = tables_of(PLANTED, range(5))
    short = Tables(**{**dict(tables.items()), "changes": first_changes(tables.changes, "regularization", 2)})
    report = analyse(short, draws=200)
    assert report["parts"]["regularization"]["verdict"] == "too little data"
    assert "too short" in report["parts"]["regularization"]["why"]


def first_changes(changes: pd.DataFrame, group: str, most: int) -> pd.DataFrame:
    """Leave of the best path's changes of each parameter of a group only the first."""
    number = (
        changes[changes["on_best_path"]].groupby(["search", "parameter"]).cumcount().reindex(changes.index)
    )
    return changes[(changes["group"] != group) | (number < most)]


def renamed(tables: Tables, name: str, column: str = "search") -> Tables:
    """Write something before the names of all searches, or of all parameters."""
    return Tables(
        **{
            key: table.assign(**{column: name + table[column]}) if column in table else table
            for key, table in tables.items()
        }
    )


def copied(tables: Tables, times: int, *, seeds: bool = False) -> Tables:
    """Return each search so often, under names of its own; with `seeds` also with seeds of its own."""
    parts = [renamed(tables, f"{i}/") for i in range(times)]
    if seeds:
        parts = [
            replace(part, searches=part.searches.assign(seed=part.searches["seed"] + 100 * i))
            for i, part in enumerate(parts)
        ]
    return Tables.concatenated(parts)


BLIND = World("coin", "coin", "blind")
TOO_LITTLE: dict[str, Callable[[], Tables]] = {
    "one search": lambda: tables_of(BLIND, range(1)),
    "four searches": lambda: tables_of(BLIND, range(4)),
    "copies of one search": lambda: copied(tables_of(BLIND, range(1)), 12),
    "equal searches": lambda: copied(tables_of(BLIND, range(1)), 12, seeds=True),
    "paths of one stage": lambda: tables_of(replace(BLIND, depths=(1,)), range(12)),
    "no common parameter": lambda: renamed(tables_of(BLIND, range(12)), "other_", "parameter"),
    "the searches in question": lambda: tables_of(PLANTED, range(12)),
    "copies of those in question": lambda: copied(tables_of(PLANTED, range(12)), 1),
}


@pytest.mark.parametrize("given", TOO_LITTLE)
def test_a_prior_that_tells_nothing_is_too_little_data(given: str) -> None:
    report = analyse(tables_of(PLANTED, range(12)), TOO_LITTLE[given](), draws=200)
    assert report["prior_measured"]
    [proposer] = report["prior_searches"]
    for part in report["parts"].values():
        assert (part["verdict"], part["not_comparable"]) == ("too little data", [proposer])
        assert f"with {proposer} too little is comparable" in part["why"]
        assert not [test for test in part["tests"] if test["null"].startswith("prior")]
    assert as_markdown(report).count(f"prior: {proposer} |  |  | too little data") == 2


@pytest.mark.parametrize(
    "given", ["one search", "four searches", "copies of one search", "paths of one stage"]
)
def test_searches_that_tell_nothing_are_too_little_data(given: str) -> None:
    report = analyse(TOO_LITTLE[given](), tables_of(BLIND, range(20, 32)), draws=200)
    assert report["verdict"] == "too little data"
    assert {part["verdict"] for part in report["parts"].values()} == {"too little data"}
    assert not [test for part in report["parts"].values() for test in part["tests"]]
    assert {row["p"] for row in report["parameters"]} <= {None}
    assert report["contrast"] is None
    assert as_markdown(report)


def test_copies_of_searches_count_as_one() -> None:
    plain, prior = tables_of(PLANTED, range(8)), tables_of(BLIND, range(8))
    thrice = analyse(copied(plain, 3), copied(prior, 2), draws=200)
    once = analyse(copied(plain, 1), prior, draws=200)
    assert (once.pop("copies"), thrice.pop("copies")) == (0, 16 + 8)
    assert thrice == once
    other_seeds = analyse(copied(plain, 3, seeds=True), prior, draws=200)
    assert (other_seeds["copies"], other_seeds["searches"]) == (0, 24)


def test_error_rates_of_a_few_studies() -> None:
    """The whole measurement is `python -m analysis.synthetic`."""
    few, many = Sample(6, (5, 6, 7, 8)), Sample(12, (5, 6, 7, 8))
    false = rejections(CHANCE, CHANCE, (few, few), range(12), WORLDS[CHANCE])
    assert false["claim", WITH] == 0
    assert all(false[part.says, null] <= 4 for part in CLAIM for null in (*WORLDS[CHANCE][part.group], PRIOR))
    true = rejections(PLANTED, CHANCE, (many, many), range(4), BUILT_IN)
    assert true["claim", WITHOUT] >= true["claim", WITH] >= 3


def test_the_command_writes_verdict_tables_and_trajectories(real: Path, tmp_path: Path) -> None:
    command = ("-m", "analysis.dynamics")
    done = run_python(*command, real / "rules", "--null", real / "random", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "too little data" in done.stdout
    report = json.loads((tmp_path / "out/dynamics.json").read_text())
    assert report["prior_searches"] == {"random": 1}
    rows = pd.read_csv(tmp_path / "out/trajectories.csv")
    assert set(rows["shape"]) <= set(SHAPES)
    assert rows[rows["paths"] == "best"].groupby("search")["end"].nunique().tolist() == [1, 1]
    bad = run_python(*command, tmp_path / "missing")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


def test_a_search_without_changes_is_too_little_data(tmp_path: Path) -> None:
    report = analyse(
        load([simulated_search(tmp_path / "s", "search=practitioner", "budget.stages=3")]), draws=50
    )
    assert report["verdict"] == "too little data"
    assert as_markdown(report)


def test_synthetic_directories_hold_the_same_as_their_tables(tmp_path: Path) -> None:
    for seed in range(3):
        write_search(tmp_path / f"planted-{seed}", PLANTED, seed)
    written, made = load([tmp_path]), tables_of(PLANTED, range(3))
    named = {str(tmp_path / name): name for name in made.searches["search"]}
    plain = Tables(
        **{name: table.assign(search=table["search"].map(named)) for name, table in written.items()}
    )
    assert_same_tables(plain, made, "stages", "changes")
    both = made.searches.columns.intersection(plain.searches.columns)
    pd.testing.assert_frame_equal(plain.searches[both], made.searches[both], check_dtype=False)
    assert analyse(plain, draws=100) == analyse(made, draws=100)
