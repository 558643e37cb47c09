"""A search in words: its nodes, its budget, its result, and the names that W&B knows it by."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launchers.status import proposed
from llmzero.core.files import write_json
from llmzero.core.stage import FinalState, StageDir, StageResult, ValidationPoint
from llmzero.mirrors.tracking.names import group_of, memory_file, search_uid
from llmzero.mirrors.views import (
    SHOWN_NODES,
    budget_line,
    confirmation_line,
    course,
    course_line,
    node_text,
    proposing_row,
    tree_view,
)
from llmzero.tree.budget import Budget
from llmzero.tree.lease import Lease
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace


def add(
    store: EventStore,
    rate: float,
    score: float,
    state: FinalState = "completed",
    error: str | None = None,
    parent: str | None = None,
) -> None:
    """Add a stage that took 30 s and 60 GPU-seconds, below the one before if no other is named."""
    node_id = store.tree.next_id()
    parent = parent or (f"{int(node_id) - 1:04d}" if int(node_id) else None)
    store.append(
        "created",
        elapsed=1.0,
        node_id=node_id,
        parent_id=parent,
        depth=len(store.tree.path(parent)) if parent else 0,
        hparams={"rate": rate, "kl": 0.0},
        steps=4 if parent else 0,
        resume_from=None,
        proposal={"diagnosis": ["plateau", "slow"]} if rate != 0.1 else {},
    )
    store.append("started", elapsed=1.0, node_id=node_id, attempt=1)
    point = ValidationPoint(4, 4, score, 0.01, 100, 0.1)
    stage = StageDir(store.path.parent / "nodes" / node_id)
    result = StageResult(state, [point], 4, score, stage.checkpoint(4), 30.0, 60.0, error)
    store.append("finished", elapsed=1.0, node_id=node_id, result=result.to_dict(stage.path))


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    """A base model, the practitioner's stage, and one that changed its rate."""
    store = EventStore(tmp_path / "tree.jsonl")
    for rate, score in ((0.1, 0.3), (0.1, 0.5), (0.2, 0.6)):
        add(store, rate, score)
    return store


def test_a_stage_that_is_being_proposed_is_told_with_its_time(store: EventStore) -> None:
    store.append("proposing", elapsed=5.0, node_id="0003", parent_id="0002", depth=3, steps=4)
    told = node_text(store.tree["0003"], store.tree)
    assert told == "0003   -   proposing: the agent is asked what to change in 0002"
    assert proposing_row(store.tree["0003"], 17.2) == ("stage 0003", "proposing 12 s")
    text = Console(width=200, file=None, record=True)
    text.print(tree_view(store.tree))
    assert "0003" in text.export_text()


def test_the_time_without_a_driver_is_no_time_of_proposing(store: EventStore) -> None:
    """The log's last event is an hour old; a driver that went on with the search has just begun."""
    store.append("proposing", elapsed=5.0, node_id="0003", parent_id="0002", depth=3, steps=4)
    store.ledger.seconds = 17.0
    workspace = Workspace(store.path.parent)
    workspace.config_file.touch()
    os.utime(store.path, times=(0.0, time.time() - 3600))
    with Lease(workspace.lease_file).held():
        begun = proposed(workspace, store)
        os.utime(workspace.config_file, times=(0.0, time.time() - 3600))
        long_at_it = proposed(workspace, store)
    left = proposed(workspace, store)
    told = [next(iter(table.columns[1].cells)) for table in (begun, long_at_it, left)]
    seconds = [int(str(text).split()[1]) for text in told]
    assert 12 <= seconds[0] < 3600 < seconds[1]
    assert seconds[2] == 12


def test_a_node_is_told_in_a_line(store: EventStore) -> None:
    tree = store.tree
    assert node_text(tree["0000"], tree) == "0000 0.300 completed: the base model"
    assert node_text(tree["0001"], tree) == "0001 0.500 completed: practitioner's configuration"
    assert node_text(tree["0002"], tree) == "0002 0.600 completed: plateau+slow -> rate=0.2"
    add(store, 0.2, 0.4)
    assert node_text(store.tree["0003"], store.tree).endswith("plateau+slow -> unchanged")
    add(store, 0.3, 0.4, "failed", "out of memory")
    assert node_text(store.tree["0004"], store.tree).endswith("-> rate=0.3 (out of memory)")


