from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from llmzero.core.errors import DamagedFileError
from llmzero.core.stage import StageDir, StageResult, ValidationPoint
from llmzero.tree.budget import Budget, Ledger
from llmzero.tree.store import EventStore


def fill(store: EventStore, stages: int, flops: Sequence[float | None] = ()) -> None:
    for i in range(stages + 1):
        node_id = f"{i:04d}"
        parent = None if i == 0 else "0000"
        store.append(
            "created",
            elapsed=2.0 * i,
            node_id=node_id,
            parent_id=parent,
            depth=int(i > 0),
            hparams={"a": i},
            steps=25,
            resume_from=None,
            proposal={},
        )
        store.append("started", elapsed=2.0 * i, node_id=node_id, attempt=1)
        point = ValidationPoint(25, 25, 0.1 * i, 0.01, 100, 0.1)
        stage = StageDir(store.path.parent / "nodes" / node_id)
        result = StageResult("completed", [point], 25, 0.1 * i, stage.checkpoint(25), 3.0, 6.0)
        result = replace(result, flops=flops[i] if flops else None)
        store.append("finished", elapsed=2.0 * i + 1, node_id=node_id, result=result.to_dict(stage.path))


def test_a_restart_folds_the_same_tree_and_ledger(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 3)
    store.charge_setup("base", 1.5, 2e9)
    store.charge_setup("base", 1.5, 2e9)
    again = EventStore(tmp_path / "tree.jsonl")
    assert again.tree.nodes == store.tree.nodes
    assert again.ledger == store.ledger
    assert again.trajectory == store.trajectory
    assert (again.ledger.stages, again.ledger.gpu_seconds, again.ledger.setup_gpu_seconds) == (
        3,
        18.0,
        6.0 + 1.5,
    )
    best = again.tree.best()
    assert best is not None
    assert best.node_id == "0003"


@pytest.mark.parametrize(
    "damage", [b'{"event": "crea', b"\x00\x00\x00", b'{"no": "event"}\n{"no": "event"}\n', b"\xff\xfe\n"]
)
def test_a_corrupt_tail_is_cut_off_kept_and_warned_of(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tree.jsonl"
    fill(EventStore(path), 2)
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    with caplog.at_level(logging.WARNING):
        store = EventStore(path)
    assert len(store.tree) == 3
    assert not store.ended
    assert path.read_bytes() == whole
    assert [p.read_bytes() for p in tmp_path.glob("tree.jsonl.corrupt-*")] == [damage]
    assert "could not be read" in caplog.text
    store.append("ended", elapsed=9.0)
    assert EventStore(path).ended


def test_a_corrupt_tail_is_not_kept_through_a_link(tmp_path: Path) -> None:
    """The name of its file can be foretold, and a stranger's search may hold a link of that name."""
    path, outside = tmp_path / "tree.jsonl", tmp_path / "outside"
    fill(EventStore(path), 1)
    kept = path.with_name(f"tree.jsonl.corrupt-{path.stat().st_size}")
    kept.symlink_to(outside)
    path.write_bytes(path.read_bytes() + b"tail")
    assert len(EventStore(path).tree) == 2
    assert not outside.exists()
    assert (kept.is_symlink(), kept.read_bytes()) == (False, b"tail")


@pytest.mark.parametrize(
    "odd", [{"elapsed": "1"}, {"elapsed": float("inf")}, {"elapsed": None}, {"memo": [1]}, {"memo": "a"}]
)
def test_what_any_event_may_hold_has_its_type(tmp_path: Path, odd: dict[str, Any]) -> None:
    path = tmp_path / "tree.jsonl"
    fill(EventStore(path), 1)
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **odd}), *others, ""]))
    with pytest.raises(DamagedFileError, match=rf"tree\.jsonl:1: .*{next(iter(odd))}="):
        EventStore(path)


