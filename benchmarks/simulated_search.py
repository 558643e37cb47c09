#!/usr/bin/env python
"""What a simulated search of 16 stages costs, with agents and without; writes benchmarks/results/simulated_search.json.

Milliseconds of processor time in this process: searches of the simulator studies, one after another, without a report. The agents'
share is evidence, proposals and the early stopper's decisions. TMPDIR says where the searches write.
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
    """Sums the processor time spent in functions; one that another one calls counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def watch(self, owner: Any, *names: str) -> None:
        """Watch functions of an object or a class."""
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
    found = {agent: measured(agent, stopwatch) for agent in AGENTS}
    RESULTS.write_text(json.dumps({"stages": STAGES, "searches": SEARCHES, "agents": found}, indent=2) + "\n")
    for agent, figures in found.items():
        print(
            f"agent={agent:8} {figures['search_ms']:.0f} ms a search, {figures['besides_agents_ms']:.0f} besides agents"
        )


def measured(agent: str, stopwatch: Stopwatch) -> dict[str, float]:
    """Return the median milliseconds of a search, and of what it does besides agents."""
    whole, rest = [], []
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(SEARCHES):
            config = _config(agent, seed, Path(directory) / str(seed))
            spent, agents = time.process_time(), stopwatch.seconds
            session = Session.from_config(config)
            stopwatch.watch(session.proposer, "propose")
            stopwatch.watch(session.stopper, "decide")
            with contextlib.redirect_stdout(io.StringIO()):
                session.run()
            whole.append(time.process_time() - spent)
            rest.append(whole[-1] - (stopwatch.seconds - agents))
    return {"search_ms": round(1000 * median(whole), 1), "besides_agents_ms": round(1000 * median(rest), 1)}


def _config(agent: str, seed: int, search_dir: Path) -> SearchConfig:
    overrides = [
        "experiment=simulated",
        f"agent={agent}",
        f"budget.stages={STAGES}",
        "search.report=false",
        f"seed={seed}",
        f"search_dir={search_dir}",
    ]
    return composed("search", SearchConfig, overrides)


if __name__ == "__main__":
    main()
