"""The configuration of a search that trains along a strategy or by a rule, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from llmzero.search.settings import Group, SearchConfig
from llmzero.strategies.schedule import StrategyStage, as_trained
from llmzero.tree.budget import Budget


def replay_config(config: SearchConfig, stages: Sequence[StrategyStage]) -> SearchConfig:
    """Return the configuration of a search that trains these stages and nothing else.

    The stages are part of it, so that an edited strategy is distinguished from the one that a search
    directory holds.
    """
    stages = as_trained(stages)
    numbered = {str(number): stage.to_dict() for number, stage in enumerate(stages, 1)}
    method = {"_target_": "llmzero.search.methods.replay.ReplayMethod", "stages": numbered}
    agent = {"_target_": "llmzero.agents.rules.RuleAgent", "name": "none"}  # proposes nothing
    return _chain_config(config, method, agent, len(stages), max(stage.end for stage in stages))


def rule_config(config: SearchConfig, rule: Path, stages: int) -> SearchConfig:
    """Return the configuration of a search of `stages` stages, each set by the rule from the one before."""
    agent = {"_target_": "llmzero.agents.rule_file.RuleFileAgent", "name": "rule_file", "path": str(rule)}
    method = {"_target_": "llmzero.search.methods.ruled.RuledChain"}
    return _chain_config(config, method, agent, stages, config.search.stage_steps)


def _chain_config(config: SearchConfig, method: Group, agent: Group, stages: int, steps: int) -> SearchConfig:
    """Return the configuration of a search that grows one chain of `stages` stages."""
    unlimited: dict[str, Any] = dict.fromkeys(limit.name for limit in fields(Budget))
    return replace(
        config,
        agent=agent,
        stopper={"_target_": "llmzero.agents.stopper.NeverStop"},
        search=replace(
            config.search,
            name="replay",
            workers=1,
            max_depth=stages,
            stage_steps=steps,
            confirm_seeds=0,
            method=method,
        ),
        budget=Budget(**{**unlimited, "stages": stages}),
    )