def test_each_limit_ends_the_search() -> None:
    ledger = Ledger(stages=4, seconds=10.0, gpu_seconds=20.0, llm_dollars=0.5)

    def spent(**limits: float) -> list[str]:
        budget = Budget(**limits)  # type: ignore[arg-type]
        return ledger.spent_limits(budget, planned_stages=5, running_gpu_seconds=5.0)

    assert spent() == []
    assert spent(stages=6, seconds=11, gpu_seconds=26, llm_dollars=1) == []
    assert spent(stages=5) == ["stages"]
    assert spent(seconds=10) == ["seconds"]
    assert spent(gpu_seconds=25) == ["gpu_seconds"]
    assert spent(llm_dollars=0.5) == ["llm_dollars"]
    assert ledger.left(Budget(stages=6)) == {"stages": 2}


def test_no_stage_begins_of_which_less_than_half_fits_into_the_compute() -> None:
    def spent(flops: float | None, planned: float) -> list[str]:
        ledger = Ledger(flops=flops)
        return ledger.spent_limits(
            Budget(stages=None, flops=100.0),
            planned_stages=5,
            running_gpu_seconds=0.0,
            planned_flops=planned,
        )

    assert spent(60.0, planned=20 + 20 / 2) == []
    assert spent(60.0, planned=20 + 60 / 2) == ["flops"]
    assert spent(0.0, planned=0.0) == []
    assert spent(None, planned=0.0) == ["flops"], "what is unknown may have been anything"
    assert Ledger(flops=60.0).left(Budget(stages=None, flops=100.0)) == {"flops": 40.0}


def test_compute_is_charged_and_unknown_where_a_part_of_it_is(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 2, flops=[0.0, 3e9, 4e9])
    store.charge_setup("test", 1.5, 2e9)
    again = EventStore(store.path)
    for each in (store, again):
        assert (each.ledger.flops, each.ledger.setup_flops) == (7e9, 2e9)
        assert [point["flops"] for point in each.trajectory] == [3e9, 7e9]
    old = EventStore(tmp_path / "old.jsonl")
    fill(old, 2, flops=[0.0, 3e9, None])
    assert (old.ledger.flops, old.ledger.setup_flops, old.ledger.to_dict()["flops"]) == (None, 0.0, None)


def test_a_stage_of_an_earlier_version_is_as_long_as_it_says(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 1)
    lines = store.path.read_text().splitlines()
    assert all("flops" not in json.loads(line) for line in lines if "created" in line)
    assert str(EventStore(store.path).tree["0001"].length) == "25 steps"
    wrong = {"node_id": "0002", "parent_id": "0001", "depth": 2, "steps": 25, "flops": 1e9}
    with pytest.raises(ValueError, match="one of them has to be null"):
        store.append("proposing", elapsed=1.0, **wrong)


def proposing(store: EventStore, parent: str = "0000", **fields: Any) -> dict[str, Any]:
    """Append that a stage is being proposed; return what `created` has to say of it later."""
    node_id = store.tree.next_id()
    decided = {"node_id": node_id, "parent_id": parent, "depth": 1, "steps": 25}
    store.append("proposing", elapsed=1.0, **decided, **fields)
    return {**decided, "hparams": {"a": 7}, "resume_from": None, "proposal": {"agent": "m"}}


def test_a_stage_is_in_the_tree_while_it_is_proposed(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 1)
    first, second = proposing(store), proposing(store)
    assert [node.state for node in store.tree] == ["completed", "completed", "proposing", "proposing"]
    assert store.tree["0002"].hparams == {}
    with pytest.raises(ValueError, match="stage 0002 was not proposed before"):
        store.append("started", elapsed=1.0, node_id="0002", attempt=1)
    with pytest.raises(ValueError, match="parent or length of 0002 are not those decided on"):
        store.append("created", elapsed=1.0, **{**first, "steps": 26})
    with pytest.raises(ValueError, match="node_id=0002: must be 0004"):
        store.append("proposing", elapsed=1.0, node_id="0002", parent_id="0000", depth=1, steps=25)
    for answered in (second, first):  # in whatever order the answers come
        store.append("created", elapsed=1.0, **answered)
    assert [node.node_id for node in store.tree] == ["0000", "0001", "0002", "0003"]
    assert store.tree["0002"].hparams == {"a": 7}
    assert store.tree["0002"].state == "queued"
    assert EventStore(tmp_path / "tree.jsonl").tree.nodes == store.tree.nodes
    before = store.before("proposing", "0003")
    assert [node.state for node in before.tree] == ["completed", "completed", "proposing"]


