"""Stored calls are read without trust: cassettes are passed around."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.journal import CallId, CallJournal, Tape, call_file
from llmzero.core.errors import DamagedFileError

CALL: dict[str, Any] = {
    "made": True,
    "messages": [{"role": "user", "content": "Which?"}],
    "error": None,
    "text": "This.",
    "tool_calls": [["a", "b", "{}"]],
    "cut": False,
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "dollars": 0.5,
}
ODD = {
    **{name: [None, 5, "5", [5], {"a": 1}, -1, True, float("nan"), float("-inf")] for name in CALL},
    "messages": [None, 5, "5", [5], [None], [{"content": 5}], {"a": 1}],
    "tool_calls": [None, 5, "5", [5], ["abc"], [["a", "b"]], [["a", "b", {}]], {"a": 1}],
}
ALLOWED: dict[str, Any] = {"made": [True], "cut": [True], "error": [None, "5"], "text": ["5"], "dollars": [5]}
ALLOWED |= {"prompt_tokens": [5], "completion_tokens": [5]}
NAME = "0001/proposal-0000-1"


def written(nodes: Path, text: str) -> Path:
    file = call_file(nodes, NAME)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def readers(search: Path, charged: list[Any]) -> list[Callable[[], object]]:
    """What reads stored calls: a restart, what it has to charge, and a replay."""
    journal = CallJournal(search / "nodes", lambda *call: charged.append(call), (), lambda: None)
    tape = Tape("replay", search)
    return [
        lambda: journal.find(journal.name(CallId("0001", "proposal", "0000"))),
        journal.settle,
        lambda: tape.replay(NAME),
    ]


@pytest.mark.parametrize("name", CALL)
def test_each_field_of_a_stored_call_has_its_type(name: str, tmp_path: Path) -> None:
    charged: list[Any] = []
    odd = [
        value
        for value in ODD[name]
        if not any(value is each or value == each for each in ALLOWED.get(name, ()))
    ]
    records = [{**CALL, name: value} for value in odd] + [{k: v for k, v in CALL.items() if k != name}]
    for record in records:
        file = written(tmp_path / "nodes", json.dumps(record))
        for read in readers(tmp_path, charged):
            with pytest.raises(DamagedFileError, match=f"^{file}: .*{name}"):
                read()
    assert charged == []


@pytest.mark.parametrize("text", ["", "[1]", "5", 100_000 * "[", '{"made": '])
def test_what_is_no_call_is_one_error(text: str, tmp_path: Path) -> None:
    file = written(tmp_path / "nodes", text)
    for read in readers(tmp_path, []):
        with pytest.raises(DamagedFileError, match=f"^{file}: "):
            read()


def test_a_good_call_is_found_and_charged(tmp_path: Path) -> None:
    written(tmp_path / "nodes", json.dumps(CALL))
    charged: list[Any] = []
    find, settle, replay = readers(tmp_path, charged)
    assert find() == replay() == CALL
    settle()
    assert charged == [(NAME, 5, 0.5)]
