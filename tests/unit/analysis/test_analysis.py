"""The analysis of finished searches: real simulated ones, and synthetic ones whose truth is known."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.calibration import calibration
from analysis.dynamics import analyse
from analysis.dynamics_text import as_markdown
from analysis.figures import draw
from analysis.load import load
from analysis.nulls import Null, NullSamples, flip_searches, flip_stages, redraw_values, reorder_stages
from analysis.paths import SHAPES, Counts, Paths, SearchPath
from analysis.report import page
from analysis.stopping import stopping
from analysis.synthetic import rejections
from analysis.synthetic_searches import CHANCE, PLANTED, World, nodes_of, tables_of, write_search
from analysis.tables import Tables
from llmzero.cli import composed
from llmzero.core.errors import UserError
from llmzero.mirrors.summary import stopping_record
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.llm_server import LLMServer, scripted

AUDITING = ["stopper.audit_fraction=0.5", "stopper.min_step=4", "stopper.min_points=2"]


def search(directory: Path, *overrides: str) -> Path:
    """Run a real search on the simulator."""
    overrides = ("experiment=simulated", f"search_dir={directory}", *overrides)
    Session.from_config(composed("search", SearchConfig, overrides)).run()
    return directory


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two searches by rules, one of which audits stages, and one by the random agent."""
    folder = tmp_path_factory.mktemp("real")
    search(folder / "rules/seed-1", "seed=1", "runner.landscape=deceptive", *AUDITING)
    search(folder / "rules/seed-2", "seed=2")
    search(folder / "random/seed-1", "seed=1", "agent=random")
    return folder


@pytest.fixture(scope="module")
def tables(real: Path) -> Tables:
    return load([real])


def same(a: Tables, b: Tables, *names: str) -> None:
    for name in names:
        left, right = (getattr(t, name).sort_index(axis=1) for t in (a, b))
        pd.testing.assert_frame_equal(left, right, check_dtype=False)


# --- load ---


def test_tables_hold_what_the_searches_did(real: Path, tables: Tables) -> None:
    assert sorted(tables.searches["search"]) == sorted(
        str(real / name) for name in ("rules/seed-1", "rules/seed-2", "random/seed-1")
    )
    for row in tables.searches.itertuples():
        directory = Path(row.search)
        store, summary = (
            EventStore(directory / "tree.jsonl", repair=False),
            json.loads((directory / "summary.json").read_text()),
        )
        assert (row.state, row.best_score, row.gpu_seconds) == (
            "finished",
            summary["best"]["score"],
            summary["budget"]["gpu_seconds"],
        )
        assert row.test_best == summary["test"]["best"]["score"]
        stages = tables.stages[tables.stages["search"] == row.search].set_index("node")
        assert stages.index[stages["on_best_path"]].tolist() == summary["best"]["path"]
        assert stages["state"].to_dict() == {node.node_id: node.state for node in store.tree}
        steps = tables.steps[tables.steps["search"] == row.search]
        for node in store.tree:
            lines = directory / "nodes" / node.node_id / "metrics.jsonl"
            rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
            assert steps.loc[steps["node"] == node.node_id, "kl"].tolist() == [line["kl"] for line in rows]


def test_changes_lead_from_each_parent_to_its_child(tables: Tables) -> None:
    hparams = {(row.search, row.node): json.loads(row.hparams) for row in tables.stages.itertuples()}
    changed: dict[tuple[str, str], set[str]] = {}
    for row in tables.changes.itertuples():
        before, after = (
            hparams[row.search, row.parent][row.parameter],
            hparams[row.search, row.node][row.parameter],
        )
        assert (row.before, row.after) == (str(before), str(after))
        assert 0 <= row.position_before <= 1 and 0 <= row.position_after <= 1
        assert row.direction == (1 if row.position_after > row.position_before else -1)
        if not isinstance(before, str):
            assert row.direction == (1 if after > before else -1)
        changed.setdefault((row.search, row.node), set()).add(row.parameter)
    for row in tables.stages[tables.stages["parent"].notna()].itertuples():
        before, after = hparams[row.search, row.parent], hparams[row.search, row.node]
        assert changed.get((row.search, row.node), set()) == {
            name for name in before if before[name] != after[name]
        }


def test_saved_tables_are_read_back_and_a_search_counts_once(
    real: Path, tables: Tables, tmp_path: Path
) -> None:
    tables.save(tmp_path / "saved")
    same(load([tmp_path / "saved"]), tables, "searches", "stages", "steps", "validation", "changes")
    same(
        load([real, real / "random/../rules", tmp_path / "saved"]),
        tables,
        "searches",
        "stages",
        "steps",
        "validation",
        "changes",
    )


