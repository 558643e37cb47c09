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
        assert again.ledger.stages == original.ledger.stages
        assert list(workspace.path.glob("tree.jsonl.damaged-*")) and not list(workspace.path.glob(".*.tmp"))
        shutil.rmtree(workspace.path)


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
