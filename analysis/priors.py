"""The test against a proposer's prior: searches that see results against searches of the same habits.

How often a parameter only grew, or turned, depends on how often it changed, and so on the lengths of paths;
and habits may change from stage to stage. So the sets are compared at equal numbers: the first stages of each
path, and of these the first changes of equally many parameters of each search, as a mean over fewer varies
more. The numbers are chosen by lengths and by how often parameters change, never by where they go.

Searches of one proposer are exchangeable then, however many they are, and however long their paths. They are
exchanged twice, and the larger p counts. Once the numbers of changes and parameters are chosen anew for each
exchange: searches that change much may move in other ways than those that change little, and the numbers
decide which of them are compared. Once the numbers stay: where one set changes parameters more often than the
other, mixed sets would be compared at numbers that tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from analysis.claim import MIN_SEARCHES, ClaimPart
from analysis.nulls import SEED, Outcome
from analysis.paths import MIN_CHANGES, Array, Counts, Paths, Signs

NO_VARIANCE = 1e-12  # added to variances: without any, sets are told apart by their difference alone
EQUAL = 1e-6  # statistics this close are ties

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Choices:
    """A measure of searches of two sets, for every choice of a number of changes and one of parameters.

    Attributes:
        changes: how many changes of each parameter are looked at, of shape (choices,).
        parameters: how many parameters of each search.
        tells: how much a search tells there, in comparison to other choices.
        counted: which searches have so many parameters that changed so often, of shape (searches, choices).
        values: the measure of each search, the mean over its parameters, each of them relative to its own
            mean over all searches. So parameters with habits of their own do not make a difference where one
            set changes them more often than the other. 0 where the search is not counted.
        level: the mean of the means of the parameters, of shape (choices,).
    """

    changes: NDArray[np.int64]
    parameters: NDArray[np.int64]
    tells: Array
    counted: Mask
    values: Array
    level: Array

    def compare(self, ours: Mask) -> tuple[NDArray[np.int64], Array]:
        """Return the choice that tells most, and Welch's t there, for each way to divide the searches.

        The precision of a difference of means counts too. The choice is -1, and t NaN, where none leaves
        `MIN_SEARCHES` of each set.

        Args:
            ours: which searches are in question, of shape (ways, searches); the others are of the prior.
        """
        moments = [self._moments(each.astype(float)) for each in (ours, ~ours)]
        numbers, means, variances = zip(*moments, strict=True)
        worth = self.tells / sum(1 / np.maximum(number, 1) for number in numbers)
        worth = np.where(np.minimum(*numbers) >= MIN_SEARCHES, worth, 0.0).round(9)
        chosen = worth.argmax(axis=1)
        t = (means[0] - means[1]) / np.sqrt(sum(variances) + NO_VARIANCE)
        none = ~worth.any(axis=1)
        return np.where(none, -1, chosen), np.where(none, np.nan, t[np.arange(len(t)), chosen])

    def at(self, choice: int) -> Choices:
        """Return one choice, and the searches that are counted there."""
        counted, one = self.counted[:, choice], slice(choice, choice + 1)
        return Choices(
            self.changes[one],
            self.parameters[one],
            self.tells[one],
            self.counted[counted, one],
            self.values[counted, one],
            self.level[one],
        )

    def _moments(self, chosen: Array) -> tuple[Array, Array, Array]:
        """Return number, mean and variance of the mean of the chosen searches, each of (ways, choices)."""
        number, total, squares = (
            chosen @ each for each in (self.counted.astype(float), self.values, self.values**2)
        )
        several = np.maximum(number, 2)
        mean = total / np.maximum(number, 1)
        variance = np.maximum(squares - total * mean, 0) / (several - 1) / several
        return number, mean, variance.round(12)  # so that equal values have none


@dataclass(frozen=True)
class Matched:
    """A measure on two sets of searches, of equally many changes of equally many parameters in each search.

    Attributes:
        stages: how many stages of each path are looked at; shorter paths are left out.
        changes: how many changes of each parameter there.
        parameters: how many parameters of each search.
        ours: the measure of each search that is compared.
        theirs: of each search of the prior.
        choices: all that could be compared, first of our searches, then of those of the prior.
        choice: the choice that is.
        searches: how many of our searches are in `choices`.
    """

    stages: int
    changes: int
    parameters: int
    ours: Array
    theirs: Array
    choices: Choices
    choice: int
    searches: int


def match(ours: Paths, theirs: Paths, part: ClaimPart) -> Matched | None:
    """Return a part's measure on the best paths of two sets, at equal numbers of stages and changes.

    None where no numbers leave `MIN_SEARCHES` of both sets, or no parameter is common to both.
    """
    group = [ours.parameters[column] for column in ours.columns(part.group)]
    names = [name for name in group if name in theirs.parameters]
    stages = _stages(*([len(path.signs) for path in of.best] for of in (ours, theirs)))
    if not names or stages < MIN_CHANGES:
        return None
    signs = [_first_stages(of, names, stages) for of in (ours, theirs)]
    choices = _choices(signs, part)
    is_ours = np.arange(len(choices.counted)) < len(signs[0])
    choice = int(choices.compare(is_ours[None])[0][0])
    if choice < 0:
        return None
    values, counted = choices.values[:, choice] + choices.level[choice], choices.counted[:, choice]
    return Matched(
        stages,
        int(choices.changes[choice]),
        int(choices.parameters[choice]),
        values[counted & is_ours],
        values[counted & ~is_ours],
        choices,
        choice,
        len(signs[0]),
    )


def _stages(*lengths: Sequence[int]) -> int:
    """Return how many stages of the paths of two sets to compare, by their lengths alone; 0 for none.

    More stages may turn more often, but fewer paths have them: the precision of the difference of means of so
    many searches counts.
    """
    longest = min(max(each, default=0) for each in lengths)
    worth = {0: 0.0}
    for stages in range(MIN_CHANGES, longest + 1):
        left = [sum(length >= stages for length in each) for each in lengths]
        if min(left) >= MIN_SEARCHES:
            worth[stages] = round((stages - 1) / sum(1 / number for number in left), 9)
    return max(worth, key=lambda stages: worth[stages])


def _first_stages(paths: Paths, names: Sequence[str], stages: int) -> Signs:
    """Return directions of some parameters on paths that long, of shape (searches, stages, parameters)."""
    columns = [paths.parameters.index(name) for name in names]
    return np.array([path.signs[:stages, columns] for path in paths.best if len(path.signs) >= stages])


def _choices(signs: Sequence[Signs], part: ClaimPart) -> Choices:
    """Return what can be compared of two sets of directions, each of shape (searches, stages, parameters).

    Of each search those parameters are taken that first made so many changes. Parameters count where a search
    of each set changed them so often.
    """
    both = np.concatenate(signs)
    changes = np.arange(MIN_CHANGES, both.shape[1] + 1)
    numbers = np.arange(1, both.shape[2] + 1)
    so_far = (both != 0).cumsum(axis=1)
    stage = (so_far[..., None] < changes).sum(axis=1).swapaxes(1, 2)  # (searches, changes, parameters)
    reached = stage < both.shape[1]
    reached &= reached[: len(signs[0])].any(axis=0) & reached[len(signs[0]) :].any(axis=0)
    rank = np.where(reached, stage, both.shape[1]).argsort(axis=2, kind="stable").argsort(axis=2)
    counted = reached.sum(axis=2)[..., None] >= numbers
    used = (rank[:, :, None] < numbers[:, None]) & counted[..., None]
    measured = [part.measure(Counts.of(first_changes(both, number))) for number in changes]
    values = np.stack(measured, axis=1)[:, :, None]
    uses = used.sum(axis=0)
    means = np.where(used, values, 0.0).sum(axis=0) / np.maximum(uses, 1)
    relative = np.where(used, values - means, 0.0).sum(axis=3) / numbers
    level = means.sum(axis=2) / np.maximum((uses > 0).sum(axis=2), 1)
    pairs = [each.ravel() for each in np.meshgrid(changes, numbers, indexing="ij")]
    return Choices(
        pairs[0],
        pairs[1],
        part.tells(pairs[0].astype(float)) * pairs[1],
        counted.reshape(len(both), -1),
        relative.reshape(len(both), -1),
        level.ravel(),
    )


def first_changes(signs: Signs, changes: int) -> Signs:
    """Return directions (..., stages, parameters) with the first changes of each parameter alone."""
    return np.where((signs != 0).cumsum(axis=-2) <= changes, signs, 0).astype(np.int8)


def permutation_test(name: str, matched: Matched, draws: int) -> Outcome:
    """Test whether our values are higher than those of the prior: searches are exchanged between the sets.

    The statistic is Welch's t, so that sets of unequal sizes and unequal variances do not differ by that
    alone. Where there are no more than `draws` ways to exchange the searches, p is exact. Ways that leave too
    few searches to compare do not count.
    """
    at_choice = matched.choices.at(matched.choice), len(matched.ours)
    tests = [_exchange(*each, draws) for each in ((matched.choices, matched.searches), at_choice)]
    p, floor = (max(each) for each in zip(*tests, strict=True))
    return Outcome(name, float(matched.ours.mean()), float(matched.theirs.mean()), p, floor)


def _exchange(choices: Choices, ours: int, draws: int) -> tuple[float, float]:
    """Return p of a comparison whose first searches are ours, and the least that is possible."""
    searches = len(choices.counted)
    if comb(searches, ours) <= draws:
        ways = np.zeros((comb(searches, ours), searches), bool)
        for way, chosen in zip(ways, combinations(range(searches), ours), strict=True):
            way[list(chosen)] = True
    else:
        observed = np.tile(np.arange(searches) < ours, (draws + 1, 1))
        ways = np.random.default_rng(SEED).permuted(observed, axis=1)
        ways[0] = observed[0]
    statistics = choices.compare(ways)[1]  # the first way is the one observed
    counted = int((~np.isnan(statistics)).sum())
    return int((statistics >= statistics[0] - EQUAL).sum()) / counted, 1 / counted
