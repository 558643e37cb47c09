#!/usr/bin/env python
"""Measures the cost of a simulated search of 16 stages; writes benchmarks/results/simulated_search.json.

The cost is milliseconds of processor time in this process, with agents and without: searches as in the
simulator studies, one after another, without a report. The agents' share is evidence, proposals and the
decisions of the early stopper. The searches write to TMPDIR.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from llmzero.cli import composed
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig

RESULTS = Path(__file__).parent / "results" / "simulated_search.json"
SEARCHES = 60
STAGES = 16
AGENTS = ("random", "rules")


class Stopwatch:
    """Sums the processor time of watched functions; one that another watched function calls counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def watch(self, owner: Any, *names: str) -> None:
        """Replace methods of an object or a class by watched ones."""
        for name in names:
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:

        def watched(*arguments: Any, **more: Any) -> Any:
            if self._inside:
                return function(*arguments, **more)
            began, self._inside = time.process_time(), True
            try:
                return function(*arguments, **more)
            finally:
                self.seconds += time.process_time() - began
                self._inside = False

        return watched


def main() -> None:
    """Measure both agents and print a line for each."""
    stopwatch = Stopwatch()
    stopwatch.watch(EvidenceBuilder, "for_proposal", "for_stopping")
    measurements = {agent: measure(agent, stopwatch) for agent in AGENTS}
    RESULTS.write_text(
        json.dumps({"stages": STAGES, "searches": SEARCHES, "agents": measurements}, indent=2) + "\n"
    )
    for agent, figures in measurements.items():
        print(
            f"agent={agent:8} {figures['search_ms']:.0f} ms a search, "
            f"{figures['besides_agents_ms']:.0f} besides agents"
        )


def measure(agent: str, stopwatch: Stopwatch) -> dict[str, float]:
    """Return the median milliseconds of a search, with agents and without."""
    whole, without_agents = [], []
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(SEARCHES):
            overrides = [
                "experiment=simulated",
                f"agent={agent}",
                f"budget.stages={STAGES}",
                "search.report=false",
                f"seed={seed}",
                f"search_dir={directory}/{seed}",
            ]
            config = composed("search", SearchConfig, overrides)
            began, agents_before = time.process_time(), stopwatch.seconds
            session = Session.from_config(config)
            stopwatch.watch(session.proposer, "propose")
            stopwatch.watch(session.stopper, "decide")
            with contextlib.redirect_stdout(io.StringIO()):
                session.run()
            whole.append(time.process_time() - began)
            without_agents.append(whole[-1] - (stopwatch.seconds - agents_before))
    return {
        "search_ms": round(1000 * median(whole), 1),
        "besides_agents_ms": round(1000 * median(without_agents), 1),
    }


if __name__ == "__main__":
    main()
