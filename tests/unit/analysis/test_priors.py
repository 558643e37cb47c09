"""The test against a proposer's prior: what is compared, the statistic, and how often it errs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from analysis.claim import CLAIM, only_grew, turning_share
from analysis.dynamics import judge_part
from analysis.paths import Paths, SearchPath, Signs
from analysis.priors import Matched, first_changes, match, permutation_test, welch
from analysis.synthetic import PRIOR, PROPOSERS, SUPPORTED, Sample, unequal_rejections
from analysis.synthetic_searches import PLANTED

GROWS, OSCILLATES = (part.says for part in CLAIM)


def paths_with(*searches: Sequence[Sequence[int]], names: Sequence[str] = ("a", "b")) -> Paths:
    """Return paths of capacity parameters; of each search the directions of each parameter."""
    paths = Paths(list(names), np.array(["capacity"] * len(names)))
    for number, columns in enumerate(searches):
        signs: Signs = np.array(columns, np.int8).T
        start = np.full(len(names), 0.5)
        paths.best.append(SearchPath(str(number), "e", signs, start, np.full(len(names), np.nan)))
    return paths


def test_only_the_first_changes_are_left() -> None:
    signs = np.array([[1, 0], [0, -1], [-1, 0], [1, 1], [1, 1]], np.int8)
    assert first_changes(signs, 2).tolist() == [[1, 0], [0, -1], [-1, 0], [0, 1], [0, 0]]


def test_sets_are_compared_after_as_many_changes_as_both_made() -> None:
    """Ours turn at their third and fourth change, when the others had stopped to change anything."""
    ours = paths_with(*[[[1, 1, -1, 1], [0, 1, 1, -1]]] * 6)
    theirs = paths_with(*[[[1, 0, 1], [0, -1, 0]]] * 6)
    matched = match(ours, theirs, "capacity", only_grew)
    assert matched is not None
    assert (matched.changes, matched.parameters) == (2, 1)
    assert (matched.ours.tolist(), matched.theirs.tolist()) == ([1.0] * 6, [1.0] * 6)


def test_the_numbers_compared_are_those_with_the_most_possible_turns() -> None:
    """Three changes of both parameters leave four possible turns, two leave two, four of one leave three."""
    longer, shorter = [[1, -1, 1, 1], [1, 1, -1, 0]], [[1, 1, 1, -1], [1, 1, -1, 0]]
    matched = match(paths_with(*[longer] * 5), paths_with(*[shorter] * 5), "capacity", turning_share)
    assert matched is not None
    assert (matched.changes, matched.parameters) == (3, 2)
    assert matched.ours == pytest.approx([(1 + 0.5) / 2] * 5)
    assert matched.theirs == pytest.approx([(0 + 0.5) / 2] * 5)


def test_of_each_search_those_parameters_count_that_were_first() -> None:
    """One of six searches of the prior changes one parameter; so one counts, that which was first."""
    ours = paths_with(*[[[0, -1, -1], [1, 1, 0]]] * 6)
    theirs = paths_with(*[[[-1, -1], [0, 0]]] * 2, *[[[0, 0], [1, 1]]] * 4)
    matched = match(ours, theirs, "capacity", only_grew)
    assert matched is not None
    assert (matched.changes, matched.parameters) == (2, 1)
    # Parameter b grew in all searches that count it, so none differs from its mean; the level is the mean of
    # the means of a (0) and b (1).
    assert (matched.ours.tolist(), matched.theirs.tolist()) == ([0.5] * 6, [0.5] * 6)


def test_a_fifth_of_the_searches_may_change_less() -> None:
    often, seldom = [[1, -1, 1]], [[1, -1, 0]]
    sets = [paths_with(*[often] * n, *[seldom] * (10 - n), names="a") for n in (8, 7)]
    few = match(sets[0], sets[1], "capacity", turning_share)
    assert few is not None
    assert (few.changes, len(few.ours), len(few.theirs)) == (2, 10, 10)
    enough = match(sets[0], sets[0], "capacity", turning_share)
    assert enough is not None
    assert (enough.changes, len(enough.ours), len(enough.theirs)) == (3, 8, 8)


def test_fewer_than_five_comparable_searches_are_too_little_data() -> None:
    ours = paths_with(*[[[1, 1, 1], [1, 1, 1]]] * 8)
    few = paths_with(*[[[1, -1, 1], [1, 1, 1]]] * 4)
    other = paths_with(*[[[1, -1, 1], [1, 1, 1]]] * 8, names=("c", "d"))
    assert match(ours, few, "capacity", only_grew) is None
    assert match(ours, other, "capacity", only_grew) is None
    judged = judge_part(CLAIM[0], [], ours, {"blind": other}, 8, 100)
    assert judged["verdict"] == "too little data"
    assert "with blind too little is comparable: of both sets at least 5 searches" in judged["why"]


def test_welch_by_hand() -> None:
    """Means 2/3 and 0, variance 1/3 of three: t = (2/3) / sqrt(1/9)."""
    zeros, ones = np.zeros(3), np.ones(4)
    assert welch(np.array([1.0, 1.0, 0.0]), zeros) == pytest.approx(2.0, abs=1e-4)
    assert welch(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0])) == pytest.approx(
        1 / np.sqrt(4 / 3), abs=1e-4
    )
    assert welch(np.full(3, 0.1), np.full(7, 0.1)) == 0
    assert welch(ones, zeros) > 1e5
    assert welch(zeros, ones) < -1e5


def test_p_is_exact_where_few_exchanges_are_possible() -> None:
    ones, zeros = np.ones(5), np.zeros(5)
    best = permutation_test("p", Matched(2, 1, ones, zeros), 2000)
    assert (best.p, best.floor) == pytest.approx((1 / 252, 1 / 252))
    assert permutation_test("p", Matched(2, 1, zeros, ones), 2000).p == 1
    assert permutation_test("p", Matched(2, 1, ones, ones), 2000).p == 1
    # One of five zeros among nine ones: it is theirs in half of all exchanges.
    assert permutation_test("p", Matched(2, 1, ones, np.array([0.0, 1, 1, 1, 1])), 2000).p == 0.5
    drawn = permutation_test("p", Matched(2, 1, np.ones(20), np.zeros(20)), 99)
    assert (drawn.p, drawn.floor) == (0.01, 0.01)


@pytest.mark.parametrize(
    ("proposer", "ours", "theirs"),
    [
        ("drawn", Sample(30, 8), Sample(8, 3)),
        ("drawn", Sample(8, 3), Sample(30, 8)),
        ("leans: 75 % of the changes go up, or turn", Sample(40, 4), Sample(30, 12)),
        ("habits", Sample(20, 8, (0.9, 0.3)), Sample(8, 8, (0.3, 0.9))),
    ],
)
def test_one_proposer_is_seldom_told_from_itself(proposer: str, ours: Sample, theirs: Sample) -> None:
    """The bound is passed by chance once in ten thousand; `analysis.synthetic` makes more studies."""
    studies, world = 80, PROPOSERS[proposer]
    counts = unequal_rejections(world, world, (ours, theirs), range(studies))
    bound = stats.binom.isf(1e-4, studies, 0.05)
    assert all(counts[part, what] <= bound for part in (GROWS, OSCILLATES) for what in (PRIOR, SUPPORTED))


def test_planted_truth_is_told_from_a_drawing_proposer_of_other_lengths() -> None:
    world = PROPOSERS["drawn"]
    counts = unequal_rejections(PLANTED, world, (Sample(12, 8), Sample(8, 5)), range(5))
    assert counts["claim", SUPPORTED] >= 4
