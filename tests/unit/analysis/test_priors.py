"""The test against a proposer's prior: what is compared, the statistic, and how often it errs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.claim import CLAIM, ClaimPart
from analysis.dynamics import judge_part
from analysis.paths import Array, Paths, SearchPath, Signs
from analysis.priors import Choices, Matched, first_changes, match, permutation_test
from analysis.synthetic import BUILT_IN, NONE, PRIOR, PROPOSERS, WITH, Sample, rejections
from analysis.synthetic_searches import PLANTED

CAPACITY, REGULARIZATION = CLAIM
GROWS, OSCILLATES = CAPACITY.says, REGULARIZATION.says


def paths_with(
    *searches: Sequence[Sequence[int]], names: Sequence[str] = ("a", "b"), part: ClaimPart = CAPACITY
) -> Paths:
    """Return paths of a part's parameters; of each search the directions of each parameter."""
    paths = Paths(list(names), np.array([part.group] * len(names)))
    for number, columns in enumerate(searches):
        signs: Signs = np.array(columns, np.int8).T
        start = np.full(len(names), 0.5)
        paths.best.append(SearchPath(str(number), "e", signs, start, np.full(len(names), np.nan)))
    return paths


def numbers(matched: Matched | None) -> tuple[int, int, int, int, int]:
    """Return the stages, changes and parameters that are compared, and of how many searches of both sets."""
    assert matched is not None
    return matched.stages, matched.changes, matched.parameters, len(matched.ours), len(matched.theirs)


def test_only_the_first_changes_are_left() -> None:
    signs = np.array([[1, 0], [0, -1], [-1, 0], [1, 1], [1, 1]], np.int8)
    assert first_changes(signs, 2).tolist() == [[1, 0], [0, -1], [-1, 0], [0, 1], [0, 0]]


def test_sets_are_compared_after_as_many_changes_as_both_made() -> None:
    """Ours turn at their third and fourth change, when the others had stopped to change anything."""
    ours = paths_with(*[[[1, 1, -1, 1], [0, 1, 1, -1]]] * 6)
    theirs = paths_with(*[[[1, 0, 1], [0, -1, 0]]] * 6)
    matched = match(ours, theirs, CAPACITY)
    assert numbers(matched) == (3, 2, 1, 6, 6)
    assert matched is not None
    assert (matched.ours.tolist(), matched.theirs.tolist()) == ([1.0] * 6, [1.0] * 6)


def test_habits_that_fade_do_not_tell_short_paths_from_long_ones() -> None:
    """Up until the third stage, then down: half of the searches change at every stage, half at some."""
    soon, late = [[1, 1, 1, -1, -1, -1]], [[1, 0, 0, -1, -1, 0]]
    theirs = paths_with(*[soon] * 6, *[late] * 6, names="a")
    ours = paths_with(*([[line[:3] for line in each] for each in [soon] * 6 + [late] * 6]), names="a")
    matched = match(ours, theirs, CAPACITY)
    assert numbers(matched) == (3, 3, 1, 6, 6)
    assert matched is not None
    assert (matched.ours.tolist(), matched.theirs.tolist()) == ([1.0] * 6, [1.0] * 6)


def test_the_numbers_compared_are_those_that_tell_most() -> None:
    """Three changes of both parameters leave four possible turns, two leave two, four of one leave three."""
    longer, shorter = [[1, -1, 1, 1], [1, 1, -1, 0]], [[1, 1, 1, -1], [1, 1, -1, 0]]
    ours, theirs = (paths_with(*[each] * 5, part=REGULARIZATION) for each in (longer, shorter))
    matched = match(ours, theirs, REGULARIZATION)
    assert numbers(matched) == (4, 3, 2, 5, 5)
    assert matched is not None
    assert matched.ours == pytest.approx([(1 + 0.5) / 2] * 5)
    assert matched.theirs == pytest.approx([(0 + 0.5) / 2] * 5)


