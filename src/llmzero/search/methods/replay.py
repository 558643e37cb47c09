"""Replay: the stages of a strategy one after the other, without an agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmzero.core.settings import setting
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext
from llmzero.search.methods.chains import SingleChain
from llmzero.strategies.schedule import LENGTHS, StrategyStage
from llmzero.tree.tree import Node, Tree


@dataclass
class ReplaySettings:
    """What a replay trains."""

    stages: dict[str, dict[str, Any]] = setting({}, "the fields of each `StrategyStage`, by its number")
    lengths: str = setting("steps", "which of their lengths is kept", choices=LENGTHS)


class ReplayMethod(SingleChain):
    """One chain of the stages of a strategy.

    Raises:
        UserError: a stage has a field that is unknown, missing or of another type.
    """

    def __init__(self, settings: ReplaySettings, context: MethodContext) -> None:
        super().__init__(context)
        self.settings = settings
        self.stages = [
            StrategyStage.read(stage, f"search.method.stages.{number}")
            for number, stage in settings.stages.items()
        ]

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return the next stage of the schedule."""
        stage, lengths = self.stages[node.depth], self.settings.lengths
        numbered = isinstance(stage.resume, int) and lengths == "flops"  # at another step, but its last one
        proposal = Proposal(
            "replay",
            tuple(stage.diagnosis),
            "Replayed.",
            stage.changes,
            "last" if numbered else stage.resume,
            notes=tuple(stage.notes),
        )
        length = stage.length(lengths)
        return Expansion(node.node_id, stage.hparams, proposal, length, schedule=stage.covered)
