"""What is sent to W&B of stages and of the search as a whole."""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzero.core.errors import UserError
from llmzero.core.stage import OPTIMIZER_FILE, StageDir, StageResult
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree

if TYPE_CHECKING:
    from wandb import Artifact, Table

log = logging.getLogger(__name__)

SEARCH_FILES = (
    "config.yaml",
    "tree.jsonl",
    "summary.json",
    "test.json",
    "confirmation.json",
    "strategy.yaml",
    "rule.yaml",
    "tracking.json",
)
STAGE_FILES = (
    "stage.json",
    "stage.yaml",  # of earlier versions
    "proposal.json",
    "metrics.jsonl",
    "validation.jsonl",
    "rollouts.jsonl",
    "stopper.jsonl",
    "result.json",
)
TRANSCRIPTS = ("session.jsonl", "nodes/*/calls/*")


def stage_history(stage: StageDir, result: StageResult) -> list[dict[str, float]]:
    """Return a stage's rows by `global_step`: metrics as `train/<name>`, validation as `val/<name>`."""
    rows: dict[int, dict[str, float]] = {}
    for record in stage.metrics():
        metrics = {
            f"train/{name}": value for name, value in record.items() if name not in ("step", "global_step")
        }
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        rows.setdefault(record["global_step"], {}).update(numbers)
    for point in result.validation:
        rows.setdefault(point.global_step, {}).update({"val/score": point.score, "val/stderr": point.stderr})
    return [{"global_step": global_step, **rows[global_step]} for global_step in sorted(rows)]


def stage_config(tree: Tree, node: Node, stage: StageDir) -> dict[str, Any]:
    """Return a stage's position in the tree, and how it was proposed."""
    return {
        "hparams": node.hparams,
        "node_id": node.node_id,
        "parent": node.parent_id,
        "depth": node.depth,
        "path": [step.node_id for step in tree.path(node.node_id)],
        "resume_from": str(node.resume_from) if node.resume_from else None,
        "steps": node.steps,
        "flops": node.flops,
        "seed": stage.read_spec().seed,
        "state": node.state,
        "agent": node.proposal.get("agent"),
        "diagnosis": node.proposal.get("diagnosis"),
        "changes": node.proposal.get("changes"),
    }


def stage_summary(result: StageResult) -> dict[str, Any]:
    """Return how a stage ended."""
    fields = ("best_score", "best_step", "seconds", "gpu_seconds", "flops", "error")
    return {name: value for name in fields if (value := getattr(result, name)) is not None}


def search_summary(store: EventStore) -> dict[str, Any]:
    """Return how a search stands."""
    tree, best = store.tree, store.tree.best()
    summary: dict[str, Any] = {"base_score": tree.root.score, "ended": store.ended, "nodes_total": len(tree)}
    if best is not None:
        path = [node.node_id for node in tree.path(best.node_id)]
        summary |= {"best_score": best.score, "best_node": best.node_id, "best_path": path}
    return summary


def node_table(tree: Tree) -> Table:
    """Return the tree as a table, a row a stage."""
    import wandb

    words = ("agent", "diagnosis", "rationale")
    table = wandb.Table(
        columns=["node_id", "parent", "depth", "state", "score", "gpu_seconds", "flops", "changes", *words]
    )
    for node in tree:
        costs = (node.result.gpu_seconds, node.result.flops) if node.result else (None, None)
        changes = json.dumps(node.proposal.get("changes"))
        table.add_data(
            node.node_id,
            node.parent_id,
            node.depth,
            node.state,
            node.score,
            *costs,
            changes,
            *map(node.proposal.get, words),
        )
    return table


def artifacts(search_dir: Path, tree: Tree, uid: str, *, checkpoint: bool) -> Iterator[Artifact]:
    """Yield the strategy, the language models' transcripts and the winner's weights, where there are any."""
    strategies = inside(search_dir, [search_dir / name for name in ("strategy.yaml", "rule.yaml")])
    transcripts = inside(search_dir, sorted(p for pattern in TRANSCRIPTS for p in search_dir.glob(pattern)))
    best = tree.best()
    winner = best.result.checkpoint if best and best.result and checkpoint else None
    if winner and not winner.resolve().is_relative_to(search_dir.resolve()):
        log.warning("%s: left out, as it lies outside of %s", winner, search_dir)
        winner = None
    files = sorted(winner.rglob("*")) if winner else []
    weights = inside(
        search_dir, [path for path in files if path.name != OPTIMIZER_FILE and not path.is_dir()]
    )
    yield from _artifact("strategy", uid, search_dir, strategies)
    yield from _artifact("transcripts", uid, search_dir, transcripts)
    if winner:
        yield from _artifact("checkpoint", uid, winner, weights)


def _artifact(kind: str, uid: str, root: Path, files: list[Path]) -> Iterator[Artifact]:
    """Yield an artifact of the files, named by their paths below `root`; nothing where there are none.

    What is small is copied. Weights are not: an offline run names them where they lie.
    """
    import wandb

    if files:
        artifact = wandb.Artifact(f"{kind}-{uid}", type=kind)
        for file in files:
            artifact.add_file(
                str(file),
                name=str(file.relative_to(root)),
                policy="immutable" if kind == "checkpoint" else "mutable",
            )
        yield artifact


def pack_files(search_dir: Path, archive: Path, folder: str) -> None:
    """Pack what analysis reads of a search directory, below a folder of that name."""
    stages = [path for name in STAGE_FILES for path in sorted(search_dir.glob(f"nodes/*/{name}"))]
    files = [search_dir / name for name in SEARCH_FILES]
    with tarfile.open(archive, "w:gz") as tar:
        for file in inside(search_dir, [*files, *stages]):
            tar.add(file.resolve(), arcname=Path(folder, file.relative_to(search_dir)))


def inside(search_dir: Path, paths: Iterable[Path]) -> list[Path]:
    """Return those of the paths that are files of the search directory.

    What is something else, or leads out of the directory through a link, is left out with a warning.
    """
    return [path for path in paths if os.path.lexists(path) and not _left_out(search_dir, path)]


def refuse_outside(search_dir: Path, paths: Iterable[Path]) -> None:
    """Raise `UserError` where one of the paths exists and is no file of the search directory."""
    for path in paths:
        if os.path.lexists(path) and not _is_inside(search_dir, path):
            raise UserError(f"{path}: is no file of {search_dir}, or a link that leads out of it; remove it")


def _left_out(search_dir: Path, path: Path) -> bool:
    if _is_inside(search_dir, path):
        return False
    log.warning("%s: left out, as it is no file of the search directory", path)
    return True


def _is_inside(search_dir: Path, path: Path) -> bool:
    real = path.resolve()
    return real.is_file() and real.is_relative_to(search_dir.resolve())
