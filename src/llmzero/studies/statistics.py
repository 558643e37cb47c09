"""Statistics of few runs on several tasks, as Agarwal et al. (2021) advise: pure functions on arrays.

A method's scores are a list of arrays, one a task, with a score for each seed (`Scores`). Statistics work along the last axis, so
that all resamples of a bootstrap are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Return the mean over tasks of the mean over seeds: every task counts alike, however many seeds it has."""
    return np.asarray(np.mean([task.mean(axis=-1) for task in scores], axis=0))


def interquartile_mean(scores: Scores) -> Array:
    """Return the mean of the middle half of all runs, which outliers hardly move."""
    pooled = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return np.asarray(pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1))


def improvement(ours: Scores, others: Scores) -> Array:
    """Return the probability that a run of ours beats one of the others on the same task, averaged over tasks; a tie counts half."""
    return np.asarray(np.mean([_wins(a, b) for a, b in zip(ours, others, strict=True)], axis=0))


def _wins(a: Array, b: Array) -> Array:
    a, b = a[..., :, None], b[..., None, :]
    return np.asarray(((a > b) + 0.5 * (a == b)).mean(axis=(-1, -2)))


def interval(statistic: Callable[..., Array], *methods: Scores, draws: int = DRAWS) -> Interval:
    """Return a statistic of one or more methods with its stratified bootstrap interval: seeds are drawn anew within each task."""
    rng = np.random.default_rng(SEED)
    low, high = np.percentile(
        statistic(*([_resampled(task, rng, draws) for task in scores] for scores in methods)), PERCENTILES
    )
    return Interval(float(statistic(*methods)), float(low), float(high))


def _resampled(scores: Array, rng: np.random.Generator, draws: int) -> Array:
    return scores[rng.integers(0, len(scores), (draws, len(scores)))]


def band(curves: Array, draws: int = DRAWS) -> tuple[Array, Array, Array]:
    """Return mean, low and high of curves, one a row, at each of their points."""
    n = len(curves)
    weights = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), draws) / n
    low, high = np.percentile(weights @ curves, PERCENTILES, axis=0)
    return curves.mean(axis=0), low, high


def step_function(positions: Array, values: Array, grid: Array) -> Array:
    """Return at each point of the grid the value of the last position that is not beyond it. The first position is not beyond any."""
    return values[np.searchsorted(positions, grid, side="right") - 1]


def normalised(scores: Array, low: float, high: float) -> Array:
    """Return scores on a scale where `low` is 0 and `high` is 1; all 0 where nothing lies between them."""
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def ranks(scores: Array) -> Array:
    """Return the rank of each column within its row, 1 for the highest; equals share the mean of theirs."""
    above = (scores[:, None, :] > scores[:, :, None]).sum(axis=2)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    return np.asarray(above + (equal + 1) / 2)


def wilcoxon(a: Array, b: Array) -> float:
    """Return the two-sided p-value of the signed-rank test on pairs; 1 where no pair differs."""
    from scipy import stats

    return float(stats.wilcoxon(a, b).pvalue) if np.any(a != b) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in corrected]
