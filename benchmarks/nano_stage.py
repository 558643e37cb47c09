#!/usr/bin/env python
"""Measures the nano stage: start-up, seconds of each phase, peak memory.

Usage: python benchmarks/nano_stage.py   (about a minute; writes benchmarks/results/nano_stage.json)
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/nano_stage.json"
STEPS = 20


def main() -> None:
    """Run all measurements and write the results."""
    with tempfile.TemporaryDirectory() as folder:
        train("steps=0", f"stage_dir={folder}/root")  # warms the cache of base checkpoints
        root = Path(folder) / "root/checkpoints/step_00000"
        stages = {
            "practitioner": stage(folder, root, "practitioner", "values={}"),
            "large_batch": stage(
                folder, root, "large", "values={prompts_per_step: 64, group_size: 16, minibatches: 4}"
            ),
        }
        report = {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            "driver": {"first_line_seconds": driver_first_line()},
            "import_seconds": imports(),
            "stages": stages,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def train(*overrides: str) -> float:
    """Run `launchers/train.py` and return its wall seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "launchers/train.py", *overrides], cwd=REPOSITORY, check=True, capture_output=True
    )
    return time.perf_counter() - started


def stage(folder: str, root: Path, name: str, values: str) -> dict[str, float]:
    """Train one stage; return its wall seconds, the share of each phase, and its throughput."""
    directory = Path(folder) / name
    wall = train(f"steps={STEPS}", f"resume_from={root}", f"stage_dir={directory}", values)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    phases = ("generation", "reward", "logprobs", "update", "validation", "checkpoint")
    spent = {phase: sum(row[f"seconds_{phase}"] for row in rows) for phase in phases}
    tokens = rows[-1]["tokens"]
    return {
        "wall_seconds": round(wall, 2),
        "step_seconds": round(sum(row["step_seconds"] for row in rows) / len(rows), 3),
        "trained_tokens_per_second": round(tokens / sum(row["step_seconds"] for row in rows)),
        "share_generation_and_optimisation": round(
            (spent["generation"] + spent["logprobs"] + spent["update"]) / wall, 3
        ),
        **{f"share_{phase}": round(value / wall, 3) for phase, value in spent.items()},
    }


def imports() -> dict[str, float]:
    """Return the seconds that a fresh process needs to import each half."""
    seconds = {}
    for half, module in (("search", "llmzero.search.session"), ("training", "llmzero.grpo.main")):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        seconds[half] = round(time.perf_counter() - started, 2)
    return seconds


def driver_first_line() -> float:
    """Return the seconds until `launchers/search.py` prints its first line."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "launchers/search.py", "dry_run=true"], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - started
        process.stdout.read()
    return round(seconds, 2)


if __name__ == "__main__":
    main()