@pytest.mark.parametrize(
    ("event", "wrong", "problem"),
    [
        ("proposing", {"parent_id": "0002", "depth": 2}, "parent_id=0002: that stage had not ended before"),
        ("created", {"parent_id": "0002", "depth": 2}, "parent_id=0002: that stage had not ended before"),
        ("proposing", {"parent_id": "0003", "depth": 2}, "parent_id=0003: that stage had not ended before"),
        ("proposing", {"parent_id": "0004"}, "stage 0004: was not created before"),
        ("proposing", {"others": ["0001", "0099"]}, "others: stage 0099: was not created before"),
        ("proposing", {"why": 3}, "why"),
        ("proposing", {"steps": 0}, "steps=0, flops=None: must be more than 0"),
        ("created", {"steps": -1}, "steps=-1, flops=None: must be more than 0"),
    ],
)
def test_a_stage_that_cannot_follow_is_refused(
    tmp_path: Path, event: str, wrong: dict[str, Any], problem: str
) -> None:
    """Below one that is being proposed, or runs, or itself; or one without a step."""
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 1)
    asked = proposing(store)
    store.append("created", elapsed=1.0, **{**asked, "node_id": "0003"})
    fields = {**asked, "node_id": "0004", **wrong}
    log = store.path.read_bytes()
    with pytest.raises(ValueError, match=problem):
        store.append(event, elapsed=1.0, **fields)
    assert store.path.read_bytes() == log


def test_a_stage_has_the_length_of_its_proposal_and_a_parent_of_those_to_choose_from(
    tmp_path: Path,
) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 3)
    asked = proposing(store, others=["0002", "0001"])
    assert store.tree.planned == 4
    longer = {**asked, "steps": 38, "proposal": {"agent": "m", "length": 1.5}}
    log = store.path.read_bytes()
    for wrong, problem in (
        ({"steps": 37}, "parent or length of 0004 are not those decided on"),
        ({"steps": 75, "proposal": {"length": 3.0}}, "proposal.length=3.0: must be from 0.5 to 2"),
        ({"proposal": {"length": "long"}}, "length"),
        ({"proposal": {"length": float("nan")}}, "length"),
        ({"parent_id": "0003", "depth": 2}, "parent or length of 0004 are not those decided on"),
        ({"parent_id": "0002", "depth": 1}, "depth=1: is not that of its parent"),
        ({"proposal": {"length": 1.5, "alternative": {"changes": 3}}}, "alternative"),
        ({"proposal": {"length": 1.5, "expected": {"low": "x"}}}, "low"),
    ):
        with pytest.raises(ValueError, match=problem):
            store.append("created", elapsed=1.0, **{**longer, **wrong})
    assert store.path.read_bytes() == log
    store.append("created", elapsed=1.0, **{**longer, "parent_id": "0002", "depth": 2})
    for tree in (store.tree, EventStore(store.path).tree):
        node = tree["0004"]
        assert (node.parent_id, node.asked_below, node.depth, node.steps) == ("0002", "0000", 2, 38)
        assert (tree.root.children, tree["0002"].children) == (["0001", "0002", "0003"], ["0004"])
        assert (tree.root.expansions, tree["0002"].expansions) == (4, 0)
        assert tree.planned == 4.5


