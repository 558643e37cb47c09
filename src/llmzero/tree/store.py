"""The event log: `tree.jsonl`, append-only and fsynced. Tree and ledger are folds of it."""

from __future__ import annotations

import atexit
import gc
import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from llmzero.core.compute import summed
from llmzero.core.decay import WHOLE
from llmzero.core.errors import DamagedFileError
from llmzero.core.files import append_jsonl, parsed, read_bytes, reading, write_atomic
from llmzero.core.length import LENGTHS, Length
from llmzero.core.shapes import NOTHING, NUMBER, NUMBER_OR_NOTHING, SCALAR, Shape, require
from llmzero.core.stage import StageResult, covered
from llmzero.tree.budget import Ledger
from llmzero.tree.tree import Node, Tree

log = logging.getLogger(__name__)
# Of what `_frozen` freezes: libraries that count their objects at the end would miss some.
atexit.register(gc.unfreeze)

# A node's creation is on the disk with the start that follows it, and a stage's end can be read from its
# result.
UNSYNCED = ("created", "finished")
# What each event must have; more may stand there.
EVENTS: dict[str, dict[str, Shape]] = {
    "proposing": {"node_id": str, "parent_id": str, "depth": int, "steps": (int, NOTHING)},
    "created": {
        "node_id": str,
        "parent_id?": (str, NOTHING),
        "depth": int,
        "hparams": dict,
        "steps": (int, NOTHING),
        "resume_from?": (str, NOTHING),
        "proposal": dict,
        "schedule?": [NUMBER],
    },
    "withdrawn": {"node_id": str, "reason": str, "closes": bool},
    "started": {"node_id": str},
    "died": {"node_id": str},
    "stop_requested": {"node_id": str, "reason": str},
    "audited": {"node_id": str, "reason": str},
    "finished": {"node_id": str, "result": dict},
    "dropped": {"node_id": str, "files": list},
    "prefetching": {"node_id": str, "step": int},
    "prefetch_wasted": {"node_id": str, "reason": str},
    "llm_call": {"name": str, "tokens": int, "dollars": NUMBER},
    "setup": {"name": str, "gpu_seconds": NUMBER},
    "idle": {"name": str, "gpu_seconds": NUMBER},
    "ended": {},
}
FACTS: Shape = {  # what else is read of events, where it is there
    "elapsed?": NUMBER,
    "memo?": (NOTHING, dict),
    "step?": (NOTHING, int),
    "incumbent?": NUMBER_OR_NOTHING,
    "prefetched?": bool,
    "why?": str,
    "others?": [str],
    "flops?": NUMBER_OR_NOTHING,
}
EXPECTED: Shape = {
    **dict.fromkeys(("score?", "low?", "high?"), NUMBER_OR_NOTHING),
    **dict.fromkeys(("probability?", "probability_best?", "incumbent?"), NUMBER_OR_NOTHING),
    "metrics?": {str: str},
    "effect?": str,
}
ALTERNATIVE: Shape = {
    "changes": {str: SCALAR},
    "resume": (str, int),
    "reasons": {str: str},
    "expected": EXPECTED,
}
PROPOSAL: Shape = {
    **dict.fromkeys(("agent?", "rationale?"), str),
    **{key: [str] for key in ("diagnosis?", "observations?", "notes?")},
    **dict.fromkeys(("calls?", "tokens?"), int),
    "changes?": {str: SCALAR},
    "reasons?": {str: str},
    "resume?": (str, int),
    "expected?": (NOTHING, EXPECTED),
    "dollars?": NUMBER,
    "action?": str,
    "length?": NUMBER,
    "alternative?": (NOTHING, ALTERNATIVE),
    **dict.fromkeys(("alternative_of?", "parent?"), (NOTHING, str)),
}
CHECKPOINT = re.compile(r"(?:^|(?:^|/)(?P<node>\d{4,})/)checkpoints/(?P<step>step_\d{5,})$")
REPAIR_ALL = "`python launchers/repair.py SEARCH_DIR` makes it again of the files of the stages"
REPAIR = "`python launchers/repair.py SEARCH_DIR` makes the line again of the files of the stages"


