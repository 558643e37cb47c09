"""Strategies: the best path of a search as a readable, editable file, and the method that replays one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from llmzero.agents.base import Proposal
from llmzero.errors import UserError
from llmzero.files import write_atomic
from llmzero.hparams import Catalogue
from llmzero.search.methods.base import Expansion, MethodContext
from llmzero.search.tree import Node, Tree

FORMAT = 1


def export_strategy(path: Path, tree: Tree, best: Node, catalogue: Catalogue, provenance: Mapping[str, Any]) -> None:
    """Write the path to `best` as `strategy.yaml`."""
    nodes = tree.path(best.node_id)[1:]
    stages = [_stage(tree, node, catalogue) for node in nodes]
    document = {"format": FORMAT, "provenance": dict(provenance), "stages": stages}
    header = "# A training strategy. Replay it: python launchers/replay.py strategy=THIS_FILE seed=1 search_dir=runs/replay\n"
    write_atomic(path, header + yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=120))


def _stage(tree: Tree, node: Node, catalogue: Catalogue) -> dict[str, Any]:
    assert node.parent_id is not None and node.result is not None
    parent = tree[node.parent_id]
    return {
        "node_id": node.node_id,
        "steps": node.steps,
        "resume": node.proposal.get("resume", "best"),
        "diagnosis": list(node.proposal.get("diagnosis", ())),
        "changes": catalogue.changes(parent.hparams, node.hparams),
        "hparams": node.hparams,
        "best_step": node.result.best_step,
        "score": node.score,
    }


def load_strategy(path: Path, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Read and check a strategy's stages.

    Raises:
        UserError: the file is missing, malformed, or holds values that the catalogue forbids.
    """
    if not path.is_file():
        raise UserError(f"strategy={path}: no such file; a finished search writes one into its search_dir")
    document = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    if not isinstance(document, Mapping) or document.get("format") != FORMAT or not document.get("stages"):
        raise UserError(f"strategy={path}: not a strategy of format {FORMAT} with at least one stage")
    stages = [dict(stage) for stage in document["stages"]]
    for i, stage in enumerate(stages, 1):
        if missing := {"hparams", "steps", "resume"} - set(stage):
            raise UserError(f"strategy={path}: stage {i} lacks {', '.join(sorted(missing))}")
        if problems := catalogue.problems(stage["hparams"]):
            raise UserError(f"strategy={path}: stage {i}: {'; '.join(problems)}")
    return stages


class ReplayMethod:
    """Runs a strategy's stages one after the other: a chain, and no agent.

    Args:
        strategy: a `strategy.yaml`.
    """

    def __init__(self, context: MethodContext, strategy: str) -> None:
        self.context = context
        self.stages = load_strategy(Path(strategy), context.catalogue)

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage of the schedule; None while one runs, after the last, or once one has failed."""
        last = max(tree, key=lambda node: node.depth)
        if not last.usable or last.depth == len(self.stages):
            return None
        stage = self.stages[last.depth]
        proposal = Proposal("replay", tuple(stage.get("diagnosis", ())), "Replayed.", stage.get("changes", {}), stage["resume"])
        return Expansion(last.node_id, self.context.catalogue.complete(stage["hparams"]), proposal)

    def tell(self, tree: Tree, node: Node) -> None:
        """Nothing to learn."""
