"""A conversation with a language model that calls tools, on disk message by message."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from llmzero.agents.found_json import json_object
from llmzero.agents.reply import Message, Reply
from llmzero.agents.text import clean, estimated_tokens, one_line
from llmzero.core.errors import DamagedFileError
from llmzero.core.files import (
    RESTORE,
    append_jsonl,
    finite,
    parsed,
    read_jsonl,
    reading,
    too_deep,
    write_jsonl,
)
from llmzero.core.redaction import redacted, redacted_data
from llmzero.core.shapes import NOTHING, NUMBER, Shape, require

SAID_KEPT = 8000  # characters of what the model says
RESULT_KEPT = 16_000  # characters of a call's result
ARGUMENTS_KEPT = 4000  # characters of a call's arguments; longer ones are refused
CALLS_KEPT = 8  # calls of one reply
MESSAGE: Shape = {
    "role": str,
    "content": str,
    "tool_call_id?": str,
    "tool_calls?": [{"id": str, "type": str, "function": {"name": str, "arguments": str}}],
}
RECORD: Shape = {
    "message?": MESSAGE,
    "told?": {str: int},  # points that each stage has been told of
    "stop?": {str: str},  # reasons, by stage
    "calls?": [{"call_id": str, "name": str, "arguments": str, "problem": str, "native": bool}],
    "stage?": (str, NOTHING),
    "dollars?": NUMBER,
    **dict.fromkeys(("error?", "call?"), str),
    **dict.fromkeys(("tools?", "finished?", "again?"), bool),
    **dict.fromkeys(("turn?", "tokens?"), int),
}
LOST = "restore it from a copy, or delete it: then a new session goes on with the stages that there are"
PATIENCE = 3  # replies in a row without a call before the model counts as lost


@dataclass(frozen=True)
class Call:
    """A tool call.

    Attributes:
        arguments: a JSON object as text, whatever the model sent.
        problem: why the arguments that were sent cannot be used; empty where they can.
        native: whether it was made in the protocol's own way, and not as JSON in the text.
    """

    call_id: str
    name: str
    arguments: str
    problem: str = ""
    native: bool = True

    def result(self, text: str) -> Message:
        """Return the message that answers the call."""
        if self.native:
            return {"role": "tool", "tool_call_id": self.call_id, "content": text}
        return {"role": "user", "content": f"Result of {self.name}:\n{text}"}


class Transcript:
    """The messages of a session, and what follows from them: calls without a result, costs, stages stopped.

    Every record of the file has a `message` or an `error` (no reply came), and facts: `turn`, `calls` and
    costs of a reply; `stage` that was started; `stop`, `told` and `finished` of a result; `again` where a
    lost model is asked once more. A record that names a stage which does not exist was written just before
    its process was killed: it and what follows never happened.

    Args:
        stages: ids of the stages that exist.

    Raises:
        DamagedFileError: the file holds what no session writes, or nothing although there are stages.
    """

    def __init__(self, file: Path, stages: Container[str]) -> None:
        self.file = file
        self.messages: list[Message] = []
        self.pending: deque[Call] = deque()
        self.turns = self.misses = 0
        self.tools = True  # whether the endpoint lets tools be offered
        self.called = False  # whether a call was ever made in the protocol's own way
        self.finished = False
        self.error = ""  # why there was no reply to the last turn; empty where there was one
        self.reported: dict[str, int] = {}  # by stage, validation points that the model was told of
        self.stops: dict[str, str] = {}
        self.spent: list[
            tuple[int, float]
        ] = []  # tokens and dollars of the replies since a stage was started
        self._results: list[int] = []  # indices of results among the messages
        with reading(file, RESTORE, line=lambda: len(records) + 1):
            records: list[dict[str, Any]] = []
            for record in read_jsonl(file):
                _check(record, stages)
                if record.get("stage") is not None and record["stage"] not in stages:
                    break
                self._apply(record)
                records.append(record)
        if file.exists():
            if not self.messages and "0001" in stages:
                problem = "it holds nothing of the session that began the stages"
                raise DamagedFileError(f"{file}:{len(records) + 1}", problem, LOST)
            write_jsonl(file, records)

    @property
    def lost(self) -> bool:
        """Whether the model cannot be reached, or has said nothing usable for too long."""
        return self.misses >= PATIENCE

    def say(self, role: str, text: str, **facts: Any) -> None:
        """Add a message that is neither a reply nor a result."""
        self._append({"message": {"role": role, "content": text}, **facts})

    def hear(self, reply: Reply) -> None:
        """Add a reply; its calls are pending from now on."""
        calls = tool_calls(reply, self.turns + 1)
        text = clean(redacted(reply.text), SAID_KEPT)
        message: Message = {"role": "assistant", "content": text}
        if calls and calls[0].native:
            message["tool_calls"] = [_wire(call) for call in calls]
        elif not text:
            message["content"] = "(nothing)"
        record = {"turn": self.turns + 1, "message": message, "calls": [asdict(call) for call in calls]}
        self._append({**record, "tokens": reply.tokens, "dollars": reply.dollars})

    def miss(self, error: str) -> None:
        """Add that no reply came. Where an endpoint refuses tools, none are offered from now on."""
        refused = self.tools and not self.called and "tool" in error
        self._append({"turn": self.turns + 1, "error": error, **({"tools": False} if refused else {})})

    def answer(self, text: str, facts: Mapping[str, Any]) -> None:
        """Add the result of the first pending call."""
        call = self.pending[0]
        self._append({"message": call.result(clean(text, RESULT_KEPT)), "call": call.call_id, **facts})

    def sent(self, budget: int) -> list[Message]:
        """Return the messages to be sent, in about `budget` tokens: old results go, then the oldest turns."""
        messages = [dict(message) for message in self.messages]
        excess = sum(map(_tokens, messages)) - budget
        for i in self._results[:-1]:
            if excess <= 0:
                break
            before = _tokens(messages[i])
            messages[i]["content"] = f"(left out: {len(messages[i]['content'])} characters)"
            excess -= before - _tokens(messages[i])
        return _merged(_newest(messages, budget) if excess > 0 else messages)

    def _append(self, record: dict[str, Any]) -> None:
        append_jsonl(self.file, [record], sync=True)
        self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        if "message" in record:
            self.messages.append(record["message"])
        if "turn" in record:
            self._count(record)
        if "call" in record:
            self.pending.popleft()
            self._results.append(len(self.messages) - 1)
        if "stage" in record:
            self.spent.clear()
        if "stop" in record:
            self.stops |= record["stop"]
        if record.get("again"):
            self.misses = 0
        self.reported |= record.get("told", {})
        self.finished |= record.get("finished", False)

    def _count(self, record: dict[str, Any]) -> None:
        """Count a reply, or that there was none."""
        self.turns = record["turn"]
        self.tools &= record.get("tools", True)
        self.error = record.get("error", "")
        if self.error:
            self.misses = 0 if "tools" in record else PATIENCE
            return
        self.pending.extend(Call(**call) for call in record["calls"])
        self.called |= any(call.native for call in self.pending)
        self.misses = 0 if self.pending else self.misses + 1
        self.spent.append((record["tokens"], record["dollars"]))


def _check(record: dict[str, Any], stages: Container[str]) -> None:
    """Raise ValueError for a record that no session writes: search directories are passed around."""
    require(record, RECORD)
    if foreign := [node_id for node_id in record.get("stop", {}) if node_id not in stages]:
        raise ValueError(f"stop.{foreign[0]}: is no stage of this search")
    for call in record.get("calls", ()):
        parsed(call["arguments"])


def tool_calls(reply: Reply, turn: int) -> list[Call]:
    """Return the calls in a reply: those of the protocol, or else a JSON object of tool and arguments.

    Names, ids and arguments are made such that every endpoint takes them back: some want ids of nine letters,
    some read arguments.
    """
    native: list[tuple[Any, Any]] = [(redacted(name), arguments) for _, name, arguments in reply.tool_calls]
    written = json_object(reply.text, "tool") or json_object(reply.text, "arguments") if not native else None
    written = redacted_data(written)
    made = native or (
        [(written.get("tool", written.get("name")), written.get("arguments", {}))] if written else []
    )
    calls = []
    for i, (name, arguments) in enumerate(made[:CALLS_KEPT]):
        usable, problem = _arguments(arguments)
        calls.append(
            Call(
                f"t{turn:05d}n{i:02d}",
                re.sub(r"\W", "_", one_line(name, 60), flags=re.ASCII) or "_",
                usable,
                problem,
                bool(native),
            )
        )
    return calls


def _arguments(sent: Any) -> tuple[str, str]:
    """Return arguments as the text of a JSON object, and what is wrong with them (if so, it is empty)."""
    try:
        value = json.loads(sent or "{}") if isinstance(sent, str) else sent
        if too_deep(value):
            return "{}", "The arguments are nested too deeply."
        text = json.dumps(finite(redacted_data(value)))
    except (ValueError, RecursionError):
        return "{}", f"The arguments are not JSON: {one_line(redacted(str(sent)), 120)}"
    if not isinstance(value, dict):
        return "{}", f"The arguments must be a JSON object, not {one_line(text, 120)}"
    if len(text) > ARGUMENTS_KEPT:
        return "{}", f"The arguments have {len(text)} characters; {ARGUMENTS_KEPT} are allowed."
    return text, ""


def _wire(call: Call) -> dict[str, Any]:
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _tokens(message: Message) -> int:
    return estimated_tokens(json.dumps(message, ensure_ascii=False))


def _newest(messages: list[Message], budget: int) -> list[Message]:
    """Return the system message and the newest turns that fit, each whole; the newest of all in any case."""
    tokens = [_tokens(message) for message in messages]
    starts = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    first = next(
        (start for start in starts if tokens[0] + sum(tokens[start:]) <= budget), max(starts, default=1)
    )
    note = {
        "role": "user",
        "content": f"({first - 1} earlier messages are left out; list_runs shows every stage.)",
    }
    return [messages[0], note, *messages[first:]]


def _merged(messages: list[Message]) -> list[Message]:
    """Return the messages with those of the user in a row as one: not every endpoint takes two."""
    merged: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message["role"]):
        run = list(group)
        merged += (
            [{"role": role, "content": "\n\n".join(message["content"] for message in run)}]
            if role == "user"
            else run
        )
    return merged
