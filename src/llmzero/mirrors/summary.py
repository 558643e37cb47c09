"""What a search leaves for scripts: `summary.json`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from llmzero.tree.outcomes import read_confirmation, read_test
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
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
        "nodes": {"total": len(tree)} | {name: states[name] for name in ("completed", "stopped", "failed")},
        "best": best
        and {
            "node_id": best.node_id,
            "score": best.score,
            "path": [node.node_id for node in tree.path(best.node_id)],
        },
        "trajectory": store.trajectory,
        "budget": store.ledger.to_dict(),
        "stopper": stopping_record(tree),
        "test": read_test(workspace.path),
        "confirmation": read_confirmation(workspace.path),
    }


def stopping_record(tree: Tree) -> dict[str, Any]:
    """Return what early stopping saved, and how often audits show it to be wrong.

    `saved_gpu_seconds` is what the steps that stopped stages did not take would have cost at their own pace.
    Audited stages were judged hopeless too and ran on: `false_kills` counts those that passed the best score
    of the time of the decision.
    """
    decided = [
        node for node in tree.stages() if node.stop and node.result and node.stop.get("incumbent") is not None
    ]
    audited = [node for node in decided if node.stop and node.stop["event"] == "audited"]
    return {
        "stopped": len(decided) - len(audited),
        "saved_gpu_seconds": round(sum(_saved(node) for node in decided if node not in audited), 3),
        "audited": len(audited),
        "false_kills": sum((node.score or 0.0) > node.stop["incumbent"] for node in audited if node.stop),
    }


def _saved(node: Node) -> float:
    assert node.result is not None
    done = max((point.step for point in node.result.validation), default=0)
    return node.result.gpu_seconds * (node.steps - done) / done if done else 0.0
