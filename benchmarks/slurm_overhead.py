"""Measures what SLURM adds to a stage, and what 500 jobs cost the driver.

Usage: PYTHONPATH=. python benchmarks/slurm_overhead.py   (needs `slurm/dev-cluster.sh up`)
Writes benchmarks/results/slurm_overhead.json.

A stage is started by hand and as a job in turn; measured is the time to its first step. Then 500 stages that
only sleep are submitted at once and polled until they have ended.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

from llmzero.core.files import write_json
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.runners import slurm_queue
from llmzero.runners.slurm import SlurmRunner, SlurmRunnerSettings
from tests.integration.conftest import FEW, MICRO, command

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results/slurm_overhead.json"
ROUNDS = 5
JOBS = 500


def sleep_a_little(directory: str, **_: Any) -> None:
    """Entry point of a stage that trains nothing."""
    time.sleep(1)
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def main() -> None:
    """Measure both."""
    folder = Path(mkdtemp())
    measurements = {"first_step_s": first_steps(folder), "jobs": many_jobs(folder / "many")}
    write_json(RESULT, measurements)
    print(RESULT.read_text())


def first_steps(folder: Path) -> dict[str, float]:
    """Return the median seconds to a stage's first step, started by hand and as a job."""
    document = _stage_document(folder)
    times: dict[str, list[float]] = {"by hand": [], "as a job": []}
    for _ in range(ROUNDS):
        times["by hand"].append(_until_first_step(_stage(folder / "hand", document), _by_hand))
        times["as a job"].append(_until_first_step(_stage(folder / "nodes/0001", document), _as_a_job))
    return {name: round(median(seconds), 2) for name, seconds in times.items()}


def _stage_document(folder: Path) -> dict[str, Any]:
    """Return the content of a `stage.json` for one step from a new base checkpoint."""
    for name, overrides in (
        ("root", []),
        ("stage", [f"resume_from={folder}/root/checkpoints/step_00000"]),
    ):
        line = [*command("train"), *MICRO, "steps=0", *overrides, f"stage_dir={folder}/{name}"]
        subprocess.run(line, check=True, capture_output=True)
    document: dict[str, Any] = json.loads((folder / "stage/stage.json").read_text()) | {"steps": 1}
    document["hparams"] |= FEW
    return document


def _stage(directory: Path, spec: dict[str, Any]) -> StageDir:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "stage.json").write_text(json.dumps(spec))
    return StageDir(directory)


def _by_hand(stage: StageDir) -> None:
    subprocess.Popen(
        [sys.executable, "-c", f"from llmzero.grpo.main import run_stage; run_stage({str(stage.path)!r})"]
    )


def _as_a_job(stage: StageDir) -> None:
    SlurmRunner(SlurmRunnerSettings(cpus_per_task=1)).start(stage.read_spec())


def _until_first_step(stage: StageDir, start: Callable[[StageDir], None]) -> float:
    began = time.perf_counter()
    start(stage)
    while not stage.metrics():
        time.sleep(0.01)
    taken = time.perf_counter() - began
    while stage.result() is None:
        time.sleep(0.1)
    time.sleep(2)  # its process ends
    return taken


def many_jobs(nodes: Path) -> dict[str, float]:
    """Return what submitting and polling many jobs costs."""
    calls = _count_calls()
    runner = SlurmRunner(
        SlurmRunnerSettings(entry_point="benchmarks.slurm_overhead.sleep_a_little", cpus_per_task=1)
    )
    began = time.perf_counter()
    handles = []
    for number in range(JOBS):
        directory = nodes / f"{number:04d}"
        directory.mkdir(parents=True)
        handles.append(runner.start(StageSpec(directory.name, None, 1, directory, None, {}, 1, 0)))
    submitted = time.perf_counter() - began
    polling, rounds = 0.0, 0
    while handles:
        at = time.process_time()
        handles = [handle for handle in handles if not handle.poll().final]
        polling, rounds = polling + time.process_time() - at, rounds + 1
        time.sleep(1)
    states = [StageDir(directory).result() for directory in nodes.iterdir() if directory.is_dir()]
    assert sum(result is not None and result.state == "completed" for result in states) == JOBS
    return {
        "jobs": JOBS,
        "submit_s": round(submitted, 1),
        "all_done_s": round(time.perf_counter() - began, 1),
        "calls_of_squeue_and_sacct": calls[0],
        "poll_ms_a_round": round(1000 * polling / rounds, 1),
    }


def _count_calls() -> list[int]:
    """Count the calls of SLURM commands from now on, in the first element of the list returned."""
    calls, ask = [0], slurm_queue._jobs

    def counted(*words: str) -> dict[str, slurm_queue.JobState]:
        calls[0] += 1
        return ask(*words)

    slurm_queue._jobs = counted
    return calls


if __name__ == "__main__":
    main()
