"""Fills small disks with searches and checks that all go on to the result of an uninterrupted one.

Usage: PYTHONPATH=. python benchmarks/full_disk.py [KIND=SIZES ...]   (needs root, as it mounts tmpfs)
Writes benchmarks/results/full_disk.json.

A simulated search, one of real stages (a micro model) in the driver's process, and one with a process a stage
run once undisturbed. Then each runs on disks of sizes evenly spaced up to what it takes: 30, 30 and 4. A
command that meets the full disk has to say so, naming the file, and to leave no temporary file; the disk then
gets room, and the same command has to end with the same tree, scores and weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmzero.core.files import write_json
from llmzero.tree.store import EventStore
from tests.integration.conftest import MICRO, command

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results/full_disk.json"
TRAINED = [
    *MICRO,
    *("tracking=none", "budget.stages=2", "search.stage_steps=4", "trainer.validation_every=2"),
    *("search.workers=1", "runner.threads=1", "stopper=none"),
]
KINDS = {
    "simulated": ["experiment=simulated", "search.workers=1", "budget.stages=40"],
    "trained": [*TRAINED, "runner=inline"],  # in the driver's process, which spares most of the starts
    "processes": TRAINED,
}
DISKS = {"simulated": 30, "trained": 30, "processes": 4}
BAD_INPUT = 2
PAGE = 4096


@dataclass(frozen=True)
class Trial:
    """What came of one disk.

    Attributes:
        kib: its size.
        full: how many commands met the full disk, each followed by more room.
        named: whether each said so, with the file.
        temporary: temporary files that were left behind.
        same: whether the search ended as the undisturbed one did.
    """

    kib: int
    full: int
    named: bool
    temporary: int
    same: bool


def main() -> None:
    """Run all kinds on all sizes and write the counts."""
    wanted = dict(argument.split("=") for argument in sys.argv[1:])
    report = json.loads(RESULT.read_text()) if wanted and RESULT.exists() else {}
    for kind, count in (wanted or DISKS).items():
        trials = list(trials_of(kind, int(count)))
        report[kind] = {
            "disks": len(trials),
            "met a full disk": sum(trial.full > 0 for trial in trials),
            "said so, naming the file": sum(trial.named for trial in trials),
            "left a temporary file": sum(trial.temporary > 0 for trial in trials),
            "ended as the undisturbed search": sum(trial.same for trial in trials),
            "trials": [asdict(trial) for trial in trials],
        }
        print(kind, {name: value for name, value in report[kind].items() if name != "trials"})
        write_json(RESULT, report)


def trials_of(kind: str, count: int) -> Iterator[Trial]:
    """Yield a trial for each of `count` sizes of disks."""
    scratch = Path(tempfile.mkdtemp(prefix="full-disk-"))
    reference = scratch / "reference"
    done = run(kind, reference)
    assert done.returncode == 0, done.stderr
    outcome, taken = outcome_of(reference), size_of(reference)
    for number in range(1, count + 1):
        kib = max(64, round(taken * number / (count + 1) / 1024))
        with disk(scratch / "disk", kib) as directory:
            trial = tried(kind, directory, kib, outcome, taken)
        print(kind, trial, flush=True)
        yield trial
    shutil.rmtree(scratch)


def tried(kind: str, directory: Path, kib: int, outcome: Any, taken: int) -> Trial:
    """Run a search on a disk that gets more room whenever it is full."""
    full, named = 0, True
    search = directory / "search"
    while (done := run(kind, search)).returncode != 0 and full < 10:
        full += 1
        named &= (
            done.returncode == BAD_INPUT
            and "the disk is full" in done.stderr
            and str(directory) in done.stderr
        )
        temporary = len([*search.rglob(".*.tmp"), *search.rglob(".writing-*")])
        kib += taken // 256
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(directory)], check=True)
    same = done.returncode == 0 and outcome_of(search) == outcome
    return Trial(kib, full, named, temporary if full else 0, same)


def run(kind: str, search: Path) -> subprocess.CompletedProcess[str]:
    """Run the search of a kind in a directory, with one thread, so that weights come out bit for bit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}"}
    line = command("search", *KINDS[kind], f"search_dir={search}")
    return subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def outcome_of(search: Path) -> Any:
    """Return what must not depend on the disk: tree, scores, test, and a hash of every weight."""
    store = EventStore(search / "tree.jsonl", repair=False)
    nodes = [(node.node_id, node.parent_id, node.hparams, node.state, node.score) for node in store.tree]
    weights = sorted(search.glob("nodes/*/checkpoints/*/*.safetensors"))
    hashes = {
        str(file.relative_to(search)): hashlib.sha256(file.read_bytes()).hexdigest() for file in weights
    }
    test = json.loads((search / "test.json").read_text())
    return (
        nodes,
        hashes,
        {name: test[name] and test[name]["score"] for name in ("base", "practitioner", "best")},
    )


def size_of(directory: Path) -> int:
    """Return the bytes that a directory takes in whole pages."""
    sizes = [path.lstat().st_size for path in directory.rglob("*")]
    return sum(-(-size // PAGE) * PAGE for size in sizes)


@contextmanager
def disk(directory: Path, kib: int) -> Iterator[Path]:
    """Mount a disk of a size in KiB."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


if __name__ == "__main__":
    main()
