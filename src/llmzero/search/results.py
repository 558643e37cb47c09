"""What a search leaves for scripts: `summary.json`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmzero.files import read_json, write_json
from llmzero.search.store import EventStore
from llmzero.search.workspace import Workspace


def write_summary(workspace: Workspace, store: EventStore, *, method: str, agent: str, state: str) -> dict[str, Any]:
    """Rewrite `summary.json` and return its content."""
    tree = store.tree
    states = Counter(str(node.state) for node in tree)
    best = tree.best()
    root = tree.root if len(tree) else None
    summary = {
        "search_id": workspace.path.resolve().name,
        "method": method,
        "agent": agent,
        "state": state,
        "base_score": root.score if root else None,
        "nodes": {"total": len(tree)} | {name: states[name] for name in ("completed", "stopped", "failed")},
        "best": best and {"node_id": best.node_id, "score": best.score, "path": [node.node_id for node in tree.path(best.node_id)]},
        "trajectory": store.trajectory,
        "budget": store.ledger.to_dict(),
        "test": read_json(workspace.test_file),
    }
    write_json(workspace.summary_file, summary)
    return summary
