"""Measures what SLURM adds to a stage, what 500 jobs cost the driver, and what a full queue costs a search.

Usage: PYTHONPATH=. python benchmarks/slurm_overhead.py [PART ...]   (needs `slurm/dev-cluster.sh up`)
Writes benchmarks/results/slurm_overhead.json; with parts (first_step_s, jobs, full_queue) those alone anew.

A stage is started by hand, as a job and in a pilot that waits for one, in turn; measured is the time to its
first step. Then 500 stages that only sleep are submitted at once and polled until they have ended. At last a
search of 16 stages, four at a time, runs in a cluster where every job waits for a minute, with a job a stage
and with pilots.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

from llmzero.core.files import read_json, write_json
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.runners import slurm_queue
from llmzero.runners.slurm import SlurmRunner, SlurmRunnerSettings
from llmzero.runners.slurm_pilot import SlurmPilotRunner, SlurmPilotSettings
from llmzero.runners.slurm_queue import name_within
from tests.integration.conftest import FEW, MICRO, command

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results/slurm_overhead.json"
ROUNDS = 5
JOBS = 500
STAGES, WAIT_S = 16, 60  # of the search in a full queue


def sleep_a_little(directory: str, **_: Any) -> None:
    """Entry point of a stage that trains nothing."""
    time.sleep(1)
    StageDir(Path(directory)).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def main() -> None:
    """Measure both."""
    folder = Path(mkdtemp())
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "first_step_s": first_steps,
        "jobs": many_jobs,
        "full_queue": full_queue,
    }
    for part in sys.argv[1:] or parts:
        (folder / part).mkdir()
        measured = parts[part](folder / part)
        measurements = {**(read_json(RESULT) or {}), part: measured}
        write_json(RESULT, measurements)
    print(RESULT.read_text())


def first_steps(folder: Path) -> dict[str, float]:
    """Return the median seconds to a stage's first step, started by hand, as a job and in a pilot."""
    document = _stage_document(folder)
    times: dict[str, list[float]] = {"by hand": [], "as a job": [], "in a pilot": []}
    pilots = SlurmPilotRunner(SlurmPilotSettings(cpus_per_task=1, poll_s=0.5), folder)
    _until_first_step(
        _stage(folder / "nodes/0000", document), partial(_in_a_pilot, pilots)
    )  # the pilot starts
    for _ in range(ROUNDS):
        times["by hand"].append(_until_first_step(_stage(folder / "hand", document), _by_hand))
        times["as a job"].append(_until_first_step(_stage(folder / "nodes/0001", document), _as_a_job))
        stage = _stage(folder / "nodes/0002", document)
        times["in a pilot"].append(_until_first_step(stage, partial(_in_a_pilot, pilots)))
    pilots.close()
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


def _in_a_pilot(runner: SlurmPilotRunner, stage: StageDir) -> None:
    runner.start(stage.read_spec())


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


def full_queue(folder: Path) -> dict[str, Any]:
    """Return how long a search takes where every job waits, and the sum of the waits, with both runners.

    Both searches run at the same time.
    """
    began = time.perf_counter()
    searches = {
        runner: _search_in_a_full_queue(folder / runner, runner) for runner in ("slurm", "slurm_pilot")
    }
    taken: dict[str, float] = {}
    while len(taken) < len(searches):
        for runner, search in searches.items():
            if runner not in taken and search.poll() is not None:
                assert search.returncode == 0, runner
                taken[runner] = time.perf_counter() - began
        time.sleep(0.5)
    measured: dict[str, Any] = {"stages": STAGES, "wait_s": WAIT_S}
    for runner, seconds in taken.items():
        waits = _waits({name_within(folder / runner / part) for part in ("nodes", "test", "pilots")})
        measured[runner] = {"search_s": round(seconds), "jobs": len(waits), "waited_s": round(sum(waits))}
    return measured


def _search_in_a_full_queue(search: Path, runner: str) -> subprocess.Popen[bytes]:
    line = [*command("search"), *MICRO, "tracking=none", "stopper=none", "search.stage_steps=6"]
    line += ["trainer.validation_every=3", f"budget.stages={STAGES}", "search.workers=4"]
    line += [f"runner={runner}", "runner.cpus_per_task=1", "runner.poll_s=0.5", "runner.grace_s=2"]
    line += [f"runner.extra={{begin: now+{WAIT_S}}}", f"search_dir={search}"]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL)


def _waits(names: set[str]) -> list[float]:
    """Return the seconds that jobs have waited whose names begin so."""
    listing = subprocess.run(
        ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobName%60,Submit,Start"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split("|") for line in listing.splitlines()]
    times = [
        (datetime.fromisoformat(a), datetime.fromisoformat(b))
        for name, a, b in rows
        if name.rpartition("-")[0] in names and b != "Unknown"
    ]
    return [(start - submitted).total_seconds() for submitted, start in times]


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
