"""What tests of whole searches share."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, command, read_lines

SIMULATED = ["experiment=simulated"]
# Every path goes on, and no new one begins by chance: for tests that have to know which stage comes next.
FORESEEABLE = [
    *("search.method.descent_rank=1", "search.method.new_path_weight=0"),
    *("search.method.subtree_weight=0", "search.method.exploration=0.5"),
]
TRAINED = [*MICRO, "tracking=none", "budget.stages=4", "search.stage_steps=6", "trainer.validation_every=3"]


def summary(search_dir: Path) -> dict:
    return json.loads((search_dir / "summary.json").read_text())


def assert_consistent(search_dir: Path, stages: int) -> None:
    """The same number of nodes, every stage paid once, and a ledger that is the sum of the results."""
    store = EventStore(search_dir / "tree.jsonl")
    finished = [
        event["node_id"] for event in read_lines(search_dir / "tree.jsonl") if event["event"] == "finished"
    ]
    assert sorted(finished) == [f"{i:04d}" for i in range(stages + 1)]
    assert all(node.final for node in store.tree)
    results = [
        json.loads((search_dir / "nodes" / node.node_id / "result.json").read_text())
        for node in store.tree.stages()
        if node.usable
    ]
    failed = [node.result for node in store.tree.stages() if not node.usable]
    total = sum(r["gpu_seconds"] for r in results) + sum(r.gpu_seconds for r in failed if r)
    outcome = summary(search_dir)
    assert outcome["budget"]["gpu_seconds"] == pytest.approx(total, abs=0.01)
    assert outcome["budget"]["stages"] == stages
    assert outcome["nodes"]["total"] == stages + 1
    assert sum(outcome["nodes"][state] for state in ("completed", "stopped", "failed")) == stages + 1
    assert outcome["state"] == "finished"


def start(environment: dict[str, str], *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("search", *overrides),
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def start_and_kill(seconds: float, environment: dict[str, str], *overrides: str) -> None:
    process = start(environment, *overrides)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
