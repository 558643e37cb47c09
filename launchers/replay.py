#!/usr/bin/env python
"""Train along a strategy, or by a design rule, without an agent: `python launchers/replay.py strategy=runs/a/strategy.yaml seed=1`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmzero.cli import launch
from llmzero.config import catalogue_of, check_ranges
from llmzero.core.errors import UserError
from llmzero.search.plan import describe
from llmzero.search.replay import chain_config, replay_config
from llmzero.search.session import Session
from llmzero.strategies.rule import load_rule
from llmzero.strategies.schedule import load_strategy


def run(config: dict[str, Any]) -> float | None:
    """Run the stages one after the other; return the best validation score."""
    check_ranges(config)
    session = Session.from_config(chain_of(config))
    print(describe(session), flush=True)
    if config["dry_run"]:
        return None
    best: float = session.run()["best"]["score"]
    return best


def chain_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a search that trains along the strategy, or as the rule says."""
    strategy, transfer, rule, stages = (
        config.pop(name) for name in ("strategy", "transfer", "rule", "stages")
    )
    if (strategy is None) == (rule is None):
        raise UserError(
            "strategy=FILE or rule=FILE: give exactly one of them; a finished search leaves both in its search_dir"
        )
    if rule is not None:
        path = Path(rule).absolute()
        load_rule("rule", path, catalogue_of(config))
        agent = {"_target_": "llmzero.agents.rule_file.RuleFileAgent", "name": "rule_file", "path": str(path)}
        method = {"_target_": "llmzero.search.methods.ruled.RuledChain"}
        return chain_config(config, method, agent, stages, config["search"]["stage_steps"])
    found = load_strategy(Path(strategy).absolute(), catalogue_of(config), transfer)
    for note in (
        f"  stage {number}: {note}" for number, stage in enumerate(found, 1) for note in stage.notes
    ):
        print(note)
    return replay_config(config, found)


if __name__ == "__main__":
    launch("replay", run)
