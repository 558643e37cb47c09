"""Real training of the nano model, which the simulator's landscape `nano` is fitted to.

The measurements are paths of three stages of 16 steps: constant configurations and schedules.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cache import cached_directory
from llmzero.cli import composed
from llmzero.config import TrainConfig
from llmzero.core.files import read_jsonl
from llmzero.core.hparams import HParams
from llmzero.core.stage import StageDir, StageSpec

STAGES, STEPS = 3, 16
EVERY = 4  # steps between two validations

# Of each path the hyperparameters that each stage changes.
FITTED: Mapping[str, Sequence[HParams]] = {
    "practitioner": [{}, {}, {}],
    "slow": [{"learning_rate": 3e-5, "minibatches": 4}, {}, {}],
    "reuse": [{"minibatches": 4}, {}, {}],
    "passes": [{"epochs": 2, "minibatches": 4, "clip_high": 0.3, "group_size": 16}, {}, {}],
    "large": [{"prompts_per_step": 64, "group_size": 16, "minibatches": 4, "learning_rate": 2e-4}, {}, {}],
    "leashed": [{"kl_coef": 0.1, "learning_rate": 3e-4, "minibatches": 2}, {}, {}],
    "short": [{"max_completion_length": 12, "learning_rate": 3e-4, "minibatches": 2, "kl_coef": 0.0}, {}, {}],
    "diverse": [{"entropy_coef": 0.02, "temperature": 1.2, "minibatches": 4, "learning_rate": 2e-4}, {}, {}],
    "fast": [{"learning_rate": 4e-4}, {}, {}],
    "fast_reuse": [{"learning_rate": 3e-4, "minibatches": 4}, {}, {}],
    "fastest": [{"learning_rate": 1e-3}, {}, {}],
    "small": [{"prompts_per_step": 16, "group_size": 4, "learning_rate": 2e-4}, {}, {}],
    "annealed": [
        {"learning_rate": 4e-4, "minibatches": 4},
        {"learning_rate": 2e-4},
        {"learning_rate": 5e-5, "prompts_per_step": 64},
    ],
}
HELD_OUT: Mapping[str, Sequence[HParams]] = {
    "growing": [{"minibatches": 4, "learning_rate": 2e-4}, {"group_size": 16}, {"prompts_per_step": 64}],
    "cooled": [
        {"temperature": 0.8, "minibatches": 2},
        {"minibatches": 8, "temperature": 1.0},
        {"learning_rate": 3e-4},
    ],
    "late_push": [{}, {"minibatches": 8}, {"learning_rate": 4e-4}],
    "long_room": [
        {"max_completion_length": 24, "temperature": 1.2, "learning_rate": 2e-4, "minibatches": 2},
        {},
        {},
    ],
    # On another seed: what chance does to an unstable configuration.
    "fast_reuse_again": FITTED["fast_reuse"],
}
SEEDS = {"fast_reuse_again": 1}


@dataclass(frozen=True)
class Stage:
    """The measurements of one stage."""

    hparams: HParams
    metrics: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    seconds: float

    def column(self, name: str) -> list[float]:
        """Return a metric at the steps with a validation."""
        return [row[name] for row in self.metrics[EVERY - 1 :: EVERY]]


Paths = dict[str, list[Stage]]


def measure() -> tuple[Paths, float]:
    """Return the measured paths and the base model's validation score; both are cached."""
    config = composed("train", TrainConfig)
    paths = {}
    for name, stages in {**FITTED, **HELD_OUT}.items():
        directory = cached_directory(
            f"simulator-fit-{name}", _training(config, stages, SEEDS.get(name, 0), STEPS)
        )
        paths[name] = [_read(directory, number) for number in range(STAGES)]
    root = cached_directory("simulator-fit-base", _training(config, [{}], 0, 0))
    return paths, float(read_jsonl(root / "validation-0.jsonl")[0]["score"])


def _training(
    config: TrainConfig, changes: Sequence[HParams], seed: int, steps: int
) -> Callable[[Path], None]:
    """Return a function that trains a path and leaves its logs in a directory."""

    def build(directory: Path) -> None:
        from llmzero.grpo.main import run_stage

        directory.mkdir(parents=True)
        catalogue, resume_from = config.catalogue, None
        hparams = catalogue.defaults()
        for number, changed in enumerate(changes):
            hparams = catalogue.complete({**hparams, **changed})
            stage = StageDir(directory / "work" / str(number))
            stage.write_spec(
                StageSpec(
                    str(number),
                    None,
                    number + 1,
                    stage.path,
                    resume_from,
                    hparams,
                    steps,
                    seed,
                    config.stage_groups,
                )
            )
            result = run_stage(stage.path, started=time.time(), interrupted=lambda: False)
            assert result is not None and result.state == "completed", f"{stage.path}: {result}"
            for file in (stage.metrics_file, stage.validation_file, stage.result_file):
                if file.exists():
                    shutil.copy(file, directory / f"{file.stem}-{number}{file.suffix}")
            (directory / f"hparams-{number}.json").write_text(json.dumps(hparams))
            resume_from = result.last_checkpoint
        shutil.rmtree(directory / "work")

    return build


def _read(directory: Path, number: int) -> Stage:
    return Stage(
        json.loads((directory / f"hparams-{number}.json").read_text()),
        read_jsonl(directory / f"metrics-{number}.jsonl"),
        read_jsonl(directory / f"validation-{number}.jsonl"),
        json.loads((directory / f"result-{number}.json").read_text())["seconds"],
    )
