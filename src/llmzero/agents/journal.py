"""Calls of a language model: stored beside their stage, charged once, read again by a restart or replay."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.files import (
    RESTORE,
    read_json,
    reading,
    remove_temporary,
    write_atomic,
    write_json,
)
from llmzero.core.shapes import NOTHING, NUMBER, Shape, require

COSTS = ("prompt_tokens", "completion_tokens", "dollars")
RECORD: Shape = {  # the fields of a stored call that are read again
    "made": bool,
    "messages": list,
    "error": (str, NOTHING),
    "text": str,
    "tool_calls": list,
    "cut": bool,
    "prompt_tokens": int,
    "completion_tokens": int,
    "dollars": NUMBER,
    "trouble?": str,
}


_UNDER_WAY: dict[Path, threading.Lock] = {}  # by the file of a call
_UNDER_WAY_LOCK = threading.Lock()


@dataclass(frozen=True)
class CallId:
    """What a call is for.

    Attributes:
        node_id: the stage that is proposed or judged.
        purpose: `proposal`, `prefetch` (of a proposal, beside the parent that still runs), `stop` or `turn`.
        subject: what it is about: the parent's id, the step, the number of a turn.
    """

    node_id: str
    purpose: str
    subject: str


@dataclass(frozen=True)
class CallJournal:
    """Writes `nodes/<id>/calls/<purpose>-<subject>-<n>.json`; n counts calls of one purpose and subject.

    Calls of different subjects may be made in several threads at once.

    Attributes:
        nodes: the directory of all stages.
        charge: called with a call's name, tokens and dollars once it is on disk.
        charged: names of the calls that were charged already.
        spent: returns the name of a budget for language models that is used up, or None.
    """

    nodes: Path
    charge: Callable[[str, int, float], None]
    charged: Container[str]
    spent: Callable[[], str | None]
    _taken: Counter[CallId] = field(default_factory=Counter)

    def name(self, call: CallId) -> str:
        """Return the name of the next call for this purpose and subject: `<node>/<purpose>-<subject>-<n>`."""
        return f"{call.node_id}/{call.purpose}-{call.subject}-{self._taken[call] + 1}"

    def count(self, call: CallId) -> None:
        """Take the name of the next call: the one after it has another."""
        self._taken[call] += 1

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait for whoever makes the same call in this process: an earlier driver that was interrupted."""
        with _UNDER_WAY_LOCK:
            lock = _UNDER_WAY.setdefault(call_file(self.nodes, name), threading.Lock())
        with lock:
            yield

    def find(self, name: str) -> dict[str, Any] | None:
        """Return a call that was made before this process began, so that it is not paid for again."""
        return read_record(call_file(self.nodes, name))

    def charge_found(self, name: str, record: Mapping[str, Any]) -> None:
        """Charge a call that another driver of this process made after it had been interrupted."""
        if name not in self.charged:
            self._charge(name, record)

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Make a call durable, then charge it. A refused one is written, too: a replay has to meet it."""
        write_record(self.nodes, name, record)
        self._charge(name, record)

    def settle(self) -> None:
        """Charge what is on disk and was not charged, because its driver was killed in between.

        What it left half-written is deleted.
        """
        for directory in self.nodes.glob("*/calls"):
            remove_temporary(directory)
        for file in sorted(self.nodes.glob("*/calls/*.json")):
            name = f"{file.parent.parent.name}/{file.stem}"
            record = read_record(file) if name not in self.charged else None
            if record is not None:
                self._charge(name, record)

    def _charge(self, name: str, record: Mapping[str, Any]) -> None:
        if record["made"]:
            self.charge(name, record["prompt_tokens"] + record["completion_tokens"], record["dollars"])


@dataclass(frozen=True)
class Tape:
    """A cassette: calls outside the search directory, laid out as in one; any search directory is one.

    Attributes:
        mode: `record` writes every call there too, `replay` answers from there alone.
        directory: the cassette, or a search directory.
    """

    mode: str | None
    directory: Path

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the recorded call where the mode is `replay`."""
        return read_record(call_file(self.directory / "nodes", name)) if self.mode == "replay" else None

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Keep a call where the mode is `record`."""
        if self.mode == "record":
            write_record(self.directory / "nodes", name, record)

    def replay(self, name: str) -> dict[str, Any]:
        """Return the recorded call.

        Raises:
            UserError: it was never recorded.
        """
        record = self.find(name)
        if record is None:
            file = call_file(self.directory / "nodes", name)
            raise UserError(
                f"llm.cassette=replay: {file} does not exist: the search took another way than the recorded "
                "one; llm.cassette=null (in another search_dir) asks the endpoint instead"
            )
        return record


def call_file(nodes: Path, name: str) -> Path:
    """Return the file of a call by its name."""
    node_id, _, stem = name.partition("/")
    return nodes / node_id / "calls" / f"{stem}.json"


def read_record(file: Path, remedy: str = RESTORE) -> dict[str, Any] | None:
    """Return a stored call; None where there is none. Cassettes are passed around.

    Raises:
        DamagedFileError: it is no call, or one that earns tokens or dollars instead of costing them.
    """
    record = read_json(file, remedy)
    if record is None:
        return None
    with reading(file, remedy):
        require(record, RECORD)
        for name in COSTS:
            if record[name] < 0:
                raise ValueError(f"{name}={record[name]}: must be at least 0")
        for call in record["tool_calls"]:
            if not (
                isinstance(call, list) and len(call) == 3 and all(isinstance(part, str) for part in call)
            ):
                raise ValueError("tool_calls: must be lists of id, name and arguments")
        for message in record["messages"]:
            if not (isinstance(message, dict) and isinstance(message.get("content"), str | list | None)):
                raise ValueError("messages: must be objects with a content")
    return record


def write_record(nodes: Path, name: str, record: dict[str, Any]) -> None:
    """Write a call; images go into files beside it, whose names replace them."""
    file = call_file(nodes, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    for message in record["messages"]:
        if isinstance(message["content"], list):
            message["content"] = [_stored(part, i, file) for i, part in enumerate(message["content"])]
    write_json(file, record)


def _stored(part: dict[str, Any], index: int, file: Path) -> dict[str, Any]:
    url = part.get("image_url", {}).get("url", "")
    if not url.startswith("data:"):
        return part
    image = file.with_name(f"{file.stem}-{index}.png")
    write_atomic(image, base64.b64decode(url.partition(",")[2]), sync=False)
    return {"type": "image_url", "image_url": {"url": image.name}}