def test_of_each_search_those_parameters_count_that_were_first() -> None:
    """The searches of the prior change one parameter each; so one counts, that which was first."""
    ours = paths_with(*[[[0, -1, -1], [1, 1, 0]]] * 6)
    theirs = paths_with(*[[[-1, -1, 0], [0, 0, 0]]] * 2, *[[[0, 0, 0], [1, 1, 0]]] * 4)
    matched = match(ours, theirs, CAPACITY)
    assert numbers(matched) == (3, 2, 1, 6, 6)
    assert matched is not None
    # Parameter b grew in all searches that count it, so none differs from its mean; the level is the mean of
    # the means of a (0) and b (1).
    assert (matched.ours.tolist(), matched.theirs.tolist()) == ([0.5] * 6, [0.5] * 6)


def test_fewer_searches_count_where_each_tells_more() -> None:
    """Two possible turns of six searches each are more than one of ten; but five of a set have to be left."""
    often, seldom = [[1, -1, 1]], [[1, -1, 0]]
    six, four = (
        paths_with(*[often] * n, *[seldom] * (10 - n), names="a", part=REGULARIZATION) for n in (6, 4)
    )
    assert numbers(match(six, six, REGULARIZATION)) == (3, 3, 1, 6, 6)
    assert numbers(match(six, four, REGULARIZATION)) == (3, 2, 1, 10, 10)


def test_short_paths_are_left_out_where_the_others_tell_more() -> None:
    long, short = [[1, -1, 1, -1, 1]], [[1, -1]]
    mixed, few = (paths_with(*[long] * n, *[short] * 4, names="a", part=REGULARIZATION) for n in (6, 4))
    assert numbers(match(mixed, mixed, REGULARIZATION)) == (5, 5, 1, 6, 6)
    assert numbers(match(mixed, few, REGULARIZATION)) == (2, 2, 1, 10, 8)


def test_fewer_than_five_comparable_searches_are_too_little_data() -> None:
    ours = paths_with(*[[[1, 1, 1], [1, 1, 1]]] * 8)
    few = paths_with(*[[[1, -1, 1], [1, 1, 1]]] * 4)
    other = paths_with(*[[[1, -1, 1], [1, 1, 1]]] * 8, names=("c", "d"))
    short = paths_with(*[[[1], [1]]] * 8)
    assert [match(ours, theirs, CAPACITY) for theirs in (few, other, short, paths_with())] == [None] * 4
    judged = judge_part(CAPACITY, [], ours, {"blind": other}, 8, 100)
    assert judged["verdict"] == "too little data"
    assert "with blind too little is comparable: of both sets at least 5 searches" in judged["why"]


def divided(ours: Array, theirs: Array, missing: int = 0) -> Matched:
    """Return a comparison at one number of changes, which `missing` more of the prior did not reach."""
    values = np.concatenate([ours, theirs, np.zeros(missing)])[:, None]
    counted = np.arange(len(values))[:, None] < len(values) - missing
    one = np.ones(1, np.int64)
    choices = Choices(2 * one, one, np.ones(1), counted, values, np.zeros(1))
    return Matched(2, 2, 1, ours, theirs, choices, 0, len(ours))


def first(count: int, of: int) -> NDArray[np.bool_]:
    return np.arange(of)[None] < count


def test_the_statistic_is_welchs() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(6), 3 * rng.random(9)
    [choice], [t] = divided(ours, theirs).choices.compare(first(6, 15))
    assert choice == 0
    assert t == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).statistic)
    # Means 1 and 0, the variance of each mean 0.3 / 6 and 0.
    ours, theirs = np.array([0.5, 0.5, 1.0, 1.0, 1.5, 1.5]), np.zeros(9)
    assert divided(ours, theirs).choices.compare(first(6, 15))[1] == pytest.approx(1 / np.sqrt(1 / 30))
    ones = np.ones(5)
    assert divided(ones, 0 * ones).choices.compare(first(5, 10))[1] > 1e5
    assert divided(ones, ones).choices.compare(first(5, 10))[1] == 0


