#!/usr/bin/env python
"""Score a checkpoint, or the base model, on a split."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llmzero.cli import launch
from llmzero.config import catalogue_of, check_ranges, stage_config
from llmzero.errors import UserError
from llmzero.stage import StageDir, StageSpec


def run(config: dict[str, Any]) -> float | None:
    """Evaluate by a stage of zero steps; print and return the score."""
    check_ranges(config)
    checkpoint = Path(config["checkpoint"]).absolute() if config["checkpoint"] else None
    if checkpoint is not None and not (checkpoint / "COMPLETE").exists():
        raise UserError(f"checkpoint={checkpoint}: no complete checkpoint lies there")
    config["trainer"]["evaluation_split"] = config["split"]
    from llmzero.grpo.main import run_stage

    with tempfile.TemporaryDirectory(prefix="llmzero-evaluate-") as directory:
        spec = StageSpec(
            node_id="evaluation",
            parent_id=None,
            depth=0,
            directory=Path(directory),
            resume_from=checkpoint,
            hparams=catalogue_of(config).complete(config["values"] or {}),
            steps=0,
            seed=config["seed"],
            config=stage_config(config),
        )
        StageDir(spec.directory).write_spec(spec)
        result = run_stage(spec.directory)
    if result.error:
        raise UserError(result.error)
    point = result.validation[0]
    print(f"{config['split']} score {point.score:.4f} ± {point.stderr:.4f} (n={point.n}, {point.seconds:.1f} s)")
    return point.score


if __name__ == "__main__":
    launch("evaluate", run)
