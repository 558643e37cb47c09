#!/usr/bin/env python
"""Score a checkpoint, or the base model, on a split."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from llmzero.cli import launch
from llmzero.config import EvaluateConfig
from llmzero.core.errors import UserError
from llmzero.core.files import read_jsonl
from llmzero.core.stage import StageDir, StageSpec
from llmzero.core.text import visible_line


def run(config: EvaluateConfig) -> float | None:
    """Evaluate by a stage of zero steps; print score, pass@k where there are several samples, and standard
    errors.
    """
    if config.samples > 1 and config.temperature == 0:
        raise UserError(
            f"samples={config.samples} temperature=0: greedy samples are all alike; set e.g. temperature=1.0"
        )
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    if checkpoint is not None and not (checkpoint / "COMPLETE").exists():
        raise UserError(f"checkpoint={checkpoint}: no complete checkpoint lies there")
    config.trainer |= {
        "evaluation_split": config.split,
        "validation_samples": config.samples,
        "validation_temperature": config.temperature,
    }
    from llmzero.grpo.main import run_stage

    with tempfile.TemporaryDirectory(prefix="llmzero-evaluate-") as directory:
        spec = StageSpec(
            node_id="evaluation",
            parent_id=None,
            depth=0,
            directory=Path(directory),
            resume_from=checkpoint,
            hparams=config.catalogue.defaults(),
            steps=0,
            seed=config.seed,
            config=config.stage_groups,
        )
        StageDir(spec.directory).write_spec(spec)
        result = run_stage(spec.directory)
        (line,) = read_jsonl(spec.directory / "validation.jsonl") or [{}]
    if result is None or result.error:
        raise UserError(visible_line(result.error) if result else "interrupted")
    name = "score" if config.samples == 1 else f"mean@{config.samples}"
    print(
        f"{config.split} {name} {line['score']:.4f} ± {line['stderr']:.4f} "
        f"(n={line['n']}, {line['seconds']:.1f} s)"
    )
    for k, (chance, stderr) in line.get("pass_at", {}).items():
        print(f"{config.split} pass@{k} {chance:.4f} ± {stderr:.4f}")
    _print_subtasks(config.split, line.get("subtasks", {}))
    return float(line["score"])


def _print_subtasks(split: str, subtasks: dict[str, tuple[float, float, int]]) -> None:
    """Print the score of each subtask, and their mean, in which each counts alike."""
    for name, (score, stderr, n) in subtasks.items():
        print(f"{split} {visible_line(name)} {score:.4f} ± {stderr:.4f} (n={n})")
    if subtasks:
        scores, errors, _ = zip(*subtasks.values(), strict=True)
        print(
            f"{split} mean of subtasks {sum(scores) / len(scores):.4f} "
            f"± {math.hypot(*errors) / len(errors):.4f}"
        )


if __name__ == "__main__":
    launch("evaluate", EvaluateConfig, run)