def test_a_search_that_was_killed_is_read_as_far_as_it_got(real: Path, tmp_path: Path) -> None:
    """Its log ends within a line, a stage runs still, and files are missing."""
    killed = tmp_path / "killed"
    shutil.copytree(real / "rules/seed-2", killed)
    lines = (killed / "tree.jsonl").read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"event": "started"' in line)
    (killed / "tree.jsonl").write_bytes(b"".join(lines[: last + 1]) + lines[last + 1][:40])
    running = json.loads(lines[last])["node_id"]
    metrics = killed / "nodes" / running / "metrics.jsonl"
    whole = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(whole[:5]) + whole[5][:30])
    shutil.rmtree(killed / "nodes/0002")
    (killed / "summary.json").unlink()
    tables = load([killed])
    assert tables.searches["state"].tolist() == ["unfinished"]
    stages = tables.stages.set_index("node")
    assert stages.loc[running, "state"] == "running"
    assert math.isnan(stages.loc[running, "gain"])
    assert (tables.steps["node"] == running).sum() == 5
    assert "0002" in stages.index and "0002" not in set(tables.steps["node"])
    assert as_markdown(analyse(tables, draws=50))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "tree.jsonl",
            '{"event": "created", oops\n{"event": "ended", "elapsed": 0}\n',
            "tree.jsonl: cannot be read",
        ),
        ("config.yaml", "hparams: [", "config.yaml: cannot be read"),
        ("config.yaml", "a: 1", "hparams.parameters: missing"),
        ("nodes/0001/metrics.jsonl", "{]\n{}\n", "metrics.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(
    real: Path, tmp_path: Path, file: str, content: str, words: str
) -> None:
    shutil.copytree(real / "rules/seed-2", tmp_path / "broken")
    (tmp_path / "broken" / file).write_text(content)
    with pytest.raises(UserError, match=words):
        load([tmp_path])


def test_a_folder_without_searches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no search"):
        load([tmp_path])
    with pytest.raises(UserError, match="no such directory"):
        load([tmp_path / "missing"])


@pytest.fixture
def old_format(real: Path, tmp_path: Path) -> Path:
    """A search as versions without the group `llm` and with `stage.yaml` left it."""
    directory = tmp_path / "old"
    shutil.copytree(real / "rules/seed-1", directory)
    config = yaml.safe_load((directory / "config.yaml").read_text())
    llm = {**config.pop("llm"), "model": "some-model"}
    config["agent"] = {"_target_": "llmzero.agents.llm.LlmAgent", "name": "openai", **llm}
    config["stopper"] = {"_target_": "llmzero.agents.llm_stopper.LlmStopper", "interval_s": 900.0, **llm}
    config["tracking"] = {"_target_": "llmzero.tracking.WandbTracking", "_convert_": "all", "mode": "offline"}
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for file in directory.glob("nodes/*/stage.*"):
        file.unlink()
    for node in (directory / "nodes").iterdir():
        (node / "stage.yaml").write_text("node_id: '0001'\nhparams: {learning_rate: 1.0e-06}\n")
    return directory


def test_directories_of_earlier_versions_are_read(real: Path, old_format: Path, tables: Tables) -> None:
    new = tables.of([str(real / "rules/seed-1")])
    old = load([old_format])
    labels = ["search", "agent", "proposer", "stopper"]
    assert old.searches[labels[1:]].to_numpy().tolist() == [["openai", "openai", "LlmStopper some-model"]]
    for name, table in old.items():
        left, right = (
            t.drop(columns=labels if name == "searches" else "search").reset_index(drop=True)
            for t in (table, getattr(new, name))
        )
        pd.testing.assert_frame_equal(left.sort_index(axis=1), right.sort_index(axis=1), check_dtype=False)
    assert page(old, None, "Old", draw(old))


# --- shapes and nulls ---


@pytest.mark.parametrize(
    ("directions", "shape", "turns"),
    [
        ([0, 0, 0], "constant", 0),
        ([0, 1, 0], "single change", 0),
        ([1, 0, 1], "monotone up", 0),
        ([-1, -1, -1], "monotone down", 0),
        ([1, 0, -1], "oscillating", 1),
        ([1, -1, -1, 1], "oscillating", 2),
        ([0, -1, 0, 1, -1], "oscillating", 2),
    ],
)
def test_shapes(directions: list[int], shape: str, turns: int) -> None:
    counts = Counts.of(np.array(directions, np.int8)[:, None])
    assert SHAPES[int(counts.shapes[0])] == shape
    assert counts.turns[0] == turns


def path_with(*columns: list[int], values: float = np.nan) -> SearchPath:
    signs = np.array(columns, np.int8).T
    return SearchPath("s", "e", signs, np.full(len(columns), 0.5), np.full(len(columns), values))


