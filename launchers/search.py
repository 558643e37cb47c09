#!/usr/bin/env python
"""Search for a training strategy. `--help` explains; the same command continues an interrupted search."""

from __future__ import annotations

from llmzero.cli import launch
from llmzero.search.settings import SearchConfig


def run(config: SearchConfig) -> float | None:
    """Run the search; return the best validation score, which is what a sweeper maximises."""
    from llmzero.config import changed_settings
    from llmzero.search.plan import describe
    from llmzero.search.session import Session

    session = Session.from_config(config)
    session.check_sources()
    session.check_models()
    print(describe(session), flush=True)
    if config.dry_run:
        print("settings that are not at their defaults:", *changed_settings(config), sep="\n  ")
        return None
    summary = session.run()
    best: float = summary["best"]["score"]
    return best


if __name__ == "__main__":
    launch("search", SearchConfig, run)
