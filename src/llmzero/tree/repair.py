"""Makes a damaged event log whole again, from its readable lines and the files of the stages."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

from llmzero.core.errors import DamagedFileError
from llmzero.core.files import parsed, read_bytes, read_json
from llmzero.core.locations import stored
from llmzero.core.stage import StageDir
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace

WRONG = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def repair(workspace: Workspace) -> list[str]:
    """Replace a damaged `tree.jsonl`; return a text on each damaged line. The damaged file is kept beside it.

    A damaged line was the creation of a stage, which its `stage.json` and `proposal.json` tell, or its end,
    which its `result.json` tells, or something that a restarted driver finds out by itself: the start of an
    attempt, a stop, a cost. Where the end of the log was lost, or all of it, what the files tell is added.
    """
    file = workspace.tree_file
    again = workspace.path / f".{file.name}.repaired.tmp"
    again.unlink(missing_ok=True)
    store = EventStore(again, repair=False, durable=False)
    lines = read_bytes(file).splitlines() if file.exists() else []
    recorded = {(event.get("event"), event.get("node_id")) for event in map(_read, lines)}
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            store.append(**parsed(line))
        except WRONG as error:
            lost = _lost_event(workspace, store, recorded)
            if lost:
                store.append(**lost)
            made = f"{lost['event']} {lost['node_id']}, made of the stage's files" if lost else "left out"
            texts.append(f"line {number}: {made} ({' '.join(str(error).split())[:100]})")
    while lost := _lost_event(workspace, store, recorded):
        store.append(**lost)
        texts.append(f"at the end: {lost['event']} {lost['node_id']}, made of the stage's files")
    if texts:
        if file.exists():
            file.rename(file.with_name(f"{file.name}.damaged-{time.time_ns()}"))
        again.rename(file)
    again.unlink(missing_ok=True)
    return texts


def _read(line: bytes) -> dict[str, Any]:
    try:
        return parsed(line)
    except WRONG:
        return {}


def _lost_event(
    workspace: Workspace, store: EventStore, recorded: Collection[tuple[Any, Any]]
) -> dict[str, Any] | None:
    """Return the event that stands nowhere in the log although files of a stage tell of it; None for none.

    Args:
        workspace: the search directory.
        store: the events up to there.
        recorded: event and stage of all readable lines.
    """
    elapsed = store.ledger.seconds
    coming = StageDir(workspace.nodes / store.tree.next_id())
    if ("created", coming.path.name) not in recorded and coming.has_spec():
        return {"event": "created", "elapsed": elapsed, **_creation(coming)}
    unfinished = [n.node_id for n in store.tree if not n.final and ("finished", n.node_id) not in recorded]
    results = {node_id: StageDir(workspace.nodes / node_id).result() for node_id in unfinished}
    ended = [(result.ended_at or math.inf, node_id, result) for node_id, result in results.items() if result]
    if not ended:
        return None
    _, node_id, result = min(ended)
    directory = workspace.nodes / node_id
    return {
        "event": "finished",
        "elapsed": elapsed,
        "node_id": node_id,
        "result": result.to_dict(directory),
    }


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
        "steps": spec.steps,
        "resume_from": stored(spec.resume_from, stage.path),
        "memo": proposal.pop("memo", {}),
        "proposal": proposal,
    }
