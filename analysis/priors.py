"""The test against a proposer's prior: searches that see results against searches of the same habits.

How often a parameter only grew, or turned, depends on how often it changed, and so on the lengths of paths.
So the sets are compared at one number of changes: of each parameter its first changes alone are looked at.
And of each search equally many parameters are looked at, as a mean over fewer varies more. Both numbers are
chosen by how often parameters change, never by where they go. Searches of one habit are then exchangeable,
however long their paths are, and however many parameters they change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.claim import MIN_SEARCHES
from analysis.nulls import SEED, Measure, Outcome, mean_of_testable
from analysis.paths import MIN_CHANGES, Array, Counts, Paths, Signs

REACHING = 0.8  # share of the searches that can be judged which have to be left
NO_VARIANCE = 1e-12  # added to variances: without any, sets are told apart by their difference alone


@dataclass(frozen=True)
class Matched:
    """A measure on two sets of searches, of equally many changes of equally many parameters in each search.

    Attributes:
        changes: how many changes of each parameter are looked at.
        parameters: how many parameters of each search.
        ours: the measure of each search, the mean over its parameters, each of them relative to its own mean
            over both sets; the mean of these is added again. So parameters with habits of their own do not
            make a difference where one set changes them more often than the other.
        theirs: of each search of the prior.
    """

    changes: int
    parameters: int
    ours: Array
    theirs: Array


def match(ours: Paths, theirs: Paths, group: str, measure: Measure) -> Matched | None:
    """Return a measure of a group's parameters on the best paths of two sets, at equal numbers of changes.

    Of each search those parameters are taken that first made so many changes. The numbers are those with the
    most possible turns among all that leave enough searches of both sets: `MIN_SEARCHES`, and a share of
    `REACHING` of those where a parameter changed `MIN_CHANGES` times. None where no numbers leave enough.
    Parameters count where a search of each set changed them so often.
    """
    names = [name for name in np.array(ours.parameters)[ours.columns(group)] if name in theirs.parameters]
    if not names or min(len(ours.best), len(theirs.best)) < MIN_SEARCHES:
        return None
    signs = [_stacked(of, names) for of in (ours, theirs)]
    counts = [(each != 0).sum(axis=1) for each in signs]
    changes, parameters = _most_turns(counts)
    if not parameters:
        return None
    used = [
        _first_to_reach(each, reached, changes, parameters)
        for each, reached in zip(signs, _reached(counts, changes), strict=True)
    ]
    values = [measure(Counts.of(first_changes(each, changes))) for each in signs]
    return Matched(changes, parameters, *_adjusted(values, used))


def _stacked(paths: Paths, names: Sequence[str]) -> Signs:
    """Return the directions of some parameters on the best paths, of shape (searches, stages, parameters)."""
    columns = [paths.parameters.index(name) for name in names]
    stacked = np.zeros((len(paths.best), max(len(path.signs) for path in paths.best), len(names)), np.int8)
    for signs, path in zip(stacked, paths.best, strict=True):
        signs[: len(path.signs)] = path.signs[:, columns]
    return stacked


def _reached(counts: Sequence[NDArray[np.int64]], changes: int) -> list[NDArray[np.bool_]]:
    """Return, of each set, which parameters of which search changed so often, if in some search of each set.

    All arrays have the shape (searches, parameters).
    """
    reached = [each >= changes for each in counts]
    in_both = reached[0].any(axis=0) & reached[1].any(axis=0)
    return [each & in_both for each in reached]


def _most_turns(counts: Sequence[NDArray[np.int64]]) -> tuple[int, int]:
    """Return the numbers of changes and of parameters to compare; no parameters where too few reach any."""
    needed = [max(MIN_SEARCHES, REACHING * each.any(axis=1).sum()) for each in _reached(counts, MIN_CHANGES)]
    best = (MIN_CHANGES, 0)
    for changes in range(MIN_CHANGES, int(max(each.max() for each in counts)) + 1):
        reaching = [each.sum(axis=1) for each in _reached(counts, changes)]
        parameters = 0
        while all((n > parameters).sum() >= least for n, least in zip(reaching, needed, strict=True)):
            parameters += 1
        best = max(best, (changes, parameters), key=lambda pair: ((pair[0] - 1) * pair[1], pair[0]))
    return best


def _first_to_reach(
    signs: Signs, reached: NDArray[np.bool_], changes: int, parameters: int
) -> NDArray[np.bool_]:
    """Return which parameters of each search were the first to change so often; none where too few did."""
    stages = ((signs != 0).cumsum(axis=1) < changes).sum(axis=1)
    order = np.where(reached, stages, signs.shape[1] + 1).argsort(axis=1, kind="stable")
    enough = reached.sum(axis=1, keepdims=True) >= parameters
    return np.asarray((order.argsort(axis=1) < parameters) & enough)


def first_changes(signs: Signs, changes: int) -> Signs:
    """Return directions (..., stages, parameters) with the first changes of each parameter alone."""
    return np.where((signs != 0).cumsum(axis=-2) <= changes, signs, 0).astype(np.int8)


def _adjusted(values: list[Array], used: list[NDArray[np.bool_]]) -> list[Array]:
    """Return the mean of each search over its parameters, relative to their means over all searches."""
    both, mask = np.concatenate(values), np.concatenate(used)
    searches, columns = mask.any(axis=1), mask.any(axis=0)
    both, mask = both[searches][:, columns], mask[searches][:, columns]
    means = mean_of_testable(both.T, mask.T)
    adjusted = mean_of_testable(both - means, mask) + means.mean()
    return np.split(adjusted, [int(used[0].any(axis=1).sum())])


def welch(ours: Array, theirs: Array, axis: int = -1) -> Array:
    """Return Welch's t of two samples, rounded, so that the order of a sample does not break ties."""
    variance = sum(each.var(axis=axis, ddof=1) / each.shape[axis] for each in (ours, theirs))
    difference = ours.mean(axis=axis) - theirs.mean(axis=axis)
    return np.asarray(np.round(difference / np.sqrt(variance + NO_VARIANCE), 5))


def permutation_test(name: str, matched: Matched, draws: int) -> Outcome:
    """Test whether our values are higher than those of the prior: searches are exchanged between the sets.

    The statistic is Welch's t, so that sets of unequal sizes and unequal variances do not differ by that
    alone. Where there are no more than `draws` ways to exchange the searches, p is exact.
    """
    ours, theirs = matched.ours, matched.theirs
    result = stats.permutation_test(
        (ours, theirs),
        welch,
        n_resamples=draws,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(SEED),
    )
    ways = comb(len(ours) + len(theirs), len(ours))
    floor = 1 / (ways if ways <= draws else draws + 1)
    return Outcome(name, float(ours.mean()), float(theirs.mean()), float(result.pvalue), floor)
