#!/usr/bin/env python
"""Train one stage: from Hydra overrides, or from a stage directory that already holds a `stage.json`.

Several processes: `torchrun --nproc-per-node 8 launchers/train.py ...`, or `srun` with one task a GPU.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from llmzero.cli import INTERRUPTED, launch
from llmzero.config import TrainConfig
from llmzero.core.errors import UserError
from llmzero.core.files import make_private
from llmzero.core.processes import identity
from llmzero.core.stage import StageDir, StageSpec, covered
from llmzero.core.text import visible_line
from llmzero.stored import refuse_foreign

WAIT_S = 0.05  # between two looks for the specification that rank 0 writes


def run(config: TrainConfig) -> float | None:
    """Run the stage in this process; return its best validation score."""
    directory = Path(config.stage_dir).absolute()
    stage = StageDir(directory)
    if stage.result_file.exists():
        raise UserError(f"stage_dir={directory}: this stage has ended already; choose another stage_dir")
    from llmzero.grpo.console import show_progress
    from llmzero.grpo.loss import loss_of
    from llmzero.grpo.main import run_stage

    loss_of(config.algorithm["loss"])  # refused before the directory is taken
    rank, _, _ = identity()
    if rank == 0 and not stage.has_spec():
        spec = spec_of(config, directory)
        make_private(directory)
        stage.write_spec(spec)
    while not stage.has_spec():
        time.sleep(WAIT_S)
    found = stage.read_spec().config
    refuse_foreign(f"stage_dir={directory}", found, asdict(config), trusted=config.trusted)
    with show_progress(stage) if rank == 0 else nullcontext():
        result = run_stage(directory)
    if result is None:
        print(
            f"interrupted after a checkpoint; the same command goes on from it, in {directory}",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    if rank > 0:
        return result.best_score
    print(
        f"{result.state}: best score {result.best_score} at step {result.best_step}, "
        f"{result.seconds:.0f} s, in {directory}"
    )
    if result.error:
        raise UserError(visible_line(result.error))
    return result.best_score


def spec_of(config: TrainConfig, directory: Path) -> StageSpec:
    """Return the stage that the configuration describes."""
    if (config.steps is None) == (config.flops is None):
        raise UserError(
            f"steps={config.steps}, flops={config.flops}: one of them has to be null; "
            "give flops=AMOUNT steps=null, or steps=NUMBER alone"
        )
    resume_from = Path(config.resume_from).absolute() if config.resume_from else None
    if resume_from is not None and not (resume_from / "COMPLETE").exists():
        raise UserError(f"resume_from={resume_from}: no complete checkpoint lies there")
    try:
        schedule = covered(config.schedule)
    except ValueError as error:
        raise UserError(str(error)) from error
    return StageSpec(
        node_id=directory.name,
        parent_id=None,
        depth=1,
        directory=directory,
        resume_from=resume_from,
        hparams=config.catalogue.complete(config.values or {}),
        steps=config.steps,
        seed=config.seed,
        config=config.stage_groups,
        flops=config.flops,
        schedule=schedule,
    )


if __name__ == "__main__":
    launch("train", TrainConfig, run)
