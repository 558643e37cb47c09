"""What early stopping saved and cost, against a comparison and against the event log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.load import load
from analysis.stopping import stopping
from analysis.tables import Tables
from llmzero.core.stage import StageDir
from llmzero.mirrors.stopping import stopping_record
from llmzero.tree.store import EventStore
from tests.unit.analysis.searches import run_python


def test_stopping_agrees_with_a_comparison(tmp_path: Path) -> None:
    auditing = "['experiment=simulated', 'search.stage_steps=32', 'stopper.audit_fraction=0.5']"
    study = [
        "methods={llmzero: ['search=llmzero'], random: ['search=random']}",
        "tasks={deceptive: ['runner.landscape=deceptive']}",
        "seeds=2",
    ]
    done = run_python("launchers/compare.py", *study, f"common={auditing}", f"study_dir={tmp_path}")
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
    record = stopping_record(tree, lambda node_id: StageDir(real / "rules/seed-1/nodes" / node_id).metrics())
    audited = [node for node in tree.stages() if node.stop and node.stop["event"] == "audited"]
    lost = [max(0.0, (node.score or 0.0) - node.stop["incumbent"]) for node in audited if node.stop]
    clear = [
        node
        for node in audited
        if node.stop and node.result
        for point in node.result.validation
        if point.score == node.score and point.score - point.stderr > node.stop["incumbent"]
    ]
    rows = [row for row in stopping(tables) if "deceptive" in row["task"]]
    assert (
        rows[0]["clear_false_kills"] == len({node.node_id for node in clear}) == record["clear_false_kills"]
    )
    assert [(row["audited"], row["false_kills"]) for row in rows] == [(len(audited), record["false_kills"])]
    assert len(audited) > 0 and rows[0]["lost"] == pytest.approx(np.mean(lost))
