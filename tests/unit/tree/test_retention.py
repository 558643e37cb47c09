from __future__ import annotations

from pathlib import Path

import pytest

from llmzero.core.stage import OPTIMIZER_FILE, StageResult
from llmzero.tree.retention import Retention, alive
from llmzero.tree.tree import Node, Tree

WEIGHTS, OPTIMIZER = 1000, 2000
# node -> (parent, score): 0003 is the best, 0006 still runs below 0004
NODES = {
    "0000": (None, 0.1),
    "0001": ("0000", 0.3),
    "0002": ("0000", 0.2),
    "0003": ("0001", 0.5),
    "0004": ("0000", 0.15),
    "0005": ("0002", None),
    "0006": ("0004", "running"),
    "0007": ("0001", 0.4),
    "0008": ("0000", 0.12),
}
DEFAULTS = {"learning_rate": 1e-4}  # of the base model and, after it, of 0008


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree()
    for node_id, (parent, score) in NODES.items():
        hparams = DEFAULTS if node_id in ("0000", "0008") else {"learning_rate": 1e-3}
        tree.add(Node(node_id, parent, 0 if parent is None else 1, hparams, 4, None, {}))
        for step in (2, 4):
            folder = tmp_path / node_id / f"checkpoints/step_{step:05d}"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"w" * WEIGHTS)
            (folder / OPTIMIZER_FILE).write_bytes(b"o" * OPTIMIZER)
        if score != "running":
            state = "failed" if score is None else "completed"
            result = StageResult(state, [], 4, score, tmp_path / node_id, 1.0, 1.0)  # type: ignore[arg-type]
            tree.finish(node_id, result)
    return tree


def dropped(tree: Tree, nodes: Path, quota_bytes: float) -> list[str]:
    """Drop as the driver does; return the stages that lost their optimizer states."""
    node_ids = []
    for drop in Retention(nodes).drops(tree, quota_bytes / 1e9):
        for file in drop.files:
            file.unlink()
        assert drop.size == 2 * OPTIMIZER
        node_ids.append(drop.node_id)
    return node_ids


def test_running_stages_their_ancestors_the_best_path_and_the_practitioners_stage_are_alive(
    tree: Tree,
) -> None:
    assert alive(tree) == {"0000", "0001", "0003", "0004", "0006", "0008"}


def test_stages_that_an_agent_may_name_as_the_parent_are_alive_while_it_is_asked(tree: Tree) -> None:
    asked = Node("0009", "0001", 2, {}, 4, None, {}, state="proposing")
    asked.asked = {"parent_id": "0001", "others": ["0002", "0007"]}
    tree.add(asked)
    assert alive(tree) == {"0000", "0001", "0003", "0004", "0006", "0008", "0009", "0002", "0007"}
    asked.hparams, asked.state = {"learning_rate": 1e-3}, "running"
    assert alive(tree) == {"0000", "0001", "0003", "0004", "0006", "0008", "0009"}


def test_optimizer_states_of_dead_branches_go_worst_first_and_no_more_than_needed(
    tree: Tree, tmp_path: Path
) -> None:
    everything = len(NODES) * 2 * (WEIGHTS + OPTIMIZER)
    assert dropped(tree, tmp_path, everything) == []
    assert dropped(tree, tmp_path, everything - 1) == ["0005"], "a failed stage is the worst"
    assert Retention(tmp_path).used_gb(tree) == pytest.approx((everything - 2 * OPTIMIZER) / 1e9)
    assert dropped(tree, tmp_path, everything - 2 * OPTIMIZER - 1) == ["0002"]


def test_what_lives_and_every_weight_stays_however_small_the_quota(tree: Tree, tmp_path: Path) -> None:
    assert dropped(tree, tmp_path, 0) == ["0005", "0002", "0007"]
    assert len(list(tmp_path.rglob("model.safetensors"))) == 2 * len(NODES)
    assert {path.parents[2].name for path in tmp_path.rglob(OPTIMIZER_FILE)} == alive(tree)
    assert dropped(tree, tmp_path, 0) == []


def test_sizes_are_measured_anew_where_they_may_change(tree: Tree, tmp_path: Path) -> None:
    retention = Retention(tmp_path)
    before = retention.used_gb(tree)
    (tmp_path / "0006/checkpoints/step_00004/more").write_bytes(b"m" * 500)
    assert retention.used_gb(tree) == pytest.approx(before + 500 / 1e9)
