"""Stages that are killed or told to leave, at any moment, any number of times: what they leave is whole, and
they end as if nothing had been.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llmzero.cli import INTERRUPTED
from llmzero.core.stage import StageDir
from tests.conftest import REPOSITORY
from tests.integration.checkpoints import read_whole
from tests.integration.conftest import (
    MICRO,
    Run,
    command,
    last_checkpoint,
    read_lines,
    same_bits,
    write_stage,
)

KILLS = 50
BATCH = "values={prompts_per_step: 16, group_size: 8, learning_rate: 1e-3}"


def untimed(stage: Path) -> list[dict[str, Any]]:
    """The lines of metrics without the times they hold."""
    return [
        {name: value for name, value in row.items() if "seconds" not in name}
        for row in read_lines(stage / "metrics.jsonl")
    ]


def scores(stage: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["score"]) for row in read_lines(stage / "validation.jsonl")]


def test_fifty_kills_leave_whole_checkpoints_and_change_nothing(
    environment: dict[str, str], spec: dict[str, Any], tmp_path: Path
) -> None:
    steps = 25
    write_stage(
        tmp_path / "whole",
        spec,
        {"steps": steps, "task": {"val_size": 8}, "trainer": {"validation_every": 1}},
    )
    env = {**environment, "CUDA_VISIBLE_DEVICES": ""}  # what CUDA has begun does not survive a fork
    arguments = [sys.executable, "tests/integration/kill_stages.py", str(tmp_path / "whole"), str(KILLS)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=REPOSITORY, env=env)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    hits = json.loads(done.stdout.splitlines()[-1])
    assert len(hits) == KILLS
    assert sum(not hit["begun"] for hit in hits) >= KILLS // 10, "while it loaded, or in its first step"
    assert sum(hit["begun"] and not hit["writing"] for hit in hits) >= KILLS // 10, (
        "while it sampled, updated or validated"
    )
    assert sum(hit["writing"] for hit in hits) >= KILLS // 10, "while a checkpoint was half-written"
    assert len({tuple(hit["reached"]) for hit in hits}) >= KILLS // 5, "it got on in between"
    whole, killed = tmp_path / "whole", sorted(tmp_path.glob("killed_*"))
    assert [row["step"] for row in untimed(whole)] == list(range(1, steps + 1))
    assert all(row["grad_norm"] > 0 for row in untimed(whole))
    for stage in killed:
        assert untimed(stage) == untimed(whole)
        assert scores(stage) == scores(whole)
        assert same_bits(last_checkpoint(stage), last_checkpoint(whole))
        assert {path.name for path in (stage / "checkpoints").iterdir()} == {
            path.name for path in (whole / "checkpoints").iterdir()
        }


def test_a_signal_makes_a_stage_leave_with_a_checkpoint_and_the_same_command_goes_on(
    launch: Run, environment: dict[str, str], root: Path, tmp_path: Path
) -> None:
    common = [*MICRO, BATCH, "steps=60", "trainer.validation_every=100", f"resume_from={root}"]
    launch("train", *common, f"stage_dir={tmp_path}/whole")
    stage = tmp_path / "told"
    reached = 0
    for number in (signal.SIGTERM, signal.SIGUSR2):
        process = subprocess.Popen(
            command("train", *common, f"stage_dir={stage}"),
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
        while len(StageDir(stage).metrics()) == reached:
            assert process.poll() is None, "the stage ended before it could be told to leave"
            time.sleep(0.001)
        process.send_signal(number)
        assert process.wait() == INTERRUPTED
        assert not (stage / "result.json").exists()
        assert json.loads((stage / "status.json").read_text())["phase"] == "interrupted"
        steps = [row["step"] for row in read_lines(stage / "metrics.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
        assert reached < len(steps) < 60
        reached = len(steps)
        assert [path.name for path in (stage / "checkpoints").iterdir()] == [f"step_{reached:05d}"], (
            "of the step in hand, and no other"
        )
        read_whole(stage / f"checkpoints/step_{reached:05d}")
    launch("train", *common, f"stage_dir={stage}")
    assert untimed(stage) == untimed(tmp_path / "whole")
    assert scores(stage) == scores(tmp_path / "whole")
    assert same_bits(last_checkpoint(stage), last_checkpoint(tmp_path / "whole"))


def test_a_base_model_that_was_killed_before_its_result_is_not_written_again(
    launch: Run, root: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    shutil.copytree(root.parents[1], stage)
    (stage / "result.json").unlink()
    weights = stage / "checkpoints/step_00000/model.safetensors"
    before = weights.stat().st_ino
    launch("train", f"stage_dir={stage}")
    assert weights.stat().st_ino == before
    assert [step for step, _ in scores(stage)] == [0]
    assert last_checkpoint(stage) == weights.parent
