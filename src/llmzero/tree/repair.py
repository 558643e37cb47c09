"""Makes a damaged event log whole again, from its readable lines and the files of the stages."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from llmzero.core.errors import DamagedFileError
from llmzero.core.files import parsed, read_bytes, read_json
from llmzero.core.length import LENGTHS, Length
from llmzero.core.locations import stored
from llmzero.core.shapes import NUMBER, require
from llmzero.core.stage import StageDir
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Tree
from llmzero.tree.workspace import Workspace

WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def repair(workspace: Workspace) -> list[str]:
    """Replace a damaged `tree.jsonl`; return a text on each damaged line. The damaged file is kept beside it.

    A damaged line was the creation of a stage, which its `stage.json` and `proposal.json` tell; that it was
    being proposed, which its calls may tell (else it is, from the base model); its start, or its end, which
    its `result.json` tells, or the cost of a final test; or something that a restarted driver finds out by
    itself: a stop, that a stage was withdrawn, the cost of a call. Where the end of the log was lost, or all
    of it, what the files tell is added.
    """
    file = workspace.tree_file
    again = workspace.path / f".{file.name}.repaired.tmp"
    again.unlink(missing_ok=True)
    store = EventStore(again, repair=False, durable=False)
    lines = read_bytes(file).splitlines() if file.exists() else []
    keys, ends = [_key(line) for line in lines], [_end(line) for line in lines]
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            store.append(**parsed(line))
        except WRONG as error:
            # What stands there may be readable and still be wrong, so only later lines count as recorded.
            # A block of a disk may have held several.
            before = next((end for end in ends[number:] if end is not None), math.inf)
            made = ", ".join(_restored(workspace, store, keys[number:], before)) or "left out"
            texts.append(f"line {number}: {made} ({' '.join(str(error).split())[:100]})")
    texts += [f"at the end: {made}" for made in _restored(workspace, store, [], math.inf)]
    if texts:
        if file.exists():
            file.rename(file.with_name(f"{file.name}.damaged-{time.time_ns()}"))
        again.rename(file)
    again.unlink(missing_ok=True)
    return texts


def _key(line: bytes) -> tuple[Any, Any]:
    """Return event and subject of a line: its stage, or the name of a call or cost."""
    try:
        event = parsed(line)
        return str(event.get("event")), str(event.get("node_id") or event.get("name"))
    except WRONG:
        return None, None


def _end(line: bytes) -> float | None:
    """Return when the stage ended whose result a line tells; None of any other line."""
    try:
        end = parsed(line)["result"]["ended_at"]
        require(end, NUMBER)
        return float(end)
    except WRONG:
        return None


def _restored(
    workspace: Workspace, store: EventStore, recorded: Sequence[tuple[Any, Any]], before: float
) -> Iterator[str]:
    """Append what stands nowhere in the log although files tell of it; yield a text on each such event.

    Args:
        workspace: the search directory.
        store: the events up to there.
        recorded: the keys of the lines that follow, in order.
        before: when the next stage ended of which they tell.
    """
    while lost := next(_lost_events(workspace, store, recorded, before), None):
        store.append(elapsed=store.ledger.seconds, **lost)
        yield f"{lost['event']} {lost.get('node_id') or lost['name']}, made of the stage's files"


def _lost_events(
    workspace: Workspace, store: EventStore, following: Sequence[tuple[Any, Any]], before: float
) -> Iterator[dict[str, Any]]:
    """Yield the events that could come next, the likeliest first."""
    recorded = set(following)
    proposed = [node.node_id for node in store.tree if node.state == "proposing"]
    for node_id in [*proposed, store.tree.next_id()]:
        stage = StageDir(workspace.nodes / node_id)
        if ("created", node_id) not in recorded and stage.has_spec():
            yield {"event": "created", **_creation(stage)}
    begun = [node for node in store.tree if node.under_way and node.state != "proposing"]
    waiting = [node.node_id for node in begun if ("started", node.node_id) not in recorded]
    for node_id in waiting:
        if not store.tree[node_id].attempts and StageDir(workspace.nodes / node_id).has_spec():
            yield {"event": "started", "node_id": node_id, "attempt": 1}
    unfinished = [node_id for node_id in waiting if ("finished", node_id) not in recorded]
    results = {node_id: StageDir(workspace.nodes / node_id).result() for node_id in unfinished}
    ended = [(result.ended_at or math.inf, node_id, result) for node_id, result in results.items() if result]
    for _, node_id, result in sorted((each for each in ended if each[0] <= before), key=itemgetter(0, 1)):
        stage_result = result.to_dict(workspace.nodes / node_id)
        yield {"event": "finished", "node_id": node_id, "result": stage_result}
    if _was_proposed(workspace, store.tree.next_id(), following):
        yield {"event": "proposing", **_decision(workspace, store.tree)}
    for directory in sorted(workspace.test.glob("*")):
        name, measured = directory.name, StageDir(directory).result()
        charged = ("setup", name) in recorded or store.is_charged(name)
        if measured and measured.state != "failed" and not charged:
            cost = {"gpu_seconds": measured.gpu_seconds, "flops": measured.flops}
            yield {"event": "setup", "name": name, **cost}


def _was_proposed(workspace: Workspace, node_id: str, following: Sequence[tuple[Any, Any]]) -> bool:
    """Whether a stage was decided on of which the log tells nothing here: a later one follows, by its id."""
    decided = [name for event, name in following if event in ("proposing", "created")]
    begun = [path.name for path in workspace.nodes.iterdir() if StageDir(path).has_spec()]
    new, there = (
        [name for name in names if name.isdigit() and int(name) >= int(node_id)] for names in (decided, begun)
    )
    return any(name != node_id for name in new[:1] or there)


def _decision(workspace: Workspace, tree: Tree) -> dict[str, Any]:
    """Return the fields of the event that a stage is being proposed, as far as files tell them."""
    node_id = tree.next_id()
    stage = StageDir(workspace.nodes / node_id)
    asked = sorted((stage.path / "calls").glob("proposal-*-*.json"))
    named = asked[0].name.split("-")[1] if asked else ROOT
    named = (stage.read_spec().parent_id or ROOT) if stage.has_spec() else named
    parent = tree[named] if named in tree.nodes and tree[named].final else tree.root
    specs = [StageDir(path) for path in sorted(workspace.nodes.iterdir()) if path.name.isdigit()]
    lengths = [_usual_length(spec) for spec in (stage, *specs) if spec.has_spec()]
    length = next((length for length in lengths if length.left(0, 0.0)), Length(1))
    return {
        "node_id": node_id,
        "parent_id": parent.node_id,
        "depth": parent.depth + 1,
        **asdict(length),
    }


def _usual_length(stage: StageDir) -> Length:
    """Return the length of a stage before an agent made it longer or shorter."""
    multiple = (read_json(stage.proposal_file) or {}).get("length", 1.0)
    require(multiple, NUMBER, "length")
    if not LENGTHS[0] <= multiple <= LENGTHS[1]:
        raise DamagedFileError(stage.proposal_file, f"length={multiple}: is none", "restore it from a copy")
    return stage.read_spec().length.times(1 / multiple)


def _creation(stage: StageDir) -> dict[str, Any]:
    """Return the fields of the event that created a stage."""
    spec, proposal = stage.read_spec(), read_json(stage.proposal_file)
    if proposal is None:
        raise DamagedFileError(stage.proposal_file, "it is missing", "restore it from a copy")
    return {
        "node_id": spec.node_id,
        "parent_id": spec.parent_id,
        "depth": spec.depth,
        "hparams": spec.hparams,
        **asdict(spec.length),
        "schedule": spec.schedule,
        "resume_from": stored(spec.resume_from, stage.path),
        "memo": proposal.pop("memo", {}),
        "proposal": proposal,
    }
