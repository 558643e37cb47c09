"""Fits the constants of the simulator's landscape `nano` to measurements of real training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import numpy as np
from scipy.optimize import differential_evolution, least_squares

from benchmarks.simulator_measurements import EVERY, STEPS, Paths, Stage
from llmzero.core.hparams import HParams
from llmzero.runners.simulation.costs import Costs, step_seconds
from llmzero.runners.simulation.drive import Drive, drive_of
from llmzero.runners.simulation.landscape import Landscape
from llmzero.runners.simulation.policy import advance, base_policy

NANO_STAGE = Path(__file__).parent / "results/nano_stage.json"  # has the seconds of imports
IDLE = 1e-3  # seconds of a phase that does nothing


@dataclass(frozen=True)
class Free:
    """A constant to be fitted within bounds, on a logarithmic scale or not."""

    low: float
    high: float
    log: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the number that the optimizer varies."""
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def value(self, number: float) -> float:
        """Return the constant, rounded to four digits."""
        return float(f"{math.exp(number) if self.log else number:.4g}")


FREE = {
    "top": Free(0.45, 0.8),
    "habits": Free(0.02, 0.2),
    "quick": Free(0.01, 1.5, log=True),
    "slow": Free(0.001, 0.06, log=True),
    "reuse": Free(0.1, 1.0),
    "stir": Free(0.0, 0.9),
    "jitter": Free(3e-4, 0.1, log=True),
    "calming": Free(0.0, 1.6),
    "scar": Free(0.0, 1.0),
    "heat": Free(0.0, 8.0),
    "critical": Free(0.02, 8.0, log=True),
    "late": Free(0.0, 15.0),
    "hard": Free(0.03, 0.7),
    "ease": Free(0.0, 0.6),
    "drift": Free(3e-4, 1e-2, log=True),
    "stride": Free(0.7, 2.5),
    "slip": Free(0.0, 10.0),
    "tether": Free(0.0, 0.3),
    "kl_limit": Free(0.5, 5.0, log=True),
    "cooling": Free(2e-3, 5e-2, log=True),
    "warmth": Free(0.0, 3.0),
}


@dataclass(frozen=True)
class Curves:
    """Scores, divergence and entropy at the validations of a path."""

    scores: list[float]
    kl: list[float]
    entropy: list[float]


def fit_landscape(start: Landscape, base: float, paths: Paths, reference: HParams) -> Landscape:
    """Return the landscape with the curves nearest to the measured ones, by a global and a local search.

    Args:
        start: the landscape whose constants in `FREE` are replaced.
        base: the base model's validation score.
        paths: the measurements.
        reference: the practitioner's hyperparameters.
    """

    def residuals(numbers: Sequence[float]) -> np.ndarray[Any, Any]:
        land = _landscape(start, base, numbers)
        return np.array(
            [error for path in paths.values() for error in _errors(path, simulate(land, path, reference))]
        )

    def loss(numbers: Sequence[float]) -> float:
        return float(np.sum(np.sqrt(1 + residuals(numbers) ** 2) - 1))

    bounds = [free.bounds for free in FREE.values()]
    optimum = differential_evolution(loss, bounds, maxiter=250, popsize=6, seed=0, polish=False)
    low, high = (np.array(side) for side in zip(*bounds, strict=True))
    inside = np.clip(optimum.x, low + 1e-9, high - 1e-9)
    return _landscape(
        start, base, least_squares(residuals, inside, bounds=(low, high), loss="soft_l1", max_nfev=60).x
    )


def _landscape(start: Landscape, base: float, numbers: Sequence[float]) -> Landscape:
    values: dict[str, Any] = {
        name: free.value(number) for (name, free), number in zip(FREE.items(), numbers, strict=True)
    }
    return replace(start, **values, craft=round(values["top"] - values["habits"] - base, 4))


