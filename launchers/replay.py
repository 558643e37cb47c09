#!/usr/bin/env python
"""Train along a strategy, or by a design rule, without an agent.

`python launchers/replay.py strategy=runs/a/strategy.yaml seed=1`
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from llmzero.cli import launch
from llmzero.config import ReplayConfig
from llmzero.core.errors import UserError
from llmzero.core.text import visible_line
from llmzero.search.plan import describe
from llmzero.search.replay import replay_config, rule_config
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.strategies.rule import load_rule
from llmzero.strategies.schedule import load_strategy


def run(config: ReplayConfig) -> float | None:
    """Run the stages one after the other; return the best validation score."""
    session = Session.from_config(chain_of(config))
    session.check_sources()
    print(describe(session), flush=True)
    if config.dry_run:
        return None
    best: float = session.run()["best"]["score"]
    return best


def chain_of(config: ReplayConfig) -> SearchConfig:
    """Return the configuration of a search that trains along the strategy, or as the rule says."""
    if (config.strategy is None) == (config.rule is None):
        raise UserError(
            "strategy=FILE or rule=FILE: give exactly one of them; a finished search leaves both in its "
            "search_dir"
        )
    search = SearchConfig(**{each.name: getattr(config, each.name) for each in fields(SearchConfig)})
    if config.rule is not None:
        path = Path(config.rule).absolute()
        load_rule("rule", path, config.catalogue, config.metric_catalogue)
        return rule_config(search, path, config.stages)
    stages = load_strategy(Path(config.strategy or "").absolute(), config.catalogue, config.transfer)
    for number, stage in enumerate(stages, 1):
        for note in stage.notes:
            print(f"  stage {number}: {visible_line(note)}")
    return replay_config(search, stages, config.lengths)


if __name__ == "__main__":
    launch("replay", ReplayConfig, run)
