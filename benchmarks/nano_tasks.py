#!/usr/bin/env python
"""Measures learning curves of the four tasks at nano difficulty, with good and bad hyperparameters.

Usage: python benchmarks/nano_tasks.py [TASK ...]   (ten minutes a task)
Writes benchmarks/results/nano_tasks.json and docs/images/nano_tasks.png.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmzero.studies.figures import panels, save_figure, styles

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/nano_tasks.json"
FIGURE = REPOSITORY / "docs/images/nano_tasks"
TASKS = ("countdown", "ssmr", "chem", "math")
LARGE = {"prompts_per_step": 64, "group_size": 16, "minibatches": 4}
# Of each schedule the stages: their steps, and the hyperparameters that differ from the practitioner's.
SCHEDULES: dict[str, list[tuple[int, dict[str, Any]]]] = {
    "practitioner": [(200, {})],
    "large batches": [(60, LARGE)],
    "staged: practitioner, then large": [(20, {}), (40, LARGE)],
    "learning rate x 10, no KL": [(60, {"learning_rate": 1e-3, "kl_coef": 0.0})],
    "tiny groups": [(100, {"group_size": 4, "prompts_per_step": 8})],
}

Curve = list[tuple[int, float]]


def main() -> None:
    """Train the tasks of the command line, or all, add them to the results, and draw all results."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in sys.argv[1:] or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            results[task] = curves(task, Path(folder))
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    draw({task: results[task] for task in TASKS if task in results})


def curves(task: str, folder: Path) -> dict[str, Curve]:
    """Return the validation scores of each schedule over steps, the base model's first."""
    base = stage(task, folder / "base", 0, {}, None)
    root = folder / "base/checkpoints/step_00000"
    return {
        name: base + chain(task, folder / re.sub("[^a-z]+", "_", name), stages, root)
        for name, stages in SCHEDULES.items()
    }


def chain(task: str, folder: Path, stages: list[tuple[int, dict[str, Any]]], root: Path) -> Curve:
    """Return the curve of stages, each resumed from the last checkpoint of the one before."""
    points, checkpoint = [], root
    for number, (steps, values) in enumerate(stages):
        directory = folder / str(number)
        points += stage(task, directory, steps, values, checkpoint)
        checkpoint = directory / json.loads((directory / "result.json").read_text())["last_checkpoint"]
    return points


def stage(task: str, directory: Path, steps: int, values: dict[str, Any], checkpoint: Path | None) -> Curve:
    """Train a stage and return its curve."""
    values_override = f"values={{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"
    command = [
        sys.executable,
        "launchers/train.py",
        f"task={task}",
        f"steps={steps}",
        values_override,
        f"stage_dir={directory}",
        "trainer.validation_every=10",
    ]
    print(task, directory.parent.name, values_override, f"{steps} steps", flush=True)
    subprocess.run(
        [*command, f"resume_from={checkpoint or 'null'}"], cwd=REPOSITORY, check=True, capture_output=True
    )
    lines = [json.loads(line) for line in (directory / "validation.jsonl").read_text().splitlines()]
    return [(line["global_step"], line["score"]) for line in lines]


def draw(curves_by_task: dict[str, dict[str, Curve]]) -> None:
    """Draw a panel for each task."""
    looks = styles(list(SCHEDULES))
    figure, axes = panels(len(curves_by_task), 3.6, 2.8)
    for (task, schedules), axis in zip(curves_by_task.items(), axes, strict=True):
        for name, curve in schedules.items():
            colour, dash = looks[name]
            axis.plot(*zip(*curve, strict=True), dash, color=colour, label=name)
        base = next(iter(schedules.values()))[0][1]
        axis.axhline(1.6 * base, color="0.7", linewidth=0.8, label="1.6 times the base model")
        axis.set(title=task, xlabel="GRPO steps", ylabel="validation score", ylim=(0, None))
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize="small",
        frameon=False,
    )
    save_figure(FIGURE, figure)


if __name__ == "__main__":
    main()