def _errors(path: list[Stage], curves: Curves) -> list[float]:
    """Return errors in units of noise: 0.02 of score, a factor e^2 of divergence and e^0.5 of entropy."""
    scores = [
        (mine - row["score"]) / 0.02
        for mine, row in zip(curves.scores, (row for stage in path for row in stage.validation), strict=True)
    ]
    kl = log_ratios(curves.kl, [value for stage in path for value in stage.column("kl")], 0.01)
    entropy = log_ratios(curves.entropy, [value for stage in path for value in stage.column("entropy")], 0.0)
    return [*scores, *(0.5 * ratio for ratio in kl), *(2 * ratio for ratio in entropy)]


def log_ratios(mine: Sequence[float], theirs: Sequence[float], floor: float) -> list[float]:
    """Return the logarithm of (mine + floor) / (theirs + floor) wherever theirs is positive."""
    return [math.log((a + floor) / (b + floor)) for a, b in zip(mine, theirs, strict=True) if b > 0]


def simulate(land: Landscape, path: list[Stage], reference: HParams) -> Curves:
    """Return the curves of a path under the equations of the simulator, without noise."""
    policy, curves = base_policy(land), Curves([], [], [])
    for stage in path:
        drive = drive_of(stage.hparams, reference)
        for taken in range(STEPS):
            advance(policy, land, drive, taken, 0.0, 0.0)
            if (taken + 1) % EVERY == 0:
                curves.scores.append(policy.score(land, drive.room))
                curves.kl.append(policy.kl)
                curves.entropy.append(policy.entropy * drive.temperature)
    return curves


def fit_costs(land: Landscape, paths: Paths, reference: HParams) -> Costs:
    """Return costs fitted to the first quartile of each stage's seconds, least disturbed by other work."""
    stages = [(stage, drive_of(stage.hparams, reference)) for path in paths.values() for stage in path]
    base = land.length * reference["max_completion_length"]
    lengths = [fmean(row["completion_length_mean"] for row in stage.metrics) / base for stage, _ in stages]
    guess = Costs()

    def fit(names: Sequence[str], phase: str, model: Callable[[Costs, Drive, float], float]) -> None:
        nonlocal guess
        seen = [quantiles([row[f"seconds_{phase}"] for row in stage.metrics], n=4)[0] for stage, _ in stages]
        used = [
            (drive, length, s)
            for (_, drive), length, s in zip(stages, lengths, seen, strict=True)
            if s > IDLE
        ]

        def errors(logs: Sequence[float]) -> list[float]:
            values: dict[str, Any] = dict(zip(names, map(math.exp, logs), strict=True))
            costs = replace(guess, **values)
            return [math.log(model(costs, drive, length) / s) for drive, length, s in used]

        optimum = least_squares(
            errors, [math.log(getattr(guess, name)) for name in names], loss="soft_l1", f_scale=0.2
        )
        rounded: dict[str, Any] = {
            name: float(f"{math.exp(x):.3g}") for name, x in zip(names, optimum.x, strict=True)
        }
        guess = replace(guess, **rounded)

    fit(
        ["sampling", "decode"],
        "generation",
        lambda costs, drive, length: step_seconds(costs, drive, length).generation,
    )
    fit(["reward"], "reward", lambda costs, drive, length: step_seconds(costs, drive, length).reward)
    fit(["logprobs"], "logprobs", lambda costs, drive, length: step_seconds(costs, drive, length).logprobs)
    fit(
        ["update", "optimizer"],
        "update",
        lambda costs, drive, length: step_seconds(costs, drive, length).update,
    )
    validation = median(
        row["seconds"] / length
        for (stage, _), length in zip(stages, lengths, strict=True)
        for row in stage.validation
    )
    starting = json.loads(NANO_STAGE.read_text())["import_seconds"]["training"]
    starting += median(
        stage.seconds - sum(row["step_seconds"] + row["seconds_validation"] for row in stage.metrics)
        for stage, _ in stages
    )
    return replace(guess, validation=round(validation, 3), startup=round(starting, 2))
