"""A real SLURM of one machine, and what tests on it share: `slurm/dev-cluster.sh` brings it up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.stage import StageDir, StageResult
from llmzero.runners.slurm_queue import JOB_FILE
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, Run, read_lines

CLUSTER = REPOSITORY / "slurm/dev-cluster.sh"
TRAINED = [*MICRO, "tracking=none", "search.stage_steps=6", "trainer.validation_every=3", "stopper=none"]
ENTRY_POINT = "llmzero.grpo.main.run_stage"
DEADLINE_S = 240  # of what is waited for: a hang becomes a failure


@pytest.fixture(scope="session", autouse=True, name="cluster")
def a_cluster(environment: dict[str, str]) -> Iterator[None]:
    """A real SLURM. Its absence is a failure in CI, where it is installed; elsewhere tests are skipped."""
    absent = pytest.fail if os.environ.get("CI") else pytest.skip
    if os.geteuid() != 0 or shutil.which("apt-get" if os.environ.get("CI") else "slurmctld") is None:
        absent("needs root on Debian, and once `slurm/dev-cluster.sh up`")
    up = subprocess.run(
        [CLUSTER, "up"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if up.returncode:
        absent(up.stdout)
    os.environ.update(
        {name: environment[name] for name in ("LLMZERO_CACHE", "OMP_NUM_THREADS")}
    )  # jobs inherit it
    yield
    subprocess.run([CLUSTER, "down"] if os.environ.get("CI") else ["scancel", "--quiet", "--me"], check=False)


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen[str] | None = None) -> Any:
    """Wait for what has to come about, and return it."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it does not come about"
        assert driver is None or driver.poll() is None, "the driver has ended"
        time.sleep(0.05)
    return value


def slurm(*words: str) -> list[str]:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def jobs_alive() -> list[str]:
    """Return the names of our jobs in the queue."""
    return [
        name for name in slurm("squeue", "--noheader", "--me", "--format=%j") if name.startswith("llmzero-")
    ]


def jobs_ever(name: str) -> list[str]:
    """Return the ids of our jobs whose name begins so, the ended ones too."""
    listed = slurm("squeue", "--noheader", "--me", "--states=all", "--array", "--format=%i|%j")
    return [line.split("|")[0] for line in listed if line.split("|")[1].startswith(name)]


def job_of(stage: Path) -> str | None:
    file = stage / JOB_FILE
    return str(json.loads(file.read_text())["job_id"]) if file.exists() else None


def steps(stage: Path) -> int:
    return len(StageDir(stage).metrics())


def decisions(search: Path) -> list[tuple[Any, ...]]:
    """Return all stages of a search: where, with what, and how they ended."""
    return [
        (n.node_id, n.parent_id, n.hparams, n.state, n.score)
        for n in EventStore(search / "tree.jsonl", repair=False).tree
    ]


@pytest.fixture(scope="module", name="long_spec")
def a_long_spec(
    spec: dict[str, Any], launch: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """A stage of 150 steps, and where it ran without interruption."""
    longer = deepcopy(spec) | {"steps": 150}
    longer["trainer"]["validation_every"] = 50
    whole = tmp_path_factory.mktemp("whole") / "0001"
    whole.mkdir()
    (whole / "stage.json").write_text(json.dumps(longer))
    subprocess.run(
        [sys.executable, "-c", f"from llmzero.grpo.main import run_stage; run_stage({str(whole)!r})"],
        check=True,
    )
    return longer, whole


def assert_same(stage: Path, whole: Path, result: StageResult) -> None:
    """The weights and moments, to the last bit, and the curve."""
    assert result.state == "completed", result.error
    last = StageDir(whole).complete_checkpoints()[-1].name
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (
            (directory / "checkpoints" / last / file).read_bytes() for directory in (stage, whole)
        )
        assert ours == theirs, file
    curves = [
        [(row["step"], row["score"]) for row in read_lines(directory / "validation.jsonl")]
        for directory in (stage, whole)
    ]
    assert curves[0] == curves[1]
