"""Null hypotheses about paths: random versions of a path that something other than the claim could have made.

A null makes `DRAWS` random versions of a path's directions, of shape (draws, stages, parameters). Every
version changes the same parameters at the same stages as the path itself. So short paths stay short, and what
they do by chance is part of the null. Stages are flipped or reordered as a whole, since parameters that are
changed together are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from analysis.paths import Array, Counts, SearchPath, Signs

DRAWS = 2000
SEED = 0
ROUNDING = 1e-9

Null = Callable[[SearchPath, int, np.random.Generator], Signs]
Measure = Callable[[Counts], Array]


def flip_searches(path: SearchPath, draws: int, rng: np.random.Generator) -> Signs:
    """Reverse all directions of the path, or none: a search that goes up throughout might as well go down."""
    return _coins(rng, (draws, 1, 1)) * path.signs


def flip_stages(path: SearchPath, draws: int, rng: np.random.Generator) -> Signs:
    """Reverse the directions of each stage, or not: a coin decides whether a stage goes up or down."""
    return _coins(rng, (draws, len(path.signs), 1)) * path.signs


def reorder_stages(path: SearchPath, draws: int, rng: np.random.Generator) -> Signs:
    """Permute the stages."""
    return np.asarray(path.signs[rng.random((draws, len(path.signs))).argsort(axis=1)])


def redraw_values(path: SearchPath, draws: int, rng: np.random.Generator) -> Signs:
    """Draw each new value uniformly from all other values that the catalogue allows."""
    position = np.tile(path.start, (draws, 1))
    signs = np.zeros((draws, *path.signs.shape), np.int8)
    for stage, changed in enumerate(path.signs != 0):
        uniform = rng.random(position.shape)
        last = np.where(np.isnan(path.values), 1.0, np.maximum(path.values - 1, 1.0))
        index = np.floor(uniform * last)
        index += index >= np.rint(position * last)  # passes over the present value
        other = np.where(np.isnan(path.values), uniform, index / last)
        new = np.where(changed, other, position)
        signs[:, stage] = np.sign(new - position)
        position = new
    return signs


def _coins(rng: np.random.Generator, shape: tuple[int, ...]) -> Signs:
    return (2 * rng.integers(0, 2, shape, np.int8) - 1).astype(np.int8)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a one-sided test: the claim says that the observed value is higher than under the null.

    Attributes:
        null: name of the null.
        observed: the value of the measure.
        expected: its mean under the null.
        p: how often the null gives at least the observed value.
        floor: the p of a perfect outcome; no paths of this number and length could reach a lower one.
    """

    null: str
    observed: float
    expected: float
    p: float
    floor: float


def mean_of_testable(value: Array, testable: NDArray[np.bool_]) -> Array:
    """Return the mean over the parameters, the last axis, that are testable."""
    return np.asarray(np.where(testable, value, 0.0).sum(axis=-1) / testable.sum(axis=-1))


@dataclass(frozen=True)
class NullSamples:
    """A measure of some paths, and of their random versions under a null.

    Attributes:
        name: of the null.
        null: the function that made the versions.
        counts: the counts of each path.
        observed: the measure of each path, of shape (parameters,).
        sampled: the measure of each path's versions, of shape (draws, parameters).
    """

    name: str
    null: Null
    counts: list[Counts]
    observed: list[Array]
    sampled: list[Array]

    @classmethod
    def draw(
        cls, name: str, null: Null, measure: Measure, paths: Sequence[SearchPath], draws: int
    ) -> NullSamples:
        """Make the random versions of all paths and measure them."""
        rng = np.random.default_rng(SEED)
        sampled = [measure(Counts.of(null(path, draws, rng))) for path in paths]
        observed = [measure(path.counts) for path in paths]
        return cls(name, null, [path.counts for path in paths], observed, sampled)

    def outcome(self, column: int | None = None) -> Outcome | None:
        """Test the mean over all parameters, or one parameter; None where no path has a testable parameter.

        The mean is taken over the testable parameters of each search first, then over searches.
        """
        columns = slice(None) if column is None else slice(column, column + 1)
        testable = [counts.testable[columns] for counts in self.counts]
        chosen = [i for i, enough in enumerate(testable) if enough.any()]
        if not chosen:
            return None
        observed = float(np.mean([mean_of_testable(self.observed[i][columns], testable[i]) for i in chosen]))
        means = np.mean([mean_of_testable(self.sampled[i][:, columns], testable[i]) for i in chosen], axis=0)
        floor = FLOORS[self.null]([int(self.counts[i].changes[columns].max()) for i in chosen], means)
        at_least_observed = int((means >= observed - ROUNDING).sum())
        p = (at_least_observed + 1) / (len(means) + 1)
        return Outcome(self.name, observed, float(means.mean()), p, floor)


def _alternating_share(changes: int) -> float:
    """Return the share of the orders of equally many ups and downs in which every change turns."""
    return (1 if changes % 2 else 2) / comb(changes, changes // 2)


# The smallest p of perfect data. Arguments: the changes of the parameter that changed most in each search,
# and the means over searches of each draw.
FLOORS: dict[Null, Callable[[list[int], Array], float]] = {
    flip_searches: lambda changes, means: 0.5 ** len(changes),
    flip_stages: lambda changes, means: 0.5 ** sum(changes),
    reorder_stages: lambda changes, means: float(np.prod([_alternating_share(n) for n in changes])),
    redraw_values: lambda changes, means: float(np.mean(means >= 1 - ROUNDING)),
}
