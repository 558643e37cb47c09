"""What a claim about paths is measured against: the same paths if something else than the claim had made them.

A null makes `DRAWS` other versions of a path's directions, of shape (draws, stages, parameters). All change the same parameters at the same
stages as the path did, so a short path stays short: what it does by chance, its versions do as often. Stages are turned round or moved as
a whole, as parameters that are changed together are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.paths import Array, Counts, Line, Signs

DRAWS = 2000
SEED = 0
ROUNDING = 1e-9

Null = Callable[[Line, int, np.random.Generator], Signs]
Measure = Callable[[Counts], Array]


def turned_searches(line: Line, draws: int, rng: np.random.Generator) -> Signs:
    """Turn the whole path round, or not: a search that goes up throughout might as well have gone down."""
    return _flips(rng, (draws, 1, 1)) * line.signs


def turned_stages(line: Line, draws: int, rng: np.random.Generator) -> Signs:
    """Turn each stage round, or not: whether it goes up or down is a coin's decision."""
    return _flips(rng, (draws, len(line.signs), 1)) * line.signs


def reordered(line: Line, draws: int, rng: np.random.Generator) -> Signs:
    """Put the stages in any other order."""
    return np.asarray(line.signs[rng.random((draws, len(line.signs))).argsort(axis=1)])


def drawn(line: Line, draws: int, rng: np.random.Generator) -> Signs:
    """Draw each new value evenly from all others that the catalogue allows."""
    position = np.tile(line.start, (draws, 1))
    signs = np.zeros((draws, *line.signs.shape), np.int8)
    for stage, changed in enumerate(line.signs != 0):
        fresh = np.where(changed, _others(position, line.values, rng), position)
        signs[:, stage] = np.sign(fresh - position)
        position = fresh
    return signs


def _flips(rng: np.random.Generator, shape: tuple[int, ...]) -> Signs:
    return (2 * rng.integers(0, 2, shape, np.int8) - 1).astype(np.int8)


def _others(position: Array, values: Array, rng: np.random.Generator) -> Array:
    even = rng.random(position.shape)
    last = np.where(np.isnan(values), 1.0, np.maximum(values - 1, 1.0))
    place = np.floor(even * last)
    return np.where(np.isnan(values), even, (place + (place >= np.rint(position * last))) / last)


@dataclass(frozen=True)
class Outcome:
    """A test against a null. All is one-sided: the claim says more.

    Attributes:
        expected: what the null gives in the mean.
        p: how often it gives as much as was observed.
        floor: the p that nothing but a perfect outcome could reach, with paths of this number and length.
    """

    null: str
    observed: float
    expected: float
    p: float
    floor: float


def mean_of_judged(value: Array, judged: NDArray[np.bool_]) -> Array:
    """Return the mean over the parameters that can be judged, the last axis."""
    return np.asarray(np.where(judged, value, 0.0).sum(axis=-1) / judged.sum(axis=-1))


@dataclass(frozen=True)
class Versions:
    """A measure of paths and of their versions under a null: lists with an entry a path, arrays whose last axis are some parameters."""

    name: str
    null: Null
    counts: list[Counts]
    seen: list[Array]
    others: list[Array]

    @classmethod
    def of(cls, name: str, null: Null, measure: Measure, lines: Sequence[Line], draws: int) -> Versions:
        """Make the versions of paths."""
        rng = np.random.default_rng(SEED)
        others = [measure(Counts.of(null(line, draws, rng))) for line in lines]
        return cls(
            name, null, [line.counts for line in lines], [measure(line.counts) for line in lines], others
        )

    def outcome(self, column: int | None = None) -> Outcome | None:
        """Test the mean of all parameters, or of one; None where no path can be judged.

        Within a search the mean is over the parameters that can be judged, then over searches: each counts as one.
        """
        kept = slice(None) if column is None else slice(column, column + 1)
        told = [i for i, counts in enumerate(self.counts) if counts.judged[kept].any()]
        if not told:
            return None
        judged = [self.counts[i].judged[kept] for i in told]
        observed = float(
            np.mean(
                [mean_of_judged(self.seen[i][kept], enough) for i, enough in zip(told, judged, strict=True)]
            )
        )
        means = np.mean(
            [mean_of_judged(self.others[i][:, kept], enough) for i, enough in zip(told, judged, strict=True)],
            axis=0,
        )
        floor = FLOORS[self.null]([int(self.counts[i].changes[kept].max()) for i in told], means)
        as_much = int((means >= observed - ROUNDING).sum())
        return Outcome(self.name, observed, float(means.mean()), (as_much + 1) / (len(means) + 1), floor)


def _alternations(changes: int) -> float:
    """Return the share of the orders of as many ups as downs in which every change turns."""
    return (1 if changes % 2 else 2) / comb(changes, changes // 2)


# The smallest p of perfect data, by the changes of the parameter changed most in each search, or by the draws themselves.
FLOORS: dict[Null, Callable[[list[int], Array], float]] = {
    turned_searches: lambda changes, means: 0.5 ** len(changes),
    turned_stages: lambda changes, means: 0.5 ** sum(changes),
    reordered: lambda changes, means: float(np.prod([_alternations(n) for n in changes])),
    drawn: lambda changes, means: float(np.mean(means >= 1 - ROUNDING)),
}


def against(name: str, ours: Array, theirs: Array, draws: int) -> Outcome:
    """Test whether values of searches are higher than those of other searches: labels are exchanged between searches."""

    def difference(a: Array, b: Array, axis: int) -> Array:
        return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))

    floor = 1 / comb(len(ours) + len(theirs), len(ours))
    rng = np.random.default_rng(SEED)
    found = stats.permutation_test(
        (ours, theirs), difference, n_resamples=draws, alternative="greater", vectorized=True, rng=rng
    )
    return Outcome(name, float(ours.mean()), float(theirs.mean()), float(found.pvalue), floor)