@pytest.mark.parametrize("null", [flip_searches, flip_stages, reorder_stages, redraw_values])
@pytest.mark.parametrize("values", [np.nan, 5.0])
def test_nulls_change_the_same_parameters_as_often(null: Null, values: float) -> None:
    line = path_with([1, 0, -1, 1, 1], [0, 0, 1, 0, -1], [1, 1, 1, 1, 1], values=values)
    versions = Counts.of(null(line, 200, np.random.default_rng(0)))
    assert (versions.changes == line.counts.changes).all()


@pytest.mark.parametrize(
    ("null", "column", "grown", "turning"),
    [
        (flip_searches, [1, 1], 1 / 2, 0),
        (flip_stages, [1, 1], 1 / 4, 1 / 2),
        (reorder_stages, [1, 1, -1], 0, 2 / 3),
        (redraw_values, [1, 1], 1 / 8, 1 - 2 / 8),
    ],
)
def test_nulls_give_what_can_be_counted_by_hand(
    null: Null, column: list[int], grown: float, turning: float
) -> None:
    counts = Counts.of(null(path_with(column), 20_000, np.random.default_rng(0)))
    assert (counts.ups == counts.changes).mean() == pytest.approx(grown, abs=0.02)
    assert (counts.turns / (counts.changes - 1)).mean() == pytest.approx(turning, abs=0.02)


def test_the_p_value_of_short_paths_is_what_coins_give() -> None:
    """Two searches that changed a parameter twice, upwards both times: four heads in a row."""
    versions = NullSamples.draw(
        "chance",
        flip_stages,
        lambda c: (c.ups == c.changes).astype(float),
        [path_with([1, 1]), path_with([1, 0, 1])],
        20_000,
    )
    outcome = versions.outcome()
    assert outcome is not None
    assert (outcome.p, outcome.floor, outcome.expected) == pytest.approx((1 / 16, 1 / 16, 1 / 4), abs=0.01)


# --- the claim ---


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


def test_error_rates_of_a_few_studies() -> None:
    """The whole measurement is `python -m analysis.synthetic`."""
    false = rejections(CHANCE, World("coin", "coin", "same"), 12, 6)
    assert false["claim", "all"] == 0
    assert all(
        count <= 4
        for (part, null), count in false.items()
        if null in ("direction", "chance", "order", "prior: same")
    )
    true = rejections(PLANTED, World("coin", "coin", "coins"), 4, 12)
    assert true["claim", "all but the prior"] >= 3


def test_synthetic_directories_hold_the_same_as_their_tables(tmp_path: Path) -> None:
    for seed in range(3):
        write_search(tmp_path / f"planted-{seed}", PLANTED, seed)
    written, made = load([tmp_path]), tables_of(PLANTED, range(3))
    named = {str(tmp_path / name): name for name in made.searches["search"]}
    plain = Tables(
        **{name: table.assign(search=table["search"].map(named)) for name, table in written.items()}
    )
    same(plain, made, "stages", "changes")
    both = made.searches.columns.intersection(plain.searches.columns)
    pd.testing.assert_frame_equal(plain.searches[both], made.searches[both], check_dtype=False)
    assert analyse(plain, draws=100) == analyse(made, draws=100)


def test_paths_are_those_of_the_trees() -> None:
    tables = tables_of(PLANTED, range(3))
    paths = Paths.of(tables)
    for seed, line in enumerate(paths.best):
        nodes = {node.node_id: node for node, _ in nodes_of(PLANTED, seed)}
        node = nodes[line.end]
        positions: list[list[float]] = []
        while node.parent_id is not None:
            positions.insert(
                0, [node.hparams[name] - nodes[node.parent_id].hparams[name] for name in paths.parameters]
            )
            node = nodes[node.parent_id]
        assert (np.sign(positions) == line.signs).all()
    assert len(paths.leaves) == sum(
        node.startswith("0") and leaf
        for node, leaf in zip(tables.stages["node"], tables.stages["leaf"], strict=True)
    )


