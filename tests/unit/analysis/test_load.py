"""Search directories as tables: finished, killed, broken and of earlier versions."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.dynamics import analyse
from analysis.dynamics_text import as_markdown
from analysis.figures import draw
from analysis.load import load
from analysis.report import page
from analysis.tables import Tables
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.tree.store import EventStore
from tests.unit.analysis.searches import assert_same_tables


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
    assert_same_tables(
        load([tmp_path / "saved"]), tables, "searches", "stages", "steps", "validation", "changes"
    )
    assert_same_tables(
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
    (killed / "nodes" / running / "result.json").unlink()
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
            "tree.jsonl:1: cannot be read",
        ),
        ("config.yaml", "hparams: [", "config.yaml: cannot be read"),
        ("config.yaml", "a: 1", "hparams.parameters: missing"),
        ("nodes/0001/metrics.jsonl", "{]\n{}\n", "metrics.jsonl:1: cannot be read"),
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
    (directory / "config.yaml").write_text(dump_yaml(config))
    for file in directory.glob("nodes/*/stage.*"):
        file.unlink()
    for node in (directory / "nodes").iterdir():
        (node / "stage.yaml").write_text("node_id: '0001'\nhparams: {learning_rate: 1.0e-06}\n")
    return directory


def test_directories_of_earlier_versions_are_read(real: Path, old_format: Path, tables: Tables) -> None:
    new = tables.of([str(real / "rules/seed-1")])
    old = load([old_format])
    assert new.searches["validation_max_tokens"].tolist() == [8192]
    assert old.searches["validation_max_tokens"].isna().all(), "each stage had its own limit"
    labels = ["search", "agent", "proposer", "stopper", "validation_max_tokens"]
    assert old.searches[labels[1:-1]].to_numpy().tolist() == [["openai", "openai", "LlmStopper some-model"]]
    for name, table in old.items():
        left, right = (
            t.drop(columns=labels if name == "searches" else "search").reset_index(drop=True)
            for t in (table, getattr(new, name))
        )
        pd.testing.assert_frame_equal(left.sort_index(axis=1), right.sort_index(axis=1), check_dtype=False)
    assert page(old, None, "Old", draw(old))
