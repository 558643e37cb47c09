"""The file of a session is read without trust: search directories are passed around."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.reply import Reply
from llmzero.agents.transcript import Transcript
from llmzero.core.errors import DamagedFileError

STAGES = ("0000", "0001")
VALUES = (None, 5, "x", [5], {"a": 1}, -1, True, 1e308, [{"call_id": "a"}], {"role": "user", "content": [5]})
FIELDS = ("message", "turn", "calls", "tokens", "dollars", "error", "tools")
FIELDS += ("call", "stage", "stop", "told", "finished", "again")


def records(file: Path) -> list[dict[str, Any]]:
    talk = Transcript(file, STAGES)
    talk.say("user", "Begin.")
    talk.hear(Reply("", (("a", "start_stage", "{}"), ("b", "stop_stage", "{}"))))
    talk.answer("It starts.", {"stage": "0001"})
    talk.answer("It stops.", {"stop": {"0001": "flat"}, "told": {"0001": 3}})
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_a_wrong_type_is_one_error(field: str, tmp_path: Path) -> None:
    """A session is as usable as ever, or refused with its file untouched."""
    good = records(tmp_path / "good.jsonl")
    file = tmp_path / "session.jsonl"
    refused = 0
    for number, record in enumerate(good):
        for value in VALUES:
            text = "".join(f"{json.dumps(each)}\n" for each in [*good[:number], {**record, field: value}])
            file.write_text(text)
            try:
                talk, problem = Transcript(file, STAGES), ""
            except DamagedFileError as error:
                problem = str(error)
                refused += 1
            if problem:
                assert problem.startswith(f"{file}:{number + 1}: ")
                assert file.read_text() == text
            else:
                assert len(talk.sent(10_000)) <= len(talk.messages)
                assert all(stage in STAGES for stage in talk.stops)
    assert refused >= len(good)


def test_a_good_session_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    records(file)
    again = Transcript(file, STAGES)
    assert [message["role"] for message in again.messages] == ["user", "assistant", "tool", "tool"]
    assert (again.turns, again.stops, again.reported) == (1, {"0001": "flat"}, {"0001": 3})
    assert Transcript(file, ("0000",)).turns == 1, "what follows a stage that never began is forgotten"
