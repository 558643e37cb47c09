"""Statistics of few runs on several tasks, as Agarwal et al. (2021) advise: pure functions on arrays.

A method's scores are a list of arrays, one a task, with a score for each seed (`Scores`). Statistics work
along the last axis, so that all resamples of a bootstrap are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Scores = Sequence[Array]

DRAWS = 2000
PERCENTILES = (2.5, 97.5)
SEED = 0


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def mean(scores: Scores) -> Array:
    """Return the mean over tasks of the mean over seeds: tasks count alike, however many seeds they have."""
    return np.asarray(np.mean([task.mean(axis=-1) for task in scores], axis=0))


def interquartile_mean(scores: Scores) -> Array:
    """Return the mean of the middle half of all runs, which outliers hardly move."""
    return np.asarray(stats.trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1))


def improvement(ours: Scores, others: Scores) -> Array:
    """Return the probability that a run of `ours` beats one of `others` on its task, averaged over tasks.

    A tie counts half.
    """
    wins = []
    for a, b in zip(ours, others, strict=True):
        mine, theirs = a[..., :, None], b[..., None, :]
        wins.append(((mine > theirs) + 0.5 * (mine == theirs)).mean(axis=(-1, -2)))
    return np.asarray(np.mean(wins, axis=0))


def interval(statistic: Callable[..., Array], *methods: Scores, draws: int = DRAWS) -> Interval:
    """Return a statistic of one or more methods with its stratified bootstrap interval.

    Seeds are resampled within each task, `draws` times.
    """
    rng = np.random.default_rng(SEED)
    resampled = (
        [task[rng.integers(0, len(task), (draws, len(task)))] for task in scores] for scores in methods
    )
    low, high = np.percentile(statistic(*resampled), PERCENTILES)
    return Interval(float(statistic(*methods)), float(low), float(high))


def band(curves: Array, draws: int = DRAWS) -> tuple[Array, Array, Array]:
    """Return mean, low and high, each (points,), of the bootstrap over curves (runs, points)."""
    n = len(curves)
    weights = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), draws) / n
    low, high = np.percentile(weights @ curves, PERCENTILES, axis=0)
    return curves.mean(axis=0), low, high


def step_function(positions: Array, values: Array, grid: Array) -> Array:
    """Return at each grid point the value of the last position not beyond it; none lies before the first."""
    return values[np.searchsorted(positions, grid, side="right") - 1]


def normalised(scores: Array, low: float, high: float) -> Array:
    """Return scores on a scale where `low` is 0 and `high` is 1; all 0 where nothing lies between them."""
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def ranks(scores: Array) -> Array:
    """Return ranks within each row of (cases, methods): 1 for the highest, the mean rank for equal scores."""
    return np.asarray(stats.rankdata(-scores, axis=1))


def wilcoxon(a: Array, b: Array) -> float:
    """Return the two-sided p-value of the signed-rank test on pairs; 1 where no pair differs."""
    return float(stats.wilcoxon(a, b).pvalue) if np.any(a != b) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in corrected]
