#!/usr/bin/env python
"""How good is an agent, before any training? `python launchers/bench_agent.py agent=openai llm.model=NAME`.

The same command goes on where it was; docs/bench.md explains.
"""

from __future__ import annotations

import sys

from llmzero.cli import launch
from llmzero.config import BenchConfig


def run(config: BenchConfig) -> None:
    """Put decision points to an agent and score what it answers; exit code 1 where answers are missing."""
    from llmzero.studies.bench.carry_out import carry_out

    if missing := carry_out(config):
        sys.exit(missing)


if __name__ == "__main__":
    launch("bench_agent", BenchConfig, run)
