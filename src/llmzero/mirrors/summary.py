"""What a search leaves for scripts: `summary.json`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmzero.core.stage import StageDir
from llmzero.mirrors.stopping import stopping_record
from llmzero.mirrors.views import course
from llmzero.tree.outcomes import read_confirmation, read_test
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT
from llmzero.tree.workspace import Workspace


def summary_of(
    workspace: Workspace, store: EventStore, *, method: str, agent: str, state: str
) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    tree = store.tree
    states = Counter(str(node.state) for node in tree)
    best = tree.best()
    root = tree.root if len(tree) else None
    return {
        "search_id": workspace.path.resolve().name,
        "method": method,
        "agent": agent,
        "state": state,
        "base_score": root.score if root else None,
        "validation_max_tokens": StageDir(workspace.nodes / ROOT).validation_limit(),
        "nodes": {"total": len(tree) - states["withdrawn"]}
        | {name: states[name] for name in ("completed", "stopped", "failed", "withdrawn")},
        "best": best
        and {
            "node_id": best.node_id,
            "score": best.score,
            "path": [node.node_id for node in tree.path(best.node_id)],
            "course": course(tree.path(best.node_id)),
        },
        "trajectory": store.trajectory,
        "budget": store.ledger.to_dict(),
        "stopper": stopping_record(tree, lambda node_id: StageDir(workspace.nodes / node_id).metrics()),
        "test": read_test(workspace.path),
        "confirmation": read_confirmation(workspace.path),
    }