def test_each_exchange_is_compared_where_it_tells_most() -> None:
    """Ten of twelve searches made three changes; the second way leaves four of these in one set."""
    counted = np.array([[True, number < 10] for number in range(12)])
    numbers = np.array([2, 3]), np.array([1, 1])
    choices = Choices(*numbers, np.array([1.0, 2.0]), counted, counted.astype(float), np.zeros(2))
    ways = np.array(
        [[n < 5 for n in range(12)], [n < 4 or n > 9 for n in range(12)], [n < 2 for n in range(12)]]
    )
    chosen, t = choices.compare(ways)
    assert chosen.tolist() == [1, 0, -1]
    assert np.isnan(t).tolist() == [False, False, True]


def test_p_is_exact_where_few_exchanges_are_possible() -> None:
    ones, zeros = np.ones(5), np.zeros(5)
    best = permutation_test("p", divided(ones, zeros), 2000)
    assert (best.p, best.floor) == pytest.approx((1 / 252, 1 / 252))
    assert permutation_test("p", divided(zeros, ones), 2000).p == 1
    assert permutation_test("p", divided(ones, ones), 2000).p == 1
    # One of five zeros among nine ones: it is theirs in half of all exchanges.
    assert permutation_test("p", divided(ones, np.array([0.0, 1, 1, 1, 1])), 2000).p == 0.5
    drawn = permutation_test("p", divided(np.ones(20), np.zeros(20)), 99)
    assert (drawn.p, drawn.floor) == (0.01, 0.01)


def test_exchanges_that_leave_too_few_searches_do_not_count() -> None:
    """Of 462 ways to exchange eleven searches 252 leave the one that tells nothing in the prior."""
    best = permutation_test("p", divided(np.ones(5), np.zeros(5), missing=1), 2000)
    assert (best.p, best.floor) == pytest.approx((1 / 252, 1 / 252))


@pytest.mark.parametrize(
    ("proposer", "ours", "theirs"),
    [
        ("drawn", Sample(30, (8,)), Sample(8, (3,))),
        ("drawn", Sample(8, (3,)), Sample(30, (8,))),
        ("leans", Sample(40, (4,)), Sample(30, (12,))),
        ("habits", Sample(20, (8,), (0.9, 0.3)), Sample(8, (8,), (0.3, 0.9))),
    ],
)
def test_one_proposer_is_seldom_told_from_itself(proposer: str, ours: Sample, theirs: Sample) -> None:
    """The bound is passed by chance once in ten thousand; `analysis.synthetic` makes more studies."""
    studies, world = 80, PROPOSERS[proposer]
    counts = rejections(world, world, (ours, theirs), range(studies), NONE)
    bound = stats.binom.isf(1e-4, studies, 0.05)
    assert all(counts[part, what] <= bound for part in (GROWS, OSCILLATES) for what in (PRIOR, WITH))


def sometimes_changing(searches: int, probability: float, rng: np.random.Generator) -> Paths:
    """Return paths of six stages whose parameters go up or down at the first two changes, then down."""
    directions = []
    for _ in range(searches):
        changed = rng.random((3, 6)) < probability
        coins = rng.choice((-1, 1), changed.shape)
        directions.append(np.where(changed, np.where(changed.cumsum(axis=1) <= 2, coins, -1), 0).tolist())
    return paths_with(*directions, names="abc")


def test_searches_that_change_more_often_are_seldom_told_from_others_of_the_same_habits() -> None:
    """After three changes nothing has grown: mixed sets would be compared there, and never differ."""
    rng, studies, rejected = np.random.default_rng(0), 60, 0
    for _ in range(studies):
        matched = match(sometimes_changing(40, 0.9, rng), sometimes_changing(40, 0.3, rng), CAPACITY)
        assert matched is not None
        rejected += permutation_test("p", matched, 99).p <= 0.05
    assert rejected <= stats.binom.isf(1e-4, studies, 0.05)


def test_planted_truth_is_told_from_a_drawing_proposer_of_other_lengths() -> None:
    sizes = Sample(12, (8,)), Sample(8, (5,))
    counts = rejections(PLANTED, PROPOSERS["drawn"], sizes, range(5), BUILT_IN)
    assert counts["claim", WITH] >= 4
