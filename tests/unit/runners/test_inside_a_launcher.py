"""Stages of a driver that is itself a process of torchrun, SLURM, submitit or MPI are their own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from llmzero.core.processes import identity
from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners.environment import outside_a_job
from llmzero.runners.inline import InlineRunner, InlineRunnerSettings
from llmzero.runners.local import LocalRunner, LocalRunnerSettings

FOREIGN = {
    "RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "elsewhere",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x",
    "ROLE_RANK": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "a",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "3",
    "SUBMITIT_EXECUTOR": "slurm",
    "OMPI_COMM_WORLD_RANK": "2",
    "PMI_RANK": "2",
}
ENTRY_POINT = "tests.integration.recorders.environment"


@pytest.mark.parametrize("kind", ["warm", "cold", "inline"])
def test_a_stage_takes_nothing_of_the_drivers_launcher(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**FOREIGN, "RANKING": "kept", "SLURM_CONF": "kept"}.items():
        monkeypatch.setenv(name, value)
    stage = StageDir(tmp_path / "0001")
    stage.path.mkdir()
    spec = StageSpec("0001", "0000", 1, stage.path, None, {}, 1, 0)
    if kind != "inline":
        settings = LocalRunnerSettings(entry_point=ENTRY_POINT, warm=kind == "warm")
        handle = LocalRunner(settings).start(spec)
        deadline = time.monotonic() + 120
        while not handle.poll().final:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    else:
        handle = InlineRunner(InlineRunnerSettings(entry_point=ENTRY_POINT, threads=1)).start(spec)
        handle.poll()
    assert handle.result().state == "completed", handle.result().error
    given = json.loads((stage.path / "environment.json").read_text())
    assert not FOREIGN.keys() & given.keys()
    assert (given["RANKING"], given["SLURM_CONF"]) == ("kept", "kept")
    assert os.environ["RANK"] == "1", "the driver's own stay"


def test_outside_a_job_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    assert identity() == (1, 8, 1)
    with outside_a_job():
        assert identity() == (0, 1, 0)
