"""Breaks searches on SLURM at random moments and checks that nothing is lost.

Usage: PYTHONPATH=. python benchmarks/slurm_faults.py [FAULTS] [RUNNER]   (needs `slurm/dev-cluster.sh up`)
Writes benchmarks/results/slurm_faults.json, or slurm_pilot_faults.json of RUNNER=slurm_pilot.

Searches of eight stages run one after another. Every few seconds one of these happens: the driver is killed
(and started again), a stage's process is killed, a node's slurmd is killed (and started again), a node goes
down (and comes back), a running job is requeued, a running job is cancelled; a pilot is killed, or the
process that it forks stages from. After each search every node has ended exactly once, the ledger is the sum
of the results and of what pilots have held, and no job is left.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import psutil

from llmzero.core.files import write_json
from llmzero.core.stage import StageDir
from llmzero.runners.pilot_files import PilotFiles
from llmzero.runners.slurm_queue import jobs_alive, name_within
from llmzero.tree.store import EventStore
from tests.integration.conftest import MICRO, command

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
CLUSTER_RUN = Path(os.environ.get("LLMZERO_DEV_CLUSTER", "/var/tmp/llmzero-cluster")) / "run"
STAGES = 8
OVERRIDES = [
    *MICRO,
    *(
        "tracking=none",
        "search.stage_steps=30",
        "trainer.validation_every=10",
        "stopper=none",
        f"budget.stages={STAGES}",
        "search.workers=3",
    ),
    *("runner.cpus_per_task=1", "runner.poll_s=0.5", "runner.grace_s=2"),
]


class Trial:
    """A search into which faults are injected while it runs."""

    def __init__(self, search: Path, rng: random.Random, runner: str) -> None:
        self.search, self.rng, self.pilots = search, rng, runner == "slurm_pilot"
        self.overrides = [f"runner={runner}", *OVERRIDES]
        self.overrides += [f"search_dir={search}", f"seed={rng.randrange(1000)}"]
        self.driver = self._drive()
        self.faults: dict[str, Callable[[], bool]] = {
            "driver killed": self.kill_driver,
            "stage killed": self.kill_stage,
            "slurmd killed": self.kill_slurmd,
            "node down": self.take_node_down,
            "job requeued": lambda: self.run_on_a_job("scontrol", "requeue"),
            "job cancelled": lambda: self.run_on_a_job("scancel"),
        }
        if self.pilots:
            self.faults["pilot killed"] = lambda: self.kill_process_of_a_pilot("llmzero.runners.pilot_job")
            self.faults["warm parent killed"] = lambda: self.kill_process_of_a_pilot(
                "llmzero.runners.warm_parent"
            )

    def _drive(self) -> subprocess.Popen[bytes]:
        with (self.search.parent / f"{self.search.name}.log").open("ab") as log:
            return subprocess.Popen(
                command("search", *self.overrides), stdout=log, stderr=log, cwd=REPOSITORY
            )

    def run(self, faults: int) -> Counter[str]:
        """Inject up to `faults` faults until the search has ended; return the number of each kind."""
        done: Counter[str] = Counter()
        while self.driver.poll() is None:
            time.sleep(self.rng.uniform(1, 8))
            name = self.rng.choice(list(self.faults))
            if self.driver.poll() is None and done.total() < faults and self.faults[name]():
                done[name] += 1
                print(f"{self.search.name}: {name}", flush=True)
        assert self.driver.returncode == 0, (self.search.parent / f"{self.search.name}.log").read_text()[
            -3000:
        ]
        return done

    def kill_driver(self) -> bool:
        """Kill the driver, and start another."""
        self.driver.kill()
        self.driver.wait()
        self.driver = self._drive()
        return True

    def kill_stage(self) -> bool:
        """Kill the process of a stage."""
        pids = [
            StageDir(self.search / "nodes" / node_id).status().get("pid") for node_id in self._unfinished()
        ]
        alive = [pid for pid in pids if pid and Path(f"/proc/{pid}").exists()]
        if alive:
            os.kill(self.rng.choice(alive), 9)
        return bool(alive)

    def kill_process_of_a_pilot(self, module: str) -> bool:
        """Kill a process of a pilot that runs a module."""
        pids = [
            process.pid
            for process in psutil.process_iter(["cmdline", "environ"])
            if module in (process.info["cmdline"] or ())
            and "python" in process.name()
            and str(self.search) in (process.info["environ"] or {}).get("PYTHONPATH", "")  # its snapshot
        ]
        if pids:
            os.kill(self.rng.choice(pids), 9)
        return bool(pids)

    def kill_slurmd(self) -> bool:
        """Kill a node's daemon, and start it again."""
        node = self.rng.choice(("n1", "n2"))
        os.kill(int((CLUSTER_RUN / f"slurmd-{node}.pid").read_text()), 9)
        time.sleep(self.rng.uniform(0, 3))
        subprocess.run(["slurmd", "-N", node], check=True)
        return True

    def take_node_down(self) -> bool:
        """Set a node down, and resume it."""
        node = self.rng.choice(("n1", "n2"))
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=fault"], check=True)
        time.sleep(self.rng.uniform(0, 3))
        subprocess.run(
            ["scontrol", "update", f"nodename={node}", "state=resume"], check=False
        )  # it may have come back by itself
        return True

    def run_on_a_job(self, *words: str) -> bool:
        """Run a command on a running job."""
        listing = subprocess.run(
            ["squeue", "-h", "--me", "-t", "RUNNING", "-o", "%A %j"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        jobs = [line.split()[0] for line in listing.splitlines() if " llmzero-" in line]
        if jobs:
            subprocess.run(
                [*words, self.rng.choice(jobs)], check=False, capture_output=True
            )  # it may just have ended
        return bool(jobs)

    def _unfinished(self) -> list[str]:
        file = self.search / "tree.jsonl"
        return (
            [node.node_id for node in EventStore(file, repair=False).tree if not node.final]
            if file.exists()
            else []
        )

    def check(self) -> dict[str, int]:
        """Assert that nothing was lost; return how many nodes ended in each state."""
        store = EventStore(self.search / "tree.jsonl", repair=False)
        events = [json.loads(line) for line in (self.search / "tree.jsonl").read_text().splitlines()]
        finished = [event["node_id"] for event in events if event["event"] == "finished"]
        roots = finished.count("0000")  # a base model that failed is tried again
        assert sorted(finished)[roots:] == [f"{i:04d}" for i in range(1, STAGES + 1)], finished
        assert all(node.final for node in store.tree)
        spent = sum(node.result.gpu_seconds for node in store.tree.stages() if node.result)
        charged = json.loads((self.search / "summary.json").read_text())["budget"]["gpu_seconds"]
        assert abs(spent - charged) < 0.01, (spent, charged)
        self.check_pilots()
        for node in store.tree:
            assert (
                node.state != "completed"
                or len(StageDir(self.search / "nodes" / node.node_id).metrics()) == node.steps
            )
        deadline = time.monotonic() + 60
        folders = [self.search / "pilots"] if self.pilots else [self.search / "nodes", self.search / "test"]
        while any(name.startswith(tuple(map(name_within, folders))) for name in jobs_alive()):
            assert time.monotonic() < deadline, "a job is left in the queue"
            time.sleep(0.5)
        return dict(Counter(node.state for node in store.tree))

    def check_pilots(self) -> None:
        """Assert that all that pilots have held is charged, for stages or as idle."""
        files = PilotFiles(self.search)
        held = sum(record.held for record in map(files.read, files.pilots()) if record)
        ledger = json.loads((self.search / "summary.json").read_text())["budget"]
        paid = ledger["gpu_seconds"] + ledger["setup_gpu_seconds"] + ledger["idle_gpu_seconds"]
        assert not self.pilots or abs(paid - held) < 1.0 + 0.02 * held, (paid, held)


def main(faults: int, runner: str) -> None:
    """Run searches until `faults` faults were injected."""
    rng, folder = random.Random(0), Path(mkdtemp())
    done: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    searches = 0
    while done.total() < faults:
        trial = Trial(folder / f"search-{searches}", rng, runner)
        done += trial.run(faults - done.total())
        nodes.update(trial.check())
        searches += 1
        print(f"{done.total()} faults, {searches} searches, nodes: {dict(nodes)}", flush=True)
        shutil.rmtree(trial.search)
    result = RESULTS / f"{runner}_faults.json"
    write_json(result, {"faults": dict(done), "searches": searches, "nodes": dict(nodes)})
    print(f"all of it is accounted for: {result}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2] if len(sys.argv) > 2 else "slurm")
