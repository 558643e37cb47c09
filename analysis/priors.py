"""The test against a proposer's prior: searches that see results against searches of the same habits.

How often a parameter only grew, or turned, depends on how often it changed, and so on the lengths of paths;
and habits may change from stage to stage. So the sets are compared at equal numbers: the first stages of each
path, and of these the first changes of equally many parameters of each search, as a mean over fewer varies
more. The numbers are chosen by how often parameters change, never by where they go. Searches of one proposer
are then exchangeable, however many they are, however long their paths, and however often they change what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.claim import MIN_SEARCHES, ClaimPart
from analysis.nulls import SEED, Outcome, mean_of_testable
from analysis.paths import MIN_CHANGES, Array, Counts, Paths, Signs

NO_VARIANCE = 1e-12  # added to variances: without any, sets are told apart by their difference alone


@dataclass(frozen=True)
class Matched:
    """A measure on two sets of searches, of equally many changes of equally many parameters in each search.

    Attributes:
        stages: how many stages of each path are looked at; shorter paths are left out.
        changes: how many changes of each parameter there.
        parameters: how many parameters of each search.
        ours: the measure of each search, the mean over its parameters, each of them relative to its own mean
            over both sets; the mean of these is added again. So parameters with habits of their own do not
            make a difference where one set changes them more often than the other.
        theirs: of each search of the prior.
    """

    stages: int
    changes: int
    parameters: int
    ours: Array
    theirs: Array


def match(ours: Paths, theirs: Paths, part: ClaimPart) -> Matched | None:
    """Return a part's measure on the best paths of two sets, at equal numbers of stages and changes.

    Of each search those parameters are taken that first made so many changes. Parameters count where a search
    of each set changed them so often. The numbers are those that tell most among all that leave
    `MIN_SEARCHES` of both sets; None where no numbers do.
    """
    group = [ours.parameters[column] for column in ours.columns(part.group)]
    names = [name for name in group if name in theirs.parameters]
    longest = min(max((len(path.signs) for path in of.best), default=0) for of in (ours, theirs))
    changes = np.arange(MIN_CHANGES, longest + 1)
    if not names or not len(changes):
        return None
    signs = [_stacked(of, names, longest) for of in (ours, theirs)]
    lengths = [np.array([len(path.signs) for path in of.best]) for of in (ours, theirs)]
    reached = _reached(signs, lengths, changes)
    stages, often, parameters = _most_telling(reached, part.tells(changes.astype(float)))
    if not parameters:
        return None
    first = [each[:, :stages] for each in signs]
    used = [
        _first_to_reach(each, reach[:, stages - 1, often], changes[often], parameters)
        for each, reach in zip(first, reached, strict=True)
    ]
    values = [part.measure(Counts.of(first_changes(each, changes[often]))) for each in first]
    return Matched(stages, int(changes[often]), parameters, *_adjusted(values, used))


def _stacked(paths: Paths, names: Sequence[str], stages: int) -> Signs:
    """Return the directions of some parameters on the best paths, of shape (searches, stages, parameters)."""
    columns = [paths.parameters.index(name) for name in names]
    stacked = np.zeros((len(paths.best), stages, len(names)), np.int8)
    for signs, path in zip(stacked, paths.best, strict=True):
        signs[: len(path.signs)] = path.signs[:stages, columns]
    return stacked


def _reached(
    signs: Sequence[Signs], lengths: Sequence[NDArray[np.int64]], changes: NDArray[np.int64]
) -> list[NDArray[np.bool_]]:
    """Return, of each set, which parameters changed so often within so many stages, of paths that long.

    A parameter that no search of the other set changed so often counts in neither. The shape is (searches,
    stages, changes, parameters).
    """
    reached = []
    for each, length in zip(signs, lengths, strict=True):
        long_enough = length[:, None] > np.arange(each.shape[1])
        often = (each != 0).cumsum(axis=1)[:, :, None, :] >= changes[:, None]
        reached.append(often & long_enough[:, :, None, None])
    in_both = reached[0].any(axis=0) & reached[1].any(axis=0)
    return [each & in_both for each in reached]


def _most_telling(reached: Sequence[NDArray[np.bool_]], tells: Array) -> tuple[int, int, int]:
    """Return the number of stages, the index of the number of changes, and that of parameters to compare.

    What they tell is what a parameter tells, times the parameters, over the variance of the difference of
    means of so many searches. Without parameters where no numbers leave enough searches.
    """
    numbers = np.arange(1, reached[0].shape[-1] + 1)
    left = [(each.sum(axis=-1)[..., None] >= numbers).sum(axis=0) for each in reached]
    searches = 1 / sum(1 / np.maximum(each, 1) for each in left)
    worth = np.where(np.minimum(*left) >= MIN_SEARCHES, searches * tells[:, None] * numbers, 0.0).round(9)
    if not worth.any():
        return 0, 0, 0
    stage, often, parameter = np.unravel_index(worth.argmax(), worth.shape)
    return int(stage) + 1, int(often), int(numbers[parameter])


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
