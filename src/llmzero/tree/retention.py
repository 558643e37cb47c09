"""Keeps the checkpoints of a search within its disk quota.

Which checkpoints of a stage there are (the best and the last) is decided by the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmzero.core.stage import OPTIMIZER_FILE, StageDir
from llmzero.tree.tree import Node, Tree

GB = 1e9


@dataclass(frozen=True)
class Drop:
    """Optimizer states of one stage that may be deleted.

    The rest of its checkpoints stays, and a child would start with a new optimizer.
    """

    node_id: str
    files: tuple[Path, ...]
    size: int


class Retention:
    """Measures the checkpoints under `nodes`, and chooses what to drop."""

    def __init__(self, nodes: Path) -> None:
        self.nodes = nodes
        self._ended: dict[str, int] = {}  # bytes of stages that have ended: only drops change them

    def used_gb(self, tree: Tree) -> float:
        """Return the gigabytes (10^9 bytes) that all checkpoints take."""
        return sum(self._size(node) for node in tree) / GB

    def drops(self, tree: Tree, quota_gb: float) -> Iterator[Drop]:
        """Yield what is to be deleted, the worst stages' first, until the quota holds or nothing more may go.

        Only dead branches lose anything: see `alive`.
        """
        excess = (self.used_gb(tree) - quota_gb) * GB
        needed = alive(tree)
        dead = [node for node in tree if node.node_id not in needed]
        for node in sorted(dead, key=lambda node: (node.score is not None, node.score, node.node_id)):
            if excess <= 0:
                return
            files = tuple(
                sorted(StageDir(self.nodes / node.node_id).checkpoints.glob(f"step_*/{OPTIMIZER_FILE}"))
            )
            if files:
                size = sum(file.stat().st_size for file in files)
                yield Drop(node.node_id, files, size)
                self._ended.pop(node.node_id, None)
                excess -= size

    def _size(self, node: Node) -> int:
        if node.node_id in self._ended:
            return self._ended[node.node_id]
        files = StageDir(self.nodes / node.node_id).checkpoints.rglob("*")
        size = sum(file.stat().st_size for file in files if file.is_file())
        if node.final:
            self._ended[node.node_id] = size
        return size


def alive(tree: Tree) -> set[str]:
    """Return the ids of stages that have not ended, their ancestors, the best path, the practitioner's stage.

    After the search the practitioner's configuration is trained on from that stage. Stages that an agent may
    name as the parent, while it is asked, are alive as well.
    """
    begun = [node for node in tree if node.under_way]
    offered = {other for node in begun if not node.hparams for other in (node.asked or {}).get("others", ())}
    tips = [*begun, *map(tree.__getitem__, offered)] + [
        node for node in (tree.best(), tree.practitioner()) if node
    ]
    return {node.node_id for tip in tips for node in tree.path(tip.node_id)}
