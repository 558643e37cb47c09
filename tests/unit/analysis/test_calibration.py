"""Expectations and gains of changes, against slow counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.calibration import as_markdown, calibration
from analysis.load import load
from analysis.tables import COLUMNS, Tables
from llmzero.tree.store import EventStore
from tests.llm_server import LLMServer, scripted
from tests.unit.analysis.searches import simulated_search


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
        yield simulated_search(
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


def worked_out() -> Tables:
    """Five stages below a base model of 0.4, the last of which failed; the fourth knew of no best score."""
    stated = {
        "score": [0.5, 0.42, 0.3, 0.55, None],
        "expected_score": [0.5, 0.5, 0.25, 0.45, 0.5],
        "expected_low": [0.45, 0.45, 0.2, 0.4, 0.4],
        "expected_high": [0.55, 0.5, 0.3, 0.5, 0.6],
        "expected_probability": [0.9, 0.5, 0.2, 0.6, 0.9],
        "expected_probability_best": [0.8, 0.4, 0.1, 0.7, 0.9],
        "expected_incumbent": [0.45, 0.45, 0.45, None, 0.5],
    }
    stages = pd.DataFrame(stated).assign(
        search="s", node=[f"000{i}" for i in range(1, 6)], parent="0000", depth=1, start_score=0.4
    )
    stages = stages.assign(
        gain=stages["score"] - 0.4, diagnosis="", expected_metrics="{}", state=[*["completed"] * 4, "failed"]
    )
    tables = {name: pd.DataFrame({column: [] for column in columns}) for name, columns in COLUMNS.items()}
    changes = pd.DataFrame({"search": ["s"], "node": ["0001"], "parameter": ["rate"], "direction": [1]})
    searches = pd.DataFrame({"search": ["s"], "task": ["t"]})
    return Tables(**{**tables, "searches": searches, "stages": stages, "changes": changes})


def test_intervals_and_both_chances_are_compared_with_what_came_by_hand() -> None:
    report = calibration(worked_out())
    said = report["expected"]
    assert said["interval"] == {
        "stages": 4,
        "held": 2,
        "share": {
            "value": 0.5,
            "low": pytest.approx(0.0676, abs=1e-4),
            "high": pytest.approx(0.9324, abs=1e-4),
        },
        "below": 1,
        "above": 1,
        "mean_width": pytest.approx((0.1 + 0.05 + 0.1 + 0.1) / 4),
    }
    assert said["probability"]["stages"] == 4
    assert said["probability"]["brier"] == pytest.approx((0.01 + 0.25 + 0.04 + 0.16) / 4)
    assert said["probability"]["brier_of_the_base_rate"] == pytest.approx(3 / 16)
    assert said["probability_best"]["stages"] == 3
    assert said["probability_best"]["brier"] == pytest.approx((0.04 + 0.16 + 0.01) / 3)
    assert said["probability_best"]["brier_of_the_base_rate"] == pytest.approx(2 / 9)
    text = as_markdown(report)
    assert "- held the score: 2 of 4, 50% [7%, 93%]" in text
    assert "- score below: 1; above: 1" in text
    assert "Probability of passing the search's best score of its time: 3 stages." in text
    assert "- Brier score: 0.070; of the base rate: 0.222" in text


def test_what_earlier_versions_did_not_ask_for_is_left_out() -> None:
    tables = worked_out()
    new = ["expected_low", "expected_high", "expected_probability_best", "expected_incumbent"]
    report = calibration(replace(tables, stages=tables.stages.drop(columns=new)))["expected"]
    assert (report["interval"], report["probability_best"]) == (None, None)
    assert report["probability"]["stages"] == 4
