"""A damaged line of the event log stops every command; repairing makes it again of the stages' files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmzero.cli import composed
from llmzero.core.errors import UserError
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.repair import repair
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished simulated search of eight stages, one worker."""
    directory = tmp_path_factory.mktemp("whole") / "search"
    overrides = ["experiment=simulated", "budget.stages=8", "search.workers=1", f"search_dir={directory}"]
    Session.from_config(composed("search", SearchConfig, overrides)).run()
    return directory


def damaged(whole: Path, copy: Path, number: int, damage: bytes) -> Workspace:
    """Return a copy of the search in whose log a line is replaced."""
    shutil.copytree(whole, copy)
    lines = (copy / "tree.jsonl").read_bytes().splitlines(keepends=True)
    lines[number] = damage
    (copy / "tree.jsonl").write_bytes(b"".join(lines))
    return Workspace(copy)


def test_a_search_is_the_same_after_the_repair_of_any_line(whole: Path, tmp_path: Path) -> None:
    original = EventStore(whole / "tree.jsonl", repair=False)
    count = len((whole / "tree.jsonl").read_bytes().splitlines())
    for number in range(count - 1):
        workspace = damaged(whole, tmp_path / str(number), number, b'{"event": "cre\x00ted"}\n')
        with pytest.raises(UserError, match=rf"tree.jsonl:{number + 1}: .*launchers/repair.py"):
            EventStore(workspace.tree_file)
        assert len(repair(workspace)) == 1
        again = EventStore(workspace.tree_file)
        assert [node.hparams for node in again.tree] == [node.hparams for node in original.tree]
        assert [node.score for node in again.tree] == [node.score for node in original.tree]
        assert [node.memo for node in again.tree] == [node.memo for node in original.tree]
        assert [node.attempts for node in again.tree] == [node.attempts for node in original.tree]
        assert again.trajectory == original.trajectory
        assert again.ledger.setup_gpu_seconds == original.ledger.setup_gpu_seconds
        assert list(workspace.path.glob("tree.jsonl.damaged-*")) and not list(workspace.path.glob(".*.tmp"))
        shutil.rmtree(workspace.path)


@pytest.mark.parametrize(
    ("event", "old", "new"),
    [
        ("created", b'"minibatches"', b'"mini_atches"'),
        ("created", b'"node_id": "0004"', b'"node_id": "0005"'),
        ("created", b'"event": "created"', b'"event": "cre_ted"'),
        ("created", b'"parent_id"', b'"pa_ent_id"'),
        ("started", b'"node_id": "0004"', b'"node_id": "0003"'),
        ("finished", b'"node_id": "0004"', b'"node_id": "0003"'),
        ("finished", b'"state"', b'"st_te"'),
        ("finished", b'"best_score": 0', b'"best_score": "0'),
    ],
)
def test_a_character_that_leaves_a_line_readable_loses_no_more_than_others(
    whole: Path, tmp_path: Path, event: str, old: bytes, new: bytes
) -> None:
    lines = (whole / "tree.jsonl").read_bytes().splitlines()
    number = next(i for i, line in enumerate(lines) if _is(line, event, "0004"))
    assert old in lines[number]
    changed = lines[number].replace(old, new) + b"\n"
    assert_repaired(whole, damaged(whole, tmp_path / "copy", number, changed))


@pytest.mark.parametrize("event", ["created", "started", "finished"])
@pytest.mark.parametrize("kind", ["twice", "two", "joined", "joined, readable"])
def test_lines_that_are_repeated_or_run_together(whole: Path, tmp_path: Path, event: str, kind: str) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    lines = workspace.tree_file.read_bytes().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if _is(line, event, "0004"))
    first, second = lines[number : number + 2]
    lines[number : number + 2] = {
        "twice": [first, first, second],
        "two": [first[9:], second[9:]],
        "joined": [first[:30], second],
        "joined, readable": [first[:-1], second],
    }[kind]
    workspace.tree_file.write_bytes(b"".join(lines))
    if (kind, event) != ("twice", "started"):  # which says no more than that it was tried twice
        assert_repaired(whole, workspace)


@pytest.mark.parametrize("event", ["created", "started", "finished"])
def test_swapped_lines_cost_nothing(whole: Path, tmp_path: Path, event: str) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    lines = workspace.tree_file.read_bytes().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if _is(line, event, "0004"))
    lines[number : number + 2] = lines[number : number + 2][::-1]
    workspace.tree_file.write_bytes(b"".join(lines))
    repair(workspace)
    original, again = (EventStore(d / "tree.jsonl", repair=False) for d in (whole, workspace.path))
    assert [(n.hparams, n.score, n.finished_order) for n in again.tree] == [
        (n.hparams, n.score, n.finished_order) for n in original.tree
    ]
    assert again.trajectory == original.trajectory
    assert again.ledger == original.ledger


