"""The configuration of a search that trains along a strategy or a rule and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmzero.strategies.schedule import StrategyStage, as_trained


def replay_config(config: dict[str, Any], stages: Sequence[StrategyStage]) -> dict[str, Any]:
    """Return the configuration of a search that trains these stages and nothing else. They are part of it, so that an edited
    strategy is told from the one that a search directory holds.
    """
    stages = as_trained(stages)
    numbered = {str(number): stage.to_dict() for number, stage in enumerate(stages, 1)}
    method = {
        "_target_": "llmzero.search.methods.replay.ReplayMethod",
        "_convert_": "object",
        "stages": numbered,
    }
    nobody = {"_target_": "llmzero.agents.rules.RuleAgent", "name": "none"}  # is never asked
    return chain_config(config, method, nobody, len(stages), max(stage.end for stage in stages))


def chain_config(
    config: dict[str, Any], method: dict[str, Any], agent: dict[str, Any], stages: int, steps: int
) -> dict[str, Any]:
    """Return the configuration of a search that grows one chain of so many stages, of at most so many steps."""
    search = {
        "name": "replay",
        "workers": 1,
        "max_depth": stages,
        "stage_steps": steps,
        "confirm_seeds": 0,
        "method": method,
    }
    alone = {"workers": 1} if "workers" in config["runner"] else {}
    return {
        **config,
        "agent": agent,
        "stopper": {"_target_": "llmzero.agents.stopper.NeverStop"},
        "search": {**config["search"], **search},
        "runner": {**config["runner"], **alone},
        "budget": dict.fromkeys(config["budget"]) | {"stages": stages},
    }
