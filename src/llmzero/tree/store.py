"""The event log: `tree.jsonl`, append-only and fsynced. Tree and ledger are folds of it."""

from __future__ import annotations

import atexit
import gc
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmzero.core.errors import DamagedFileError
from llmzero.core.files import append_jsonl, parsed, write_atomic
from llmzero.core.stage import StageResult, as_path
from llmzero.tree.budget import Ledger
from llmzero.tree.tree import Node, Tree

log = logging.getLogger(__name__)
# Of what `_frozen` freezes: libraries that count their objects at the end would miss some.
atexit.register(gc.unfreeze)

# A node's creation is on the disk with the start that follows it, and a stage's end can be read from its
# result.
UNSYNCED = ("created", "finished")
REPAIR = "`python launchers/repair.py SEARCH_DIR` makes the line again of the files of the stages"


class EventStore:
    """Appends events and keeps tree and ledger up to date.

    With `repair=False` it only reads, beside a running driver; without `durable` it does not wait for the
    disk, which is for searches whose stages cost nothing.

    Events, each with `event` and `elapsed` (the driver's wall seconds, all its runs together):
    `created` a node was decided on; `started` an attempt of it begins; `died` its process ended without a
    result; `stop_requested` with the reason, or `audited` where the stage runs on all the same; `finished`
    with its result; `dropped` with the files that made room on the disk; `llm_call` with its name and cost;
    `setup` with the cost of something outside the search; `ended` the search is over.
    """

    def __init__(self, path: Path, *, repair: bool = True, durable: bool = True) -> None:
        self.path, self.durable = path, durable
        self.tree = Tree()
        self.ledger = Ledger()
        self.ended = False
        self.trajectory: list[dict[str, float | None]] = []
        self.llm_calls: set[str] = set()
        self._charged: dict[str, float] = {}
        with _frozen():
            for event in _read(path, repair):
                self._apply(event)

    def append(self, event: str, **fields: Any) -> None:
        """Make an event durable, then let it take effect."""
        record = {"event": event, **fields}
        append_jsonl(self.path, [record], sync=self.durable and event not in UNSYNCED)
        self._apply(record)

    def _apply(self, event: dict[str, Any]) -> None:
        self.ledger.seconds = max(self.ledger.seconds, event.get("elapsed", 0.0))
        handler = {
            "created": self._created,
            "started": self._started,
            "stop_requested": self._stop_decided,
            "audited": self._stop_decided,
            "died": self._died,
            "finished": self._finished,
            "llm_call": self._called,
            "setup": self._setup,
        }
        if event["event"] == "ended":
            self.ended = True
        elif event["event"] in handler:
            handler[event["event"]](event)

    def _created(self, event: dict[str, Any]) -> None:
        self.ended = False
        fields = {
            name: event[name] for name in ("node_id", "parent_id", "depth", "hparams", "steps", "proposal")
        }
        self.tree.add(Node(**fields, resume_from=as_path(event["resume_from"]), memo=event.get("memo", {})))

    def _started(self, event: dict[str, Any]) -> None:
        node = self.tree[event["node_id"]]
        node.state = "running"
        node.attempts += 1

    def _stop_decided(self, event: dict[str, Any]) -> None:
        self.tree[event["node_id"]].stop = event

    def _called(self, event: dict[str, Any]) -> None:
        self.llm_calls.add(event["name"])
        self.ledger.llm_calls += 1
        self.ledger.llm_tokens += event["tokens"]
        self.ledger.llm_dollars += event["dollars"]

    def _died(self, event: dict[str, Any]) -> None:
        self.tree[event["node_id"]].deaths += 1

    def _finished(self, event: dict[str, Any]) -> None:
        node_id, result = event["node_id"], StageResult.from_dict(event["result"])
        self.tree.finish(node_id, result)
        if self.tree[node_id].parent_id is None:
            self._charge("base model", result.gpu_seconds)
            return
        self.ledger.stages += 1
        self.ledger.gpu_seconds += result.gpu_seconds
        best = self.tree.best()
        point: dict[str, float | None] = {
            "stages": self.ledger.stages,
            "gpu_seconds": round(self.ledger.gpu_seconds, 3),
            "best": best.score if best else None,
        }
        self.trajectory.append(point)

    def charge_setup(self, name: str, gpu_seconds: float) -> None:
        """Charge something outside the search, once for each name."""
        if name not in self._charged:
            self.append("setup", name=name, gpu_seconds=gpu_seconds)

    def _setup(self, event: dict[str, Any]) -> None:
        self._charge(event["name"], event["gpu_seconds"])

    def _charge(self, name: str, gpu_seconds: float) -> None:
        """Set what something outside the search has cost so far; a later amount includes the earlier ones."""
        self._charged[name] = gpu_seconds
        self.ledger.setup_gpu_seconds = sum(self._charged.values())


@contextmanager
def _frozen() -> Iterator[None]:
    """Exclude objects made in this context from garbage collection, which would take half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _read(path: Path, repair: bool) -> list[dict[str, Any]]:
    """Return all events up to an unfinished tail; `repair` moves the tail to another file, and warns.

    Raises:
        DamagedFileError: a line cannot be read although lines behind it can.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    parsed_lines = [_parse(line) for line in lines]
    events = list(itertools.takewhile(lambda event: event is not None, parsed_lines))
    if any(parsed_lines[len(events) :]):
        raise DamagedFileError(f"{path}:{len(events) + 1}", "it is no event", REPAIR)
    good = sum(map(len, lines[: len(events)]))
    if repair and good < len(data):
        saved = path.with_name(f"{path.name}.corrupt-{good}")
        saved.write_bytes(data[good:])
        write_atomic(path, data[:good].decode())
        log.warning(
            "%s: %d bytes after event %d could not be read; cut off and kept in %s",
            path,
            len(data) - good,
            len(events),
            saved.name,
        )
    return [event for event in events if event is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line; None for a line that is not finished, or not an event."""
    if not line.endswith(b"\n"):
        return None
    try:
        event = parsed(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event.get("event"), str) else None
