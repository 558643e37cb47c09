#!/usr/bin/env python
"""Replay strategies on other tasks.

`python launchers/transfer.py "strategies={a: runs/a}" "tasks={easy: ['runner.landscape=easy']}"`
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from llmzero.cli import launch
from llmzero.config import TransferConfig
from llmzero.search.settings import SearchConfig


def run(config: TransferConfig) -> None:
    """Run the replays that have not finished, and write what came out; exit code 1 where some failed."""
    from llmzero.studies.carry_out import carry_out
    from llmzero.studies.figures import transfer_figure
    from llmzero.studies.study import study_of
    from llmzero.studies.tables import transfer_table
    from llmzero.studies.transfers import transferred_gains

    def compose_replay(name: str, overrides: Sequence[str]) -> SearchConfig:
        return replay_of(Path(config.strategies[name]).absolute(), config.transfer, overrides)

    study = study_of(config, "strategies", compose_replay)
    sys.exit(carry_out(study, config, "transfer", transferred_gains, transfer_table, transfer_figure))


def replay_of(path: Path, transfer: str, overrides: Sequence[str]) -> SearchConfig:
    """Return the configuration of a search along a strategy: a file, or a search directory with one."""
    from llmzero.search.replay import replay_config
    from llmzero.strategies.schedule import load_strategy
    from llmzero.studies.study import search_config

    config = search_config(overrides)
    file = path / "strategy.yaml" if path.is_dir() else path
    return replay_config(config, load_strategy(file, config.catalogue, transfer))


if __name__ == "__main__":
    launch("transfer", TransferConfig, run)