def test_the_budget_is_told_in_a_line(store: EventStore) -> None:
    line = "agent rules | stages 2/6 | 12 s | unknown FLOPs | 120 gpu-seconds | about 1.0 min left"
    assert budget_line(store, Budget(stages=6), 2, "rules", 12.3) == line
    assert budget_line(store, Budget(stages=None), 2, "rules", 12.3) == (
        "agent rules | stages 2 | 12 s | unknown FLOPs | 120 gpu-seconds"
    )
    store.ledger.flops = 1.2345e12
    assert " | 1.23e+12 FLOPs of 4e+12 | " in budget_line(store, Budget(flops=4e12), 2, "rules", 12.3)


def test_of_a_large_tree_the_newest_stages_and_the_best_path_are_shown(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(tree_view(store.tree))
    assert "no stages yet" in console.export_text()
    for number in range(SHOWN_NODES + 10):
        add(store, 0.1, 0.9 if number == 3 else 0.1, parent="0000" if number else None)
    console.print(tree_view(store.tree))
    lines = [line.strip("├└│─ ") for line in console.export_text().splitlines()]
    assert [line.split()[1] for line in lines[:2]] == ["0000", "0003"], "the best path is marked"
    assert [line.split()[0] for line in lines[2:]] == [f"{10 + i:04d}" for i in range(SHOWN_NODES)]


def test_a_confirmation_is_told_in_a_line() -> None:
    assert confirmation_line({"confirmation": None}).startswith("one seed; not confirmed")
    against = {"practitioner": {"p_welch": 0.0314159}}
    confirmation: dict[str, Any] = {
        "seeds": [1, 2, 3],
        "stages": 3,
        "winner": "strategy-0003",
        "strategies": {"strategy-0003": {"mean": 0.55, "stderr": 0.012, "against": against}},
        "practitioner": {"mean": 0.45, "stderr": 0.011, "incomplete": 0},
        "base": {"mean": 0.3, "stderr": None},
    }
    line = "test on 3 fresh seeds: strategy-0003 0.550 ± 0.012, practitioner 0.450 ± 0.011, base 0.300"
    said = confirmation_line({"confirmation": confirmation, "nodes": {"total": 4}})
    assert said == f"{line}; against practitioner p = 0.031"
    later = confirmation_line({"confirmation": confirmation, "nodes": {"total": 6}})
    assert later == f"{said}; 2 stages later the search is not confirmed"
    against["practitioner"]["p_welch"] = None  # type: ignore[assignment]
    assert confirmation_line({"confirmation": confirmation, "nodes": {"total": 4}}) == line
    confirmation["practitioner"] = {"mean": None, "stderr": None, "incomplete": 3}
    assert confirmation_line({"confirmation": confirmation, "nodes": {"total": 4}}) == (
        "test on 3 fresh seeds: strategy-0003 0.550 ± 0.012, practitioner failed, base 0.300; "
        "the practitioner's training failed on 3 of 3, left out"
    )


def test_a_search_keeps_its_group_when_it_moves_once_it_was_mirrored(tmp_path: Path) -> None:
    searches = [tmp_path / name / "seed-0" for name in ("a", "b")]
    for search in searches:
        search.mkdir(parents=True)
        (search / "tree.jsonl").write_text('{"event": "created"}\n')
    groups = [group_of(search) for search in searches]
    assert groups[0] != groups[1]
    assert all(group.startswith("seed-0-") for group in groups)
    write_json(memory_file(searches[0]), {"id": search_uid(searches[0])})
    moved = searches[0].rename(tmp_path / "seed-0")
    assert group_of(moved) == groups[0]


def test_what_the_best_path_did_to_its_hyperparameters_is_told(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    for rate, score in ((0.1, 0.1), (0.1, 0.2), (0.2, 0.3), (0.2, 0.4), (0.4, 0.5)):
        add(store, rate, score)
    path = store.tree.path("0004")
    assert course(path) == {"rate": [0.1, 0.2, 0.2, 0.4]}
    assert course_line(course(path)) == "along the best path: rate grew (0.1, 0.2, 0.4)"
    assert course(path[:2]) == course(path[:1]) == {}
    assert course_line({}) == ""
    turns = {"kl": [0.1, 0.01, 0.01], "limit": [8, 16, 8], "reference": ["base", "base", "parent"]}
    assert course_line(turns) == (
        "along the best path: kl fell (0.1, 0.01); limit changed (8, 16, 8); reference changed (base, parent)"
    )