def test_the_command_writes_verdict_tables_and_trajectories(real: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "analysis.dynamics",
        str(real / "rules"),
        "--null",
        str(real / "random"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert "too little data" in done.stdout
    report = json.loads((tmp_path / "out/dynamics.json").read_text())
    assert report["prior_searches"] == {"random": 1}
    rows = pd.read_csv(tmp_path / "out/trajectories.csv")
    assert set(rows["shape"]) <= set(SHAPES)
    assert rows[rows["paths"] == "best"].groupby("search")["end"].nunique().tolist() == [1, 1]
    bad = subprocess.run(
        [*command[:3], str(tmp_path / "missing")], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


def test_a_search_without_changes_is_too_little_data(tmp_path: Path) -> None:
    report = analyse(load([search(tmp_path / "s", "search=practitioner", "budget.stages=3")]), draws=50)
    assert report["verdict"] == "too little data"
    assert as_markdown(report)


# --- stopping and calibration ---


def test_stopping_agrees_with_a_comparison(tmp_path: Path) -> None:
    auditing = "['experiment=simulated', 'search.stage_steps=32', 'stopper.audit_fraction=0.5']"
    study = [
        "methods={llmzero: ['search=llmzero'], random: ['search=random']}",
        "tasks={deceptive: ['runner.landscape=deceptive']}",
        "seeds=2",
    ]
    command = [sys.executable, "launchers/compare.py", *study, f"common={auditing}", f"study_dir={tmp_path}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    compared = json.loads((tmp_path / "comparison.json").read_text())["per_task"]["deceptive"]
    rows = {row["method"]: row for row in stopping(load([tmp_path]))}
    for method, entry in compared.items():
        for key in ("stopped", "saved_gpu_seconds", "audited", "false_kills", "saved_share"):
            assert rows[method][key] == pytest.approx(entry["stopper"][key])
        assert rows[method]["gpu_seconds"] == pytest.approx(entry["gpu_seconds"])
    assert sum(row["audited"] for row in rows.values()) > 0


def test_what_false_kills_would_have_cost(real: Path, tables: Tables) -> None:
    tree = EventStore(real / "rules/seed-1/tree.jsonl", repair=False).tree
    audited = [node for node in tree.stages() if node.stop and node.stop["event"] == "audited"]
    lost = [max(0.0, (node.score or 0.0) - node.stop["incumbent"]) for node in audited if node.stop]
    rows = [row for row in stopping(tables) if "deceptive" in row["task"]]
    assert [(row["audited"], row["false_kills"]) for row in rows] == [
        (len(audited), stopping_record(tree)["false_kills"])
    ]
    assert len(audited) > 0 and rows[0]["lost"] == pytest.approx(np.mean(lost))


@pytest.fixture
def expecting(tmp_path: Path) -> Iterator[Path]:
    """A search by a language model, which says what it expects."""
    with LLMServer(scripted) as server:
        asked = [
            "agent=openai",
            "llm.model=scripted",
            f"llm.base_url={server.url}",
            "llm.api_key_env=null",
            "llm.retries=0",
        ]
        yield search(
            tmp_path / "llm",
            *asked,
            "search.workers=1",
            "search.method.unchanged_fraction=0",
            "budget.stages=10",
        )


def test_expectations_are_compared_with_what_came(expecting: Path) -> None:
    tree = EventStore(expecting / "tree.jsonl", repair=False).tree
    stages: list[tuple[dict[str, Any], float, float]] = [
        (node.proposal["expected"], node.score, tree[node.parent_id].score or 0.0)
        for node in tree.stages()
        if node.proposal.get("expected") and node.score is not None and node.parent_id
    ]
    report = calibration(load([expecting]))["expected"]
    scores = [
        abs(score - expected["score"]) for expected, score, _ in stages if expected["score"] is not None
    ]
    assert len(scores) == report["score"]["stages"] > 0
    assert report["score"]["mean_absolute_error"] == pytest.approx(np.mean(scores))
    chances = [
        (expected["probability"], score > start)
        for expected, score, start in stages
        if expected["probability"] is not None
    ]
    assert report["probability"]["brier"] == pytest.approx(
        np.mean([(stated - gained) ** 2 for stated, gained in chances])
    )
    assert sum(row["stages"] for row in report["probability"]["reliability"]) == len(chances)
    assert all(0 <= row["as_expected"] <= 1 for row in report["metrics"])


def test_gains_of_changes_are_counted_within_searches(tables: Tables) -> None:
    """Against a slow count: the mean over searches of the mean excess of stages that raised a parameter."""
    rows = {row["label"]: row for row in calibration(tables)["changes"]}
    ended = (
        tables.stages[tables.stages["parent"].notna()]
        .merge(tables.searches[["search", "task"]], on="search")
        .set_index(["search", "node"])
    )
    usual = ended.groupby(["task", "depth"])["gain"].mean()
    label, row = max(rows.items(), key=lambda item: item[1]["stages"])
    name, way = label.rsplit(" ", 1)
    raised = tables.changes[
        (tables.changes["parameter"] == name) & (tables.changes["direction"] == {"up": 1, "down": -1}[way])
    ]
    by_search: dict[str, list[float]] = {}
    for change in raised.itertuples():
        stage = ended.loc[(change.search, change.node)]
        by_search.setdefault(change.search, []).append(stage["gain"] - usual[stage["task"], stage["depth"]])
    assert row["stages"] == len(raised)
    assert row["excess"] == pytest.approx(np.mean([np.nanmean(values) for values in by_search.values()]))
