"""Expectations and gains of changes, against slow counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.calibration import calibration
from analysis.load import load
from analysis.tables import Tables
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
