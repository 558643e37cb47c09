#!/usr/bin/env python
"""Measures the overhead of a search as its tree grows to 10,000 stages.

Usage: python benchmarks/search_scale.py   (writes benchmarks/results/search_scale.json)

An iteration is what the driver does for a stage: the method's choice, three events in the log (one of them
waits for the disk), the tree, the ledger. Nothing is trained, and the agent answers at once. Each method runs
in a process of its own.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil

from llmzero.cli import composed
from llmzero.core.hparams import Catalogue
from llmzero.core.locations import stored
from llmzero.core.parts import make
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.evidence.evidence import Choice
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import MethodContext, SearchMethod
from llmzero.search.settings import SearchConfig, SearchSettings
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Tree

RESULTS = Path(__file__).parent / "results" / "search_scale.json"
STAGES = 10_000
SIZES = (100, 300, 1000, 3000, 10_000)  # of the tree; iterations at trees within 10 % of each are averaged
METHODS = ("llmzero", "paper")
STEPS = 16


def main() -> None:
    """Measure every method and print a table."""
    measurements = {
        name: json.loads(
            subprocess.run([sys.executable, __file__, name], capture_output=True, check=True).stdout
        )
        for name in METHODS
    }
    RESULTS.write_text(json.dumps({"stages": STAGES, "methods": measurements}, indent=2) + "\n")
    for name, figures in measurements.items():
        sizes = ", ".join(f"{size}: {ms:.2f}" for size, ms in figures["iteration_ms"].items())
        print(
            f"{name:8} ms an iteration at a tree of {sizes}; "
            f"restart {figures['restart_s']:.2f} s; memory {figures['memory_mib']:.0f} MiB"
        )


def measure(name: str) -> dict[str, Any]:
    """Measure a method.

    Returns:
        Milliseconds an iteration by the size of the tree, seconds of a restart and of reading the log, the
        memory of log, tree, ledger and method in MiB, and the log's size in MiB.
    """
    config = composed(
        "search", SearchConfig, ["experiment=simulated", f"search={name}", f"budget.stages={STAGES}"]
    )
    catalogue = config.catalogue
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tree.jsonl"
        store, method = EventStore(path), _method(config.search, catalogue)
        seconds = _grow(store, method, catalogue)
        del store, method
        began = time.perf_counter()
        store, method = EventStore(path), _method(config.search, catalogue)
        read = time.perf_counter() - began
        method.ask(store.tree)
        restart = time.perf_counter() - began
        log_size = path.stat().st_size
        memory = psutil.Process().memory_info().rss - before
    windows = {size: seconds[int(size * 0.9) - 1 : int(size * 1.1)] for size in SIZES}
    return {
        "iteration_ms": {size: round(1e3 * fmean(values), 3) for size, values in windows.items()},
        "iteration_median_ms": {size: round(1e3 * median(values), 3) for size, values in windows.items()},
        "restart_s": round(restart, 3),
        "reading_the_log_s": round(read, 3),
        "memory_mib": round(memory / 2**20, 1),
        "log_mib": round(log_size / 2**20, 1),
    }


def _grow(store: EventStore, method: SearchMethod, catalogue: Catalogue) -> list[float]:
    """Grow the tree to its full size; return the seconds of each iteration."""
    rng, seconds = random.Random(0), []
    _add(store, None, 0, catalogue.defaults(), Proposal("base", (), "The base model.", {}), 0.2)
    while len(store.tree) <= STAGES:
        began = time.perf_counter()
        expansion = method.ask(store.tree)
        assert expansion is not None
        assert expansion.proposal is not None
        parent = store.tree[expansion.parent_id]
        score = min(0.99, (parent.score or 0.0) + rng.gauss(0.03, 0.03))
        _add(store, parent.node_id, parent.depth + 1, expansion.hparams, expansion.proposal, score)
        method.tell(store.tree, store.tree.finished[-1])
        seconds.append(time.perf_counter() - began)
    return seconds


def _add(
    store: EventStore,
    parent_id: str | None,
    depth: int,
    hparams: dict[str, Any],
    proposal: Proposal,
    score: float,
) -> None:
    """Append the events that the driver appends for a stage, from its creation to its end."""
    node_id = store.tree.next_id()
    directory = store.path.parent / "nodes" / node_id
    checkpoint = directory / "checkpoints" / f"step_{STEPS:05d}"
    fields = {
        "node_id": node_id,
        "parent_id": parent_id,
        "depth": depth,
        "hparams": hparams,
        "steps": STEPS,
        "resume_from": stored(checkpoint, directory),
    }
    store.append("created", elapsed=1.0, **fields, proposal=proposal.to_dict(), memo={})
    store.append("started", elapsed=1.0, node_id=node_id, attempt=1)
    points = [
        ValidationPoint(step, depth * STEPS + step, score, 0.014, 1000, 0.5)
        for step in range(4, STEPS + 1, 4)
    ]
    result = StageResult(
        "completed", points, STEPS, score, checkpoint, 11.6, 11.6, None, checkpoint, None, 1.0
    )
    store.append("finished", elapsed=1.0, node_id=node_id, result=result.to_dict(directory))


def _method(search: SearchSettings, catalogue: Catalogue) -> SearchMethod:
    def propose(tree: Tree, node_id: str, _choice: Choice) -> Proposal:
        rng, parent = random.Random(len(tree)), tree[node_id].hparams
        names = rng.sample(list(catalogue), k=2)
        changes = catalogue.changes(parent, parent | {n: catalogue[n].sample(rng) for n in names})
        return Proposal("random", (), f"A random change of {', '.join(changes)}: drawn at random.", changes)

    context = MethodContext(catalogue, propose, search.max_depth, 0, stages=STAGES)
    method: SearchMethod = make(search.method, "search.method", context=context)
    return method


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
