"""Kills a stage at random moments: `kill_stages.py STAGE KILLS`.

Everything is imported once, and every attempt is a fork.

STAGE runs to its end first. Copies of it, `killed_00` and so on beside it, are killed and started again until
KILLS is reached; one that ends before it could be killed is followed by the next, and the last may end.
Prints what each kill hit, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from llmzero.core.stage import StageDir
from llmzero.grpo.main import run_stage
from tests.integration.checkpoints import read_whole

KINDS = ("loading", "training", "writing", "training")


@dataclass(frozen=True)
class Times:
    """Seconds that parts of an attempt take on this machine."""

    loading: float
    step: float
    writing: float


class Attempt:
    """A process that runs a stage."""

    def __init__(self, stage: StageDir) -> None:
        self.stage = stage
        self.pid = os.fork()
        if self.pid == 0:
            try:
                run_stage(stage.path)
            finally:
                os._exit(0)
        self.ended = False

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be true of the stage, or for its end."""
        while not self.ended and not condition():
            self.ended = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            time.sleep(0.0005)

    def training(self) -> bool:
        """Whether this attempt, and not one before it, has finished a step."""
        status = self.stage.status()
        return status.get("pid") == self.pid and status["phase"] in ("training", "validation")

    def writing(self) -> bool:
        return bool(list(self.stage.checkpoints.glob(".writing-*")))

    def kill(self) -> None:
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def run_whole(stage: StageDir) -> Times:
    """Run a stage to its end."""
    started = time.monotonic()
    attempt = Attempt(stage)
    attempt.wait_until(attempt.training)
    loading = time.monotonic() - started
    attempt.wait_until(lambda: False)
    rows = stage.metrics()
    return Times(
        loading,
        (time.monotonic() - started - loading) / len(rows),
        fmean(row["seconds_checkpoint"] for row in rows),
    )


def kill_once(stage: StageDir, kind: str, times: Times, rng: random.Random) -> Attempt:
    """Run a stage until a random moment of its first seconds, its first steps or its first checkpoint."""
    attempt = Attempt(stage)
    if kind != "loading":
        attempt.wait_until(attempt.training)
    if kind == "writing":
        attempt.wait_until(attempt.writing)
    until = (
        time.monotonic()
        + rng.random()
        * {"loading": times.loading, "training": 3 * times.step, "writing": times.writing}[kind]
    )
    attempt.wait_until(lambda: time.monotonic() >= until)
    attempt.kill()
    return attempt


def main(whole: Path, kills: int) -> None:
    torch.set_num_threads(1)
    times, rng = run_whole(StageDir(whole)), random.Random(0)
    hits: list[dict[str, object]] = []
    copies = 0
    while len(hits) < kills:
        stage = StageDir(whole.with_name(f"killed_{copies:02d}"))
        if not stage.path.exists():
            stage.path.mkdir()
            shutil.copy(whole / "stage.json", stage.path)
        attempt = kill_once(stage, KINDS[len(hits) % len(KINDS)], times, rng)
        result = stage.result()
        if result is not None:
            assert result.state == "completed", result.error
            copies += 1
            continue
        assert not attempt.ended, "it ended by itself without a result"
        steps = [read_whole(directory)["global_step"] for directory in stage.complete_checkpoints()]
        hits.append(
            {
                "begun": attempt.training(),
                "writing": attempt.writing(),
                "reached": [copies, max(steps, default=0)],
            }
        )
    Attempt(stage).wait_until(lambda: False)
    print(json.dumps(hits))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