class EventStore:
    """Appends events and keeps tree and ledger up to date.

    With `repair=False` it only reads, beside a running driver; without `durable` it does not wait for the
    disk, which is for searches whose stages cost nothing. With `before`, an event and its node, it holds the
    search as it was then: what a language model was asked about.

    Events, each with `event` and `elapsed` (the driver's wall seconds, all its runs together):
    `proposing` a node was decided on, and a language model is asked what it changes; `created` so was one of
    which that is known, or the answer is there; `withdrawn` there is none, as the answer was that its parent
    should get no more children (`closes`), or came too late; `started` an attempt of it begins; `died` its
    process ended without a result; `prefetching` its likely child's proposal is asked for, `prefetch_wasted`
    why it is not used; `stop_requested` with the reason, or `audited` where the stage runs on all the same;
    `finished` with its result; `dropped` with the files that made room on the disk; `llm_call` with its name
    and cost; `setup` with the cost of something outside the search; `idle` with what a pilot has held without
    a stage;
    `ended` the search is over.
    """

    def __init__(
        self,
        path: Path,
        *,
        repair: bool = True,
        durable: bool = True,
        before: tuple[str, str] | None = None,
    ) -> None:
        self.path, self.durable = path, durable
        self._nodes = Path(os.path.normpath(path.parent / "nodes"))
        self.tree = Tree()
        self.ledger = Ledger()
        self.ended = False
        self.trajectory: list[dict[str, float | None]] = []
        self.llm_calls: set[str] = set()
        self._charged: dict[str, tuple[float, float | None]] = {}
        self._idle: dict[str, float] = {}
        number = 0
        with _frozen(), reading(path, REPAIR, line=lambda: number):
            for event in _read(path, repair):
                number += 1
                if before is not None and (event["event"], event.get("node_id")) == before:
                    break
                self._check(event)
                self._take_effect(event)

    def before(self, event: str, node_id: str) -> EventStore:
        """Return the search as it was before an event of a stage."""
        return EventStore(self.path, repair=False, before=(event, node_id))

    def append(self, event: str, **fields: Any) -> None:
        """Make an event durable, then let it take effect.

        Raises:
            ValueError, KeyError: it contradicts the events before it, and is not written.
        """
        record = {"event": event, **fields}
        self._check(record)
        if event == "finished":
            self._result(record)
        append_jsonl(self.path, [record], sync=self.durable and event not in UNSYNCED)
        self._take_effect(record)

    def _check(self, event: dict[str, Any]) -> None:
        """Raise where an event could not take effect: logs are passed around, and may be damaged."""
        name = event["event"]
        if name not in EVENTS:
            raise ValueError(f"event={name}: there is no such event")
        require(event, EVENTS[name])
        require(event, FACTS)
        if name == "withdrawn":
            require(event, {"proposal?": PROPOSAL})
        if name in ("proposing", "created"):
            self._check_creation(event)
        elif "node_id" in EVENTS[name]:
            self._check_order(name, self._node(event["node_id"]), event)

    def _check_order(self, name: str, node: Node, event: Mapping[str, Any]) -> None:
        """Refuse a second end, and a start after it: but a stage that failed may be tried again."""
        failed = node.final and not node.usable and not node.children
        again = name == "started" and failed and event.get("attempt") == node.attempts + 1
        if node.state == "withdrawn":
            raise ValueError(f"{name}: stage {node.node_id} was withdrawn before")
        if name == "withdrawn" and node.state != "proposing":
            raise ValueError(f"{name}: stage {node.node_id} is not being proposed")
        if node.state == "proposing" and name != "withdrawn":
            raise ValueError(f"{name}: stage {node.node_id} was not proposed before")
        if node.final and name in ("started", "died", "finished") and not again:
            raise ValueError(f"{name}: stage {node.node_id} has ended before")

    def _check_creation(self, event: dict[str, Any]) -> None:
        nodes = self.tree.nodes
        if event["event"] == "created":
            require(event, {"proposal": PROPOSAL})
        proposed = nodes.get(event["node_id"]) if event["event"] == "created" else None
        if proposed is not None and proposed.state == "proposing":
            _check_answer(event, proposed)
        elif event["node_id"] != self.tree.next_id():
            raise ValueError(f"node_id={event['node_id']}: must be {self.tree.next_id()}, the next one")
        parent = self._node(event["parent_id"]) if nodes or event["event"] == "proposing" else None
        length = Length(event["steps"], event.get("flops"))
        if parent:
            _check_child(event, parent, length)
        if event["depth"] != (parent.depth + 1 if parent else 0):
            raise ValueError(
                f"depth={event['depth']}: is not that of its parent {event['parent_id']}, and one"
            )
        if event["event"] == "proposing":
            unknown = [other for other in event.get("others", ()) if other not in nodes]
            if unknown:
                raise ValueError(f"others: stage {unknown[0]}: was not created before")
            return
        if parent and event["hparams"].keys() != self.tree.root.hparams.keys():
            raise ValueError("hparams: are not those of the base model's stage")
        require(event, {"hparams": {str: SCALAR}})
        resume = event["proposal"].get("resume", "best")
        if isinstance(resume, str) and resume not in ("best", "last"):
            raise ValueError(f"proposal.resume={resume}: must be best, last or a step")

    def _node(self, node_id: Any) -> Node:
        if node_id not in self.tree.nodes:
            raise ValueError(f"stage {node_id}: was not created before")
        return self.tree[node_id]

    def _take_effect(self, event: dict[str, Any]) -> None:
        self.ledger.seconds = max(self.ledger.seconds, event.get("elapsed", 0.0))
        handler = {
            "proposing": self._proposing,
            "prefetching": self._prefetching,
            "prefetch_wasted": self._prefetch_wasted,
            "created": self._created,
            "withdrawn": self._withdrawn,
            "started": self._started,
            "stop_requested": self._stop_decided,
            "audited": self._stop_decided,
            "died": self._died,
            "finished": self._finished,
            "llm_call": self._called,
            "setup": self._setup,
            "idle": self._idled,
        }
        if event["event"] == "ended":
            self.ended = True
        elif event["event"] in handler:
            handler[event["event"]](event)

    def _checkpoint(self, text: str | None, node_id: str, *, own: bool) -> Path | None:
        """Return the checkpoint that an event of a stage names; with `own` it has to be one of that stage.

        Only stage and step are taken from the text: it is a path relative to the stage's directory, or as
        earlier versions wrote it an absolute one, of a directory that may have been moved or copied since.
        """
        if text is None:
            return None
        match = CHECKPOINT.search(text)
        if match is not None and (not own or match["node"] in (None, node_id)):
            return _checkpoint_of(self._nodes, match["node"] or node_id, match["step"])
        named = Path(os.path.normpath(self._nodes / node_id / text))  # by a runner that has names of its own
        stages = (node_id,) if own else (node_id, *self.tree.nodes)
        if match is not None or not any(named.is_relative_to(self._nodes / each) for each in stages):
            raise ValueError(f"{text}: is no checkpoint of {f'stage {node_id}' if own else 'this search'}")
        return named

    def _proposing(self, event: dict[str, Any]) -> None:
        self.ended = False
        names = ("node_id", "parent_id", "depth", "steps", "flops")
        fields: dict[str, Any] = {name: event.get(name) for name in names}
        empty: dict[str, Any] = {"hparams": {}, "resume_from": None, "proposal": {}}
        memo = event.get("memo") or {}
        self.tree.add(Node(**fields, **empty, memo=memo, state="proposing", asked=event))
        if event.get("prefetched"):
            self.tree[event["parent_id"]].prefetch_open = False
            self.ledger.prefetches_used += 1

    def _prefetching(self, event: dict[str, Any]) -> None:
        node = self.tree[event["node_id"]]
        node.prefetch, node.prefetch_open = event, True
        self.ledger.prefetched += 1

    def _prefetch_wasted(self, event: dict[str, Any]) -> None:
        self.tree[event["node_id"]].prefetch_open = False
        self.ledger.prefetches_wasted += 1

    def _created(self, event: dict[str, Any]) -> None:
        self.ended = False
        names = ("node_id", "parent_id", "depth", "hparams", "steps", "flops", "proposal")
        fields: dict[str, Any] = {name: event.get(name) for name in names}
        resume_from = self._checkpoint(event["resume_from"], event["node_id"], own=False)
        schedule = covered(event.get("schedule", WHOLE))
        if event["node_id"] in self.tree.nodes:
            node = self.tree[event["node_id"]]
            self.tree.planned -= node.multiple
            self.tree.move(node, event["parent_id"])
            for name in ("depth", "hparams", "steps", "flops", "proposal"):
                setattr(node, name, fields[name])
            node.resume_from, node.schedule, node.state = resume_from, schedule, "queued"
            self.tree.planned += node.multiple
            return
        memo = event.get("memo") or {}
        self.tree.add(Node(**fields, resume_from=resume_from, memo=memo, schedule=schedule))

    def _withdrawn(self, event: dict[str, Any]) -> None:
        self.tree[event["node_id"]].proposal = event.get("proposal") or {}
        self.tree.withdraw(event["node_id"], event["reason"], closes=event["closes"])

    def _started(self, event: dict[str, Any]) -> None:
        node = self.tree[event["node_id"]]
        if node.final:
            self._reopen(node)
        node.state = "running"
        node.attempts += 1

    def _reopen(self, node: Node) -> None:
        """Take back the end of a stage that failed; what it has cost stays charged."""
        self.ended = False
        if node.parent_id is not None:
            ends = [stage.node_id for stage in self.tree.finished if stage.parent_id is not None]
            del self.trajectory[ends.index(node.node_id)]
            self.ledger.stages -= 1
            self.ledger.longer -= node.multiple - 1.0
        self.tree.reopen(node.node_id)

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
        node_id, result = event["node_id"], self._result(event)
        self.tree.finish(node_id, result)
        if self.tree[node_id].parent_id is None:
            self._charge("base model", result.gpu_seconds, result.flops)
            return
        self.ledger.stages += 1
        self.ledger.longer += self.tree[node_id].multiple - 1.0
        self.ledger.gpu_seconds += result.gpu_seconds
        self.ledger.flops = summed((self.ledger.flops, result.flops))
        best = self.tree.best()
        point: dict[str, float | None] = {
            "stages": self.ledger.stages,
            "gpu_seconds": round(self.ledger.gpu_seconds, 3),
            "flops": self.ledger.flops,
            "best": best.score if best else None,
        }
        self.trajectory.append(point)

    def _result(self, event: dict[str, Any]) -> StageResult:
        locate = partial(self._checkpoint, node_id=event["node_id"], own=True)
        return StageResult.from_dict(event["result"], locate)

    def charge_setup(self, name: str, gpu_seconds: float, flops: float | None) -> None:
        """Charge something outside the search, by its name: all that it has cost so far."""
        before, _ = self._charged.get(name, (-1.0, None))
        if gpu_seconds > before:
            self.append("setup", name=name, gpu_seconds=gpu_seconds, flops=flops)

    def is_charged(self, name: str) -> bool:
        """Return whether something outside the search has been charged."""
        return name in self._charged

    def _setup(self, event: dict[str, Any]) -> None:
        self._charge(event["name"], event["gpu_seconds"], event.get("flops"))

    def charge_idle(self, held: Mapping[str, float], elapsed: float) -> None:
        """Charge device seconds that were held without a stage, by what held them, with all of it so far."""
        for name, gpu_seconds in held.items():
            if gpu_seconds != self._idle.get(name):
                self.append("idle", name=name, gpu_seconds=gpu_seconds, elapsed=elapsed)

    def uncharged_idle(self, held: Mapping[str, float]) -> float:
        """Return what has come to those device seconds since they were charged."""
        return sum(gpu_seconds - self._idle.get(name, 0.0) for name, gpu_seconds in held.items())

    def _idled(self, event: dict[str, Any]) -> None:
        """Set what one of them has held so far; a later amount includes the earlier ones."""
        self._idle[event["name"]] = event["gpu_seconds"]
        self.ledger.idle_gpu_seconds = sum(self._idle.values())

    def _charge(self, name: str, gpu_seconds: float, flops: float | None) -> None:
        """Set what something outside the search has cost so far; a later amount includes the earlier ones."""
        self._charged[name] = gpu_seconds, flops
        self.ledger.setup_gpu_seconds = sum(seconds for seconds, _ in self._charged.values())
        self.ledger.setup_flops = summed(flops for _, flops in self._charged.values())