def _is(line: bytes, event: str, node_id: str) -> bool:
    record = json.loads(line)
    return (record["event"], record.get("node_id")) == (event, node_id)


def assert_repaired(whole: Path, workspace: Workspace) -> None:
    """The log is refused, and after its repair says what it said before."""
    with pytest.raises(UserError, match=r"tree.jsonl:\d+: .*launchers/repair.py"):
        EventStore(workspace.tree_file, repair=False)
    assert repair(workspace)
    assert repair(workspace) == [], "once is enough"
    original, again = (EventStore(d / "tree.jsonl", repair=False) for d in (whole, workspace.path))
    moved = str(again.tree.nodes).replace(str(workspace.path), str(whole))
    assert moved == str(original.tree.nodes)
    assert again.trajectory == original.trajectory
    assert again.ledger == original.ledger


def test_several_lost_lines_come_back_in_their_order(whole: Path, tmp_path: Path) -> None:
    """A block of a disk may hold several; what is readable and cannot be is as lost as what is not."""
    original = EventStore(whole / "tree.jsonl", repair=False)
    lines = (whole / "tree.jsonl").read_bytes().splitlines(keepends=True)
    created = next(i for i, line in enumerate(lines) if b'"created"' in line and b'"0002"' in line)
    wrong = lines[created].replace(b'"depth": ', b'"depth": "x", "depth_was": ')
    for damage in (b"\0" * 500 + b"\n", wrong, b'{"event": ["created"], "node_id": {}}\n'):
        for count in (1, 3, 6) if damage is not wrong else (1,):
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            damaged_lines = [*lines[:created], damage, *lines[created + count :]]
            (copy / "tree.jsonl").write_bytes(b"".join(damaged_lines))
            assert len(repair(Workspace(copy))) == 1
            again = EventStore(copy / "tree.jsonl")
            assert [node.hparams for node in again.tree] == [node.hparams for node in original.tree]
            assert again.trajectory == original.trajectory
            shutil.rmtree(copy)


@pytest.mark.parametrize("kept", [0, 1, 7])
def test_a_log_that_lost_its_end_is_made_of_the_stages(whole: Path, tmp_path: Path, kept: int) -> None:
    original = EventStore(whole / "tree.jsonl", repair=False)
    shutil.copytree(whole, tmp_path / "copy")
    file = tmp_path / "copy/tree.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:kept]))
    if not kept:
        with pytest.raises(
            UserError, match=r"holds no event although there are stages.*launchers/repair\.py"
        ):
            EventStore(file)
    texts = repair(Workspace(tmp_path / "copy"))
    assert texts and all(text.startswith("at the end: ") for text in texts)
    again = EventStore(file)
    assert [node.hparams for node in again.tree] == [node.hparams for node in original.tree]
    assert again.trajectory == original.trajectory


def test_a_whole_log_is_left_alone(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    before = (tmp_path / "copy/tree.jsonl").read_bytes()
    assert repair(Workspace(tmp_path / "copy")) == []
    assert (tmp_path / "copy/tree.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("event", "wrong", "words"),
    [
        ("created", {"node_id": "/somewhere"}, "node_id=/somewhere: must be 0003"),
        ("created", {"node_id": "../../x"}, "must be 0003"),
        ("created", {"node_id": "0001"}, "must be 0003"),
        ("created", {"parent_id": "0009"}, "stage 0009: was not created before"),
        ("created", {"depth": 7}, "depth=7"),
        ("created", {"hparams": {"kl_coeg": 1}}, "hparams"),
        ("created", {"hparams": [1]}, "hparams"),
        ("created", {"resume_from": "/etc/passwd"}, "no checkpoint of this search"),
        ("created", {"proposal": {"diagnosis": [{"_target_": "os.system"}]}}, "diagnosis"),
        ("created", {"steps": "16"}, "steps=16"),
        ("finished", {"node_id": "0042"}, "stage 0042"),
        ("finished", {"result": None}, "result"),
        ("started", {"node_id": None}, "node_id"),
        ("nonsense", {}, "there is no such event"),
    ],
)
def test_an_event_that_cannot_be_is_refused(
    whole: Path, tmp_path: Path, event: str, wrong: dict[str, object], words: str
) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    file = tmp_path / "copy/tree.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    index = [n for n, r in enumerate(records) if r["event"] == event and r.get("node_id") in ("0003", None)]
    number = index[0] if index else 5
    records[number] = {**records[number], "event": event, **wrong}
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError, match=rf"tree.jsonl:{number + 1}: .*{words}"):
        EventStore(file)
