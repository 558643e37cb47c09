"""Tables whose numbers are known by formula, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmzero.runners.tables.format import FORMAT, SUFFIX, VERSION, paths_of, write_table

LENGTHS, RATES = [8, 16, 32], [1e-4, 1e-3]
DEPTH, STEPS = 3, 4  # stages of a path; steps of a stage, with validations after half and all of them
PARAMETERS: dict[str, dict[str, Any]] = {
    "max_completion_length": {
        "group": "capacity",
        "kind": "int",
        "choices": LENGTHS,
        "default": 16,
        "unit": "tokens",
        "description": "Longest completion.",
    },
    "learning_rate": {
        "group": "regularization",
        "kind": "float",
        "choices": RATES,
        "default": 1e-4,
        "scale": "log",
        "description": "Peak learning rate.",
    },
}
HEADER: dict[str, Any] = {
    "format": FORMAT,
    "version": VERSION,
    "name": "made",
    "seed": 0,
    "depth": DEPTH,
    "stage": {"steps": STEPS, "flops": None},
    "parameters": PARAMETERS,
    "fixed": {"group_size": 8, "kl_coef": 0.0},
    "base": {"score": 0.05, "stderr": 0.01, "test": 0.04, "test_stderr": 0.01, "seconds": 0.25},
    "val_n": 100,
    "test_n": 120,
    "task": {"_target_": "os.getcwd", "name": "made"},
    "trainer": {"validation_max_tokens": 40},
    "licence": "Apache-2.0",
}


def score(path: tuple[int, ...], step: int) -> float:
    """Return the score after so many steps of the last stage of a path: its configurations add up."""
    gains = [0.01 * (number + 1) for number in path]
    return round(0.05 + sum(gains[:-1]) + gains[-1] * step / STEPS, 6)


def step_flops(number: int) -> float:
    """Return what a step costs under a configuration: longer limits cost more."""
    return 1e6 * LENGTHS[number // len(RATES)]


def row(path: tuple[int, ...]) -> dict[str, Any]:
    """Return a stage of the table."""
    cost = step_flops(path[-1])
    points = [
        {
            "step": step,
            "score": score(path, step),
            "stderr": 0.01,
            "test": round(score(path, step) - 0.02, 6),
            "test_stderr": 0.02,
            "flops": cost * step,
            "seconds": cost * step / 1e7,
        }
        for step in (STEPS // 2, STEPS)
    ]
    metrics = {
        "reward_mean": [score(path, step) for step in range(1, STEPS + 1)],
        "kl": [None] * STEPS,
        "step_flops": [cost] * STEPS,
    }
    rollouts = [{"step": STEPS, "prompt": "1+1=", "completion": "2", "reward": 1.0}]
    return {"path": list(path), "points": points, "metrics": metrics, "rollouts": rollouts}


def made_table(directory: Path, name: str = "made-0", **header: Any) -> Path:
    """Write the table and return its file."""
    file = directory / f"{name}{SUFFIX}"
    write_table(file, {**HEADER, **header}, map(row, paths_of(len(LENGTHS) * len(RATES), DEPTH)))
    return file
