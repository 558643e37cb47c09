#!/usr/bin/env python
"""Measures the parts of a nano stage's start, cold and warm in turn, from the decision to the first step.

Usage: python benchmarks/stage_start.py   (two minutes; writes benchmarks/results/stage_start.json)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from llmzero.core.stage import StageDir
from llmzero.runners.local import LocalRunner, LocalRunnerSettings

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/stage_start.json"
FIRST_STEP = "decision to first step"  # all parts before the first rollouts
Seconds = dict[str, float]


def main() -> None:
    """Run stages in turn; print and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    )
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (
            ("steps=0", f"stage_dir={folder}/root"),
            ("steps=0", f"resume_from={folder}/root/checkpoints/step_00000", f"stage_dir={folder}/first"),
        ):
            command = [sys.executable, "launchers/train.py", *arguments]
            subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        kinds = {name: LocalRunner(settings(name == "warm")) for name in ("cold", "warm")}
        begin(kinds["warm"], Path(folder), "untimed")
        found: dict[str, list[Seconds]] = {name: [] for name in kinds}
        for i in range(rounds):
            for name, runner in kinds.items():
                found[name].append(begin(runner, Path(folder), f"{name}{i}"))
    medians = {
        name: {part: round(median(row[part] for row in rows), 3) for part in rows[0]}
        for name, rows in found.items()
    }
    ratio = median(
        cold[FIRST_STEP] / warm[FIRST_STEP] for cold, warm in zip(found["cold"], found["warm"], strict=True)
    )
    report = {"cores": os.cpu_count(), "rounds": rounds, "seconds": medians, "ratio": round(ratio, 1)}
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'seconds':<24}{'cold':>8}{'warm':>8}")
    for part, cold in medians["cold"].items():
        print(f"{part:<24}{cold:>8.3f}{medians['warm'][part]:>8.3f}")
    print(f"{FIRST_STEP}: cold is {ratio:.1f} times as long")


def settings(warm: bool) -> LocalRunnerSettings:
    """Return those of a runner that gives every stage one thread."""
    return LocalRunnerSettings("benchmarks.timed_stage.run", warm, threads=1)


def begin(runner: LocalRunner, folder: Path, name: str) -> Seconds:
    """Run a stage of one step through a runner; return the seconds of its parts."""
    stage = StageDir(folder / name)
    stage.path.mkdir()
    spec = json.loads((folder / "first/stage.json").read_text()) | {"steps": 1}
    (stage.path / "stage.json").write_text(json.dumps(spec))
    decided = time.time()
    handle = runner.start(stage.read_spec())
    while not (stage.path / "parts.json").exists():
        if handle.poll().state == "failed":
            raise SystemExit(f"the stage failed: {handle.result().error}")
        time.sleep(0.01)
    marks: Seconds = json.loads((stage.path / "parts.json").read_text())
    seconds, before = {}, decided
    for part, at in marks.items():
        seconds[part], before = at - before, at
    return seconds | {FIRST_STEP: marks["reference and step"] - decided}


if __name__ == "__main__":
    main()