def _check_answer(event: dict[str, Any], proposed: Node) -> None:
    """Refuse a stage that was proposed below none of the stages to choose from, or of another length."""
    multiple = event["proposal"].get("length", 1.0)
    if not LENGTHS[0] <= multiple <= LENGTHS[1]:
        raise ValueError(f"proposal.length={multiple}: must be from {LENGTHS[0]:g} to {LENGTHS[1]:g}")
    allowed = (proposed.parent_id, *(proposed.asked or {}).get("others", ()))
    length = Length(event["steps"], event.get("flops"))
    if event["parent_id"] not in allowed or not length.is_about(proposed.length.times(multiple)):
        raise ValueError(f"created: parent or length of {proposed.node_id} are not those decided on")


def _check_child(event: dict[str, Any], parent: Node, length: Length) -> None:
    """Refuse a stage below one that has not come so far, or of no length."""
    if parent.state in ("proposing", "withdrawn") or (event["event"] == "proposing" and not parent.final):
        raise ValueError(f"parent_id={parent.node_id}: that stage had not ended before")
    if length.left(0, 0.0) <= 0:
        raise ValueError(f"steps={length.steps}, flops={length.flops}: must be more than 0")


@lru_cache(maxsize=1024)
def _checkpoint_of(nodes: Path, node_id: str, step: str) -> Path:
    """Return a checkpoint's directory. Stages name those of others again, and making paths is slow."""
    return nodes / node_id / "checkpoints" / step


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
    data = read_bytes(path)
    lines = data.splitlines(keepends=True)
    parsed_lines = [_parse(line) for line in lines]
    events = list(itertools.takewhile(lambda event: event is not None, parsed_lines))
    if any(parsed_lines[len(events) :]):
        raise DamagedFileError(f"{path}:{len(events) + 1}", "it is no event", REPAIR)
    if not events and any(path.parent.glob("nodes/*/stage.json")):
        raise DamagedFileError(path, "it holds no event although there are stages", REPAIR_ALL)
    good = sum(map(len, lines[: len(events)]))
    if repair and good < len(data):
        saved = path.with_name(f"{path.name}.corrupt-{good}")
        write_atomic(saved, data[good:])
        write_atomic(path, data[:good])
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