def test_a_withdrawn_stage_keeps_its_number_and_may_close_its_parent(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 1)
    asked, late = proposing(store), proposing(store)
    said = {"agent": "m", "action": "close", "calls": 1}
    store.append("withdrawn", elapsed=1.0, node_id="0002", reason="It fell.", closes=True, proposal=said)
    store.append("withdrawn", elapsed=1.0, node_id="0003", reason="too late", closes=False)
    for tree in (store.tree, EventStore(store.path).tree):
        assert [node.state for node in tree] == ["completed", "completed", "withdrawn", "withdrawn"]
        assert (tree.root.closed, tree.closed, tree.planned, tree.next_id()) == (
            "It fell.",
            ["0000"],
            1,
            "0004",
        )
        assert (tree["0002"].withdrawn, tree["0002"].proposal, tree["0003"].proposal) == (
            "It fell.",
            said,
            {},
        )
        assert not any(node.under_way or node.usable for node in tree.stages()[1:])
        assert len(tree.finished) == 2
    log = store.path.read_bytes()
    below = {"node_id": "0004", "parent_id": late["node_id"], "depth": 2, "steps": 9}
    for event, fields, problem in (
        ("created", {**asked, "proposal": {}}, "node_id=0002: must be 0004"),
        ("started", {"node_id": "0002"}, "stage 0002 was withdrawn before"),
        ("withdrawn", {"node_id": "0003", "reason": "", "closes": True}, "stage 0003 was withdrawn before"),
        ("withdrawn", {"node_id": "0001", "reason": "", "closes": True}, "0001 is not being proposed"),
        ("proposing", below, "had not ended"),
        ("withdrawn", {"node_id": "0003", "reason": 3, "closes": True}, "reason"),
        ("withdrawn", {"node_id": "0003", "reason": "", "closes": "yes"}, "closes"),
        ("withdrawn", {"node_id": "0003", "reason": "", "closes": True, "proposal": {"calls": "a"}}, "calls"),
    ):
        with pytest.raises(ValueError, match=problem):
            store.append(event, elapsed=1.0, **fields)
    assert store.path.read_bytes() == log


def test_what_is_asked_ahead_is_counted(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 2)
    for node_id in ("0001", "0002"):
        store.append("prefetching", elapsed=1.0, node_id=node_id, step=20)
    assert store.tree["0001"].prefetch_open
    store.append("prefetch_wasted", elapsed=1.0, node_id="0002", reason="it failed")
    store.append(
        "proposing", elapsed=1.0, node_id="0003", parent_id="0001", depth=2, steps=25, prefetched=True
    )
    ledger = EventStore(tmp_path / "tree.jsonl").ledger
    assert (ledger.prefetched, ledger.prefetches_used, ledger.prefetches_wasted) == (2, 1, 1)
    assert not any(node.prefetch_open for node in store.tree)


def test_a_stage_that_failed_may_be_tried_again_and_one_that_ended_well_may_not(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    fill(store, 1)
    created = {"parent_id": "0000", "depth": 1, "steps": 25, "hparams": {"a": 7}, "resume_from": None}

    def end(node_id: str, state: Literal["completed", "failed"]) -> None:
        stage = StageDir(tmp_path / "nodes" / node_id)
        checkpoint = stage.checkpoint(25) if state == "completed" else None
        point = ValidationPoint(25, 25, 0.5, 0.01, 100, 0.1)
        result = StageResult(state, [point], 25, 0.5, checkpoint, 3.0, 6.0)
        store.append("finished", elapsed=9.0, node_id=node_id, result=result.to_dict(stage.path))

    for node_id, state in (("0002", "failed"), ("0003", "completed")):
        proposal = {"agent": "m", "length": 2.0 if state == "failed" else 0.5}
        store.append("created", elapsed=1.0, node_id=node_id, proposal=proposal, **created)
        store.append("started", elapsed=1.0, node_id=node_id, attempt=1)
        end(node_id, state)  # type: ignore[arg-type]
    assert store.ledger.lengths == 1 + 2 + 0.5
    store.append("ended", elapsed=9.0)
    spent, points = store.ledger.gpu_seconds, list(store.trajectory)
    with pytest.raises(ValueError, match="stage 0003 has ended before"):
        store.append("started", elapsed=9.0, node_id="0003", attempt=2)
    store.append("started", elapsed=9.0, node_id="0002", attempt=2)
    assert not store.ended
    assert [node.node_id for node in store.tree.finished] == ["0000", "0001", "0003"]
    assert (store.tree["0003"].finished_order, store.tree["0002"].finished_order) == (2, None)
    assert store.trajectory == [points[0], points[2]]
    assert store.ledger.lengths == 1 + 0.5
    end("0002", "completed")
    assert (store.ledger.stages, store.ledger.lengths) == (3, 1 + 2 + 0.5)
    assert store.ledger.gpu_seconds == spent + 6.0, "the failure was charged, too"
    again = EventStore(store.path)
    assert (again.tree.nodes, again.trajectory) == (store.tree.nodes, store.trajectory)
