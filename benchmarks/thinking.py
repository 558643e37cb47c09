#!/usr/bin/env python
"""Measures what a slow language model holds up: verdicts, the end of a search, budgets, and throughput.

Usage: PYTHONPATH=. python benchmarks/thinking.py [--answer-s 60] [--result FILE]   (ten minutes)
Writes benchmarks/results/thinking.json.

Drivers are real processes, and the model is a server of the protocol on this machine, which answers after a
minute. Stages take time by the clock and compute nothing (tests/paced.py), so that what is measured
is the driver. The searches of the throughput run side by side with the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from llmzero.core.files import write_json
from tests.llm_server import Answer, LLMServer, Request, scripted

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results/thinking.json"
STEP_S, EVERY = 0.1, 4  # of a stage: seconds of a step, steps between validations
REPEATS = 5
LIMIT_S = 20.0  # of the searches that a budget ends
STAGES = 9  # of the searches of the throughput; the first asks nobody
SEARCH = [
    *("experiment=simulated", "runner._target_=tests.paced.PacedRunner", f"+runner.every={EVERY}"),
    *("search.method.unchanged_fraction=0", "search.report=false", "agent=openai", "llm.model=scripted"),
    *("llm.api_key_env=null", "llm.timeout_s=900", "llm.max_at_once=64", "search.workers=4"),
]
LONG = [f"+runner.step_s={STEP_S}", "search.stage_steps=2000", "stopper=curve", "+runner.hopeless='2'"]


def started(url: str, directory: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the driver of a search."""
    command = [sys.executable, str(REPOSITORY / "launchers/search.py"), *SEARCH, f"llm.base_url={url}"]
    return subprocess.Popen(
        [*command, *overrides, f"search_dir={directory}"], stdout=subprocess.DEVNULL, cwd=REPOSITORY
    )


def events(directory: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of a kind in a log that is being written."""
    file = directory / "tree.jsonl"
    whole = file.read_text().split("\n")[:-1] if file.exists() else []
    return [event for event in map(json.loads, whole) if event["event"] == name]


def awaited(condition: Callable[[], Any], driver: subprocess.Popen[bytes]) -> Any:
    """Wait until something holds; return it."""
    while not (value := condition()):
        if driver.poll() is not None:
            raise RuntimeError("the driver has ended")
        time.sleep(0.02)
    return value


def verdict_and_stop(url: str, directory: Path) -> tuple[float, float]:
    """Return the seconds from hopeless evidence to its stage's end, and from a stop to the last end."""
    driver = started(url, directory, LONG)
    stop = awaited(lambda: events(directory, "stop_requested"), driver)[0]
    ended = awaited(
        lambda: [e for e in events(directory, "finished") if e["node_id"] == stop["node_id"]], driver
    )
    clock = json.loads((directory / "nodes" / stop["node_id"] / "clock.json").read_text())
    verdict = ended[0]["result"]["ended_at"] - (clock["began"] + stop["step"] * STEP_S)
    time.sleep(1.0)  # until the next stage is being proposed
    (directory / "stop").touch()
    asked = time.time()
    driver.wait()
    last = max(event["result"]["ended_at"] for event in events(directory, "finished"))
    return verdict, last - asked


def overrun(url: str, directory: Path) -> float:
    """Return by how many seconds the last stage outlived `budget.seconds`."""
    started(url, directory, [*LONG, f"budget.seconds={LIMIT_S}"]).wait()
    return float(max(event["elapsed"] for event in events(directory, "finished")) - LIMIT_S)


def taken(directory: Path) -> float:
    """Return the seconds of a search from the end of the base model to that of the last stage."""
    ends = [event["elapsed"] for event in events(directory, "finished")]
    return float(ends[-1] - ends[0])


def measured(url: str, other: str, folder: Path) -> dict[str, Any]:
    """Return the figures; of the two addresses the second answers at once about stage 0002."""
    short = ["+runner.step_s=0.0001", "stopper=none", f"budget.stages={STAGES}", "search.max_depth=3"]
    drivers = {
        workers: started(url, folder / str(workers), [*short, f"search.workers={workers}"])
        for workers in (1, 4)
    }
    pairs = [verdict_and_stop(other, folder / f"verdict{i}") for i in range(REPEATS)]
    over = [overrun(other, folder / f"budget{i}") for i in range(REPEATS)]
    for driver in drivers.values():
        driver.wait()
    seconds = {str(workers): round(taken(folder / str(workers)), 1) for workers in drivers}
    return {
        "from_evidence_to_end_s": spread([verdict for verdict, _ in pairs]),
        "from_stop_to_end_s": spread([stop for _, stop in pairs]),
        "beyond_budget_s": spread(over),
        "seconds_by_workers": seconds,
        "throughput_ratio": round(seconds["1"] / seconds["4"], 2),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and greatest of some seconds."""
    return {"median": round(median(values), 2), "greatest": round(max(values), 2)}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--answer-s", type=float, default=60.0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    def slow(request: Request) -> Answer:
        return Answer(content=scripted(request).content, delay_s=arguments.answer_s)

    def quick_once(request: Request) -> Answer:
        first = "Propose the stage 0002 that" in request.last_user
        return scripted(request) if first else slow(request)

    with TemporaryDirectory() as scratch, LLMServer(slow) as server, LLMServer(quick_once) as other:
        figures = measured(server.url, other.url, Path(scratch))
    write_json(arguments.result, {"answer_s": arguments.answer_s, **figures})
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
