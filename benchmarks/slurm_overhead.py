"""What SLURM adds to a stage, and what 500 jobs cost the driver: `python benchmarks/slurm_overhead.py`.

Needs `slurm/dev-cluster.sh up`. A stage is started by hand and as a job by turns; what counts is the time to its first step, and for a job
the part of it before its process begins. Then 500 stages that only sleep are submitted at once and watched to their end. Writes
benchmarks/results/slurm_overhead.json.
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
    """Stand for a stage."""
    time.sleep(1)
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def main() -> None:
    """Measure both."""
    place = Path(mkdtemp())
    found = {"first_step_s": first_steps(place), "jobs": many_jobs(place / "many")}
    write_json(RESULT, found)
    print(RESULT.read_text())


def first_steps(place: Path) -> dict[str, float]:
    """Return the median seconds to a stage's first step, by hand and as a job, and of those until a job's process begins."""
    spec = _spec(place)
    times: dict[str, list[float]] = {"by hand": [], "as a job": []}
    for _ in range(ROUNDS):
        times["by hand"].append(_until_first_step(_stage(place / "hand", spec), _by_hand))
        times["as a job"].append(_until_first_step(_stage(place / "nodes/0001", spec), _as_a_job))
    return {name: round(median(seconds), 2) for name, seconds in times.items()}


def _spec(place: Path) -> dict[str, Any]:
    subprocess.run(
        [*command("train"), *MICRO, "steps=0", f"stage_dir={place}/root"], check=True, capture_output=True
    )
    resume = f"resume_from={place}/root/checkpoints/step_00000"
    subprocess.run(
        [*command("train"), *MICRO, "steps=0", resume, f"stage_dir={place}/spec"],
        check=True,
        capture_output=True,
    )
    found: dict[str, Any] = json.loads((place / "spec/stage.json").read_text()) | {"steps": 1}
    found["hparams"] |= FEW
    return found


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
    """Return what submitting and watching many jobs costs."""
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
    """Count from now on what SLURM is asked."""
    calls, ask = [0], slurm_queue._lines

    def counted(*words: str) -> list[str]:
        calls[0] += 1
        return ask(*words)

    slurm_queue._lines = counted
    return calls


if __name__ == "__main__":
    main()
