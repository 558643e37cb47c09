#!/usr/bin/env python
"""Measures whole searches whose stages are forked from a warm parent beside such as start each from nothing.

Usage: python benchmarks/search_speed.py [--rounds N] [--stages N]   (half an hour of a quiet machine)
Writes benchmarks/results/search_speed.json.

The two take turns: the search of `make search`, N times each, and a slice of `study=nano`, once each. Of
every search it also tells how long no stage ran at all, which is what the driver adds; where stages are warm,
the imports of their parent are in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from llmzero.core.files import write_json

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results/search_speed.json"
KINDS = {"warm": "runner.warm=true", "cold": "runner.warm=false"}
SLICE = [
    "methods={llmzero: ['search=llmzero'], random: ['search=random']}",
    "tasks={countdown: ['task=countdown', 'model=nano']}",
    "seeds=1",
    "at_once=1",
]


def main() -> None:
    """Run both kinds in turn, print a line for each, and write the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="searches of each kind")
    parser.add_argument("--stages", type=int, default=16, help="of a search; the study's have half as many")
    arguments = parser.parse_args()
    searches: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMZERO_CACHE"] = f"{folder}/cache"
        launch("train", "steps=0", f"stage_dir={folder}/base")  # the cache holds the base model from now on
        for number in range(arguments.rounds):
            for kind, setting in KINDS.items():
                directory = Path(folder, f"{kind}-{number}")
                stages = f"budget.stages={arguments.stages}"
                seconds = launch("search", "tracking=none", stages, setting, f"search_dir={directory}")
                searches[kind].append({"seconds": seconds, "no_stage_seconds": idle(directory, seconds)})
                print(f"search, {kind}: {searches[kind][-1]}", flush=True)
        study = {}
        for kind, setting in KINDS.items():
            stages = f"budget.stages={max(1, arguments.stages // 2)}"
            common = f"common=['tracking=none', '{stages}', '{setting}']"
            study[kind] = launch("compare", *SLICE, common, f"study_dir={folder}/study-{kind}")
            print(f"study, {kind}: {study[kind]} s", flush=True)
    medians = {kind: median(search["seconds"] for search in runs) for kind, runs in searches.items()}
    report: dict[str, Any] = {
        "cores": os.cpu_count(),
        "stages": arguments.stages,
        "search": {**searches, "times_as_fast": round(medians["cold"] / medians["warm"], 2)},
        "study_seconds": {**study, "times_as_fast": round(study["cold"] / study["warm"], 2)},
    }
    write_json(RESULT, report)
    print(json.dumps(report, indent=2))


def launch(launcher: str, *overrides: str) -> float:
    """Run a launcher to its end; return its wall seconds."""
    began = time.perf_counter()
    command = [sys.executable, f"launchers/{launcher}.py", *overrides]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - began, 1)


def idle(search: Path, seconds: float) -> float:
    """Return how many of a search's seconds no stage ran, be it of the search or of its final test."""
    results = [json.loads(file.read_text()) for file in search.glob("*/*/result.json")]
    spans = sorted((result["ended_at"] - result["seconds"], result["ended_at"]) for result in results)
    busy, until = 0.0, 0.0
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return round(seconds - busy, 1)


if __name__ == "__main__":
    main()
