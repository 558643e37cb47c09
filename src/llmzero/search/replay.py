"""The configuration of a search that trains along a strategy or by a rule, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from llmzero.core.length import Length
from llmzero.search.settings import Group, SearchConfig
from llmzero.strategies.schedule import StrategyStage, as_trained
from llmzero.tree.budget import Budget


def replay_config(
    config: SearchConfig, stages: Sequence[StrategyStage], lengths: str = "steps"
) -> SearchConfig:
    """Return the configuration of a search that trains these stages and nothing else.

    The stages are part of it, so that an edited strategy is distinguished from the one that a search
    directory holds.

    Args:
        config: of a search that trains with the same parts.
        stages: of a strategy.
        lengths: which of their lengths is kept, `steps` or `flops`.

    Raises:
        UserError: a stage has no such length.
    """
    stages = as_trained(stages)
    numbered = {str(number): stage.to_dict() for number, stage in enumerate(stages, 1)}
    method: Group = {"_target_": "llmzero.search.methods.replay.ReplayMethod", "stages": numbered}
    agent = {"_target_": "llmzero.agents.rules.RuleAgent", "name": "none"}  # proposes nothing
    if lengths != "steps":
        method["lengths"] = lengths
    longest = max((stage.length(lengths) for stage in stages), key=lambda length: length.left(0, 0.0))
    return _chain_config(config, method, agent, len(stages), longest)


def rule_config(config: SearchConfig, rule: Path, stages: int) -> SearchConfig:
    """Return the configuration of a search of `stages` stages, each set by the rule from the one before."""
    agent = {"_target_": "llmzero.agents.rule_file.RuleFileAgent", "name": "rule_file", "path": str(rule)}
    method = {"_target_": "llmzero.search.methods.ruled.RuledChain"}
    return _chain_config(config, method, agent, stages, config.search.length)


def _chain_config(
    config: SearchConfig, method: Group, agent: Group, stages: int, length: Length
) -> SearchConfig:
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
            stage_steps=length.steps,
            stage_flops=length.flops,
            confirm_seeds=0,
            method=method,
        ),
        budget=Budget(**{**unlimited, "stages": stages}),
    )
