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
SEED = 0
TOLERANCE = 1e-12  # of scores, within which differences are equal; floats have 16 digits


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


def mean_interval(scores: Scores, others: Scores = ()) -> Interval:
    """Return the mean of a method, or what it has beyond that of another, with its interval by Student's t.

    Means and variances are of each task alone, which add up; the degrees of freedom are Welch's and
    Satterthwaite's. A task with one seed adds no width, as nothing tells how much it varies.
    """
    value = float(mean(scores)) - (float(mean(others)) if others else 0.0)
    tasks = [(task, len(method)) for method in (scores, others) for task in method if len(task) > 1]
    variances = np.array([task.var(ddof=1) / len(task) / count**2 for task, count in tasks])
    if not variances.any():
        return Interval(value, value, value)
    freedom = variances.sum() ** 2 / sum(variances**2 / [len(task) - 1 for task, _ in tasks])
    margin = float(stats.t.ppf(0.975, freedom) * np.sqrt(variances.sum()))
    return Interval(value, value - margin, value + margin)


def interval(statistic: Callable[..., Array], *methods: Scores, draws: int = DRAWS) -> Interval:
    """Return a statistic of one or more methods with its stratified bootstrap interval.

    Seeds are resampled within each task, `draws` times. The percentiles are those of Hesterberg (2015), which
    allow for few seeds: resamples vary less than the scores, and their deviation is itself uncertain. Of
    fewer than ten runs the interval is still too narrow, as no resample lies beyond them; means have
    `mean_interval`.
    """
    rng = np.random.default_rng(SEED)
    resampled = (
        [task[rng.integers(0, len(task), (draws, len(task)))] for task in scores] for scores in methods
    )
    runs = [len(task) for scores in methods for task in scores]
    freedom = sum(runs) - len(runs)
    quantile = np.sqrt(sum(runs) / freedom) * stats.t.ppf(0.975, freedom) if freedom else np.inf
    low, high = np.quantile(statistic(*resampled), stats.norm.cdf([-quantile, quantile]))
    return Interval(float(statistic(*methods)), float(low), float(high))


def band(curves: Array) -> tuple[Array, Array, Array]:
    """Return mean, low and high, each (points,), of curves (runs, points): at each point `mean_interval`."""
    middle, n = curves.mean(axis=0), len(curves)
    margin = stats.t.ppf(0.975, n - 1) * curves.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return middle, middle - margin, middle + margin


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
    """Return the exact two-sided p-value of the signed-rank test on pairs; 1 where no pair differs.

    Differences of decimals that are equal on paper (0.4 - 0.3, 0.8 - 0.7) are ties. Pairs without a
    difference are left out. The distribution is that of all assignments of signs, as ties are the rule among
    scores and the normal approximation is too sure of itself with them.
    """
    apart = TOLERANCE * max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    size = np.abs(a - b)
    ordered = np.sort(size)
    levels = np.cumsum(np.diff(ordered, prepend=0.0) > apart)[np.searchsorted(ordered, size)]
    favourable = (a > b)[levels > 0]
    doubled = (2 * stats.rankdata(levels[levels > 0])).astype(int)  # whole: tied ranks end on a half
    chance = np.ones(1)  # of each sum of the ranks that favour `a`
    for rank in doubled:
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    ours = doubled[favourable].sum()
    return float(min(1.0, 2 * chance[: ours + 1].sum(), 2 * chance[ours:].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in corrected]
