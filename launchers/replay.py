#!/usr/bin/env python
"""Replay a strategy without an agent: `python launchers/replay.py strategy=runs/a/strategy.yaml seed=1 search_dir=runs/b`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmzero.cli import launch
from llmzero.config import catalogue_of
from llmzero.search.plan import describe
from llmzero.search.session import Session
from llmzero.strategy import load_strategy


def run(config: dict[str, Any]) -> float | None:
    """Run the strategy's stages one after the other; return the best validation score."""
    path = Path(config.pop("strategy")).absolute()
    stages = load_strategy(path, catalogue_of(config))
    config["search"] |= {
        "name": "replay",
        "workers": 1,
        "max_depth": len(stages),
        "method": {"_target_": "llmzero.strategy.ReplayMethod", "strategy": str(path)},
    }
    config["stopper"] = {"_target_": "llmzero.agents.stopper.NeverStop"}
    config["budget"] = dict.fromkeys(config["budget"]) | {"stages": len(stages)}
    session = Session.from_config(config)
    print(describe(session), flush=True)
    if config["dry_run"]:
        return None
    best: float = session.run()["best"]["score"]
    return best


if __name__ == "__main__":
    launch("replay", run)
