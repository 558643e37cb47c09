"""The statistics of comparisons against slow obvious versions and known cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from llmzero.studies.statistics import (
    Array,
    band,
    holm,
    improvement,
    interquartile_mean,
    interval,
    mean,
    mean_interval,
    normalised,
    ranks,
    step_function,
    wilcoxon,
)

SCORES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=8).map(np.array)
TASKS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=3)


def normal(seed: int, *shape: int, at: float = 0.0) -> Array:
    return np.random.default_rng(seed).normal(at, 1.0, shape)


@given(TASKS)
def test_improvement_counts_pairs_of_runs_on_the_same_task(tasks: list[tuple[Array, Array]]) -> None:
    slow = [
        np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(a, b)])
        for a, b in tasks
    ]
    assert improvement(*zip(*tasks, strict=True)) == pytest.approx(np.mean(slow))


def test_improvement_is_the_statistic_of_mann_and_whitney() -> None:
    a, b = normal(0, 20, at=0.3), normal(1, 15)
    assert improvement([a], [b]) == pytest.approx(stats.mannwhitneyu(a, b).statistic / (20 * 15))


def test_improvement_of_known_cases() -> None:
    low, high = np.array([0.1, 0.2]), np.array([0.3, 0.4])
    assert improvement([high, high], [low, low]) == 1.0
    assert improvement([low, high], [high, low]) == 0.5
    assert improvement([low], [low]) == 0.5


def test_the_mean_counts_tasks_alike() -> None:
    assert mean([np.array([1.0]), np.array([0.0, 0.0, 0.0])]) == 0.5


@given(TASKS)
def test_the_interquartile_mean_is_scipys_trimmed_mean(tasks: list[tuple[Array, Array]]) -> None:
    scores = [a for a, _ in tasks]
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(np.concatenate(scores), 0.25))


def test_the_interquartile_mean_ignores_an_outlier() -> None:
    assert interquartile_mean([np.array([1.0, 1.0, 1.0, 100.0])]) == 1.0


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_statistics_of_all_resamples_at_once_are_those_of_each(statistic: object) -> None:
    resampled = [normal(0, 7, 5), normal(1, 7, 3)]
    assert statistic(resampled) == pytest.approx(
        [float(statistic([task[i] for task in resampled])) for i in range(7)]
    )


def test_an_interval_of_many_runs_is_scipys_bootstrap() -> None:
    scores = normal(2, 3000)
    ours = interval(mean, [scores], draws=20_000)
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.value, ours.low, ours.high) == pytest.approx(
        (scores.mean(), theirs.low, theirs.high), abs=0.005
    )


def test_the_interval_of_a_mean_is_students() -> None:
    scores, others = normal(2, 7), 3 * normal(3, 4)
    ours, theirs = mean_interval([scores]), stats.ttest_1samp(scores, 0.0).confidence_interval()
    assert (ours.value, ours.low, ours.high) == pytest.approx((scores.mean(), theirs.low, theirs.high))
    difference = mean_interval([scores], [others])
    welch = stats.ttest_ind(scores, others, equal_var=False).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high))


def test_an_interval_is_drawn_within_tasks() -> None:
    """Tasks that lie far apart add nothing to the width, as no resample has more of one than of the other."""
    tasks = [np.full(5, 0.0), np.full(5, 100.0)]
    for apart in (interval(mean, tasks), mean_interval(tasks)):
        assert (apart.low, apart.value, apart.high) == (50.0, 50.0, 50.0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    intervals = [
        interval(mean, [normal(seed, 20), normal(1000 + seed, 20)], draws=400) for seed in range(300)
    ]
    assert 0.89 < np.mean([each.low <= 0.0 <= each.high for each in intervals]) < 0.98


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_means_of_few_runs_cover_the_truth_as_often_as_they_say(seeds: int) -> None:
    intervals = [mean_interval([normal(i, seeds), 5 * normal(9999 + i, seeds)]) for i in range(2000)]
    covered = np.mean([each.low <= 0.0 <= each.high for each in intervals])
    assert 0.935 < covered < 0.985
    if seeds > 3:
        resampled = [interval(mean, [normal(i, seeds)]) for i in range(500)]
        assert np.mean([each.low <= 0.0 <= each.high for each in resampled]) > 0.88


def test_an_interval_is_the_same_each_time() -> None:
    a, b = [normal(0, 10)], [normal(1, 10)]
    assert interval(improvement, a, b) == interval(improvement, a, b)


def test_one_run_has_an_interval_without_width() -> None:
    assert interval(mean, [np.array([0.4])]) == interval(interquartile_mean, [np.array([0.4])])
    assert interval(mean, [np.array([0.4])]).low == mean_interval([np.array([0.4])]).low == 0.4


def test_a_band_is_the_interval_of_each_point() -> None:
    curves = normal(3, 25, 4)
    middle, low, high = band(curves)
    for point in range(4):
        alone = mean_interval([curves[:, point]])
        assert (middle[point], low[point], high[point]) == pytest.approx((alone.value, alone.low, alone.high))
    assert [each.tolist() for each in band(curves[:1])] == [curves[0].tolist()] * 3


@given(
    st.lists(st.integers(1, 9), min_size=0, max_size=5, unique=True),
    st.lists(st.integers(0, 10), min_size=1, max_size=6),
)
def test_a_step_function_holds_the_last_value(changes: list[int], grid: list[int]) -> None:
    positions = np.array([0, *sorted(changes)], float)
    values = np.arange(len(positions), dtype=float)
    slow = [
        max(value for position, value in zip(positions, values, strict=True) if position <= at) for at in grid
    ]
    assert step_function(positions, values, np.array(grid, float)).tolist() == slow


def test_scores_between_base_and_best() -> None:
    assert normalised(np.array([0.2, 0.3, 0.4]), 0.2, 0.4).tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert normalised(np.array([0.2, 0.1]), 0.2, 0.2).tolist() == [0.0, 0.0]


@given(st.lists(st.lists(st.integers(0, 3).map(float), min_size=3, max_size=3), min_size=1, max_size=4))
def test_ranks_are_scipys(rows: list[list[float]]) -> None:
    assert ranks(np.array(rows)).tolist() == [
        stats.rankdata([-score for score in row]).tolist() for row in rows
    ]


def test_wilcoxon_of_known_cases() -> None:
    """Six pairs that all favour the same side: 2 of the 64 assignments of signs are as extreme."""
    b = np.arange(6.0)
    assert wilcoxon(b + np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), b) == pytest.approx(2 / 64)
    assert wilcoxon(b, b) == 1.0


def signed_rank(differences: list[int]) -> float:
    """The exact p-value by all assignments of signs."""
    signed = np.array([each for each in differences if each])
    order = stats.rankdata(np.abs(signed))
    sums = np.array([*itertools.product((0, 1), repeat=len(signed))]) @ order
    ours = order[signed > 0].sum()
    return min(1.0, 2 * min(np.mean(sums <= ours), np.mean(sums >= ours)))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.sampled_from([0.1, 0.01, 0.05, 1e-4, 100.0, 1 / 3]),
)
@example([(4, 3), (8, 9), (4, 3), (8, 7), (2, 1), (1, 0), (1, 0)], 0.1)
def test_wilcoxon_of_decimals_is_that_of_the_whole_numbers(pairs: list[tuple[int, int]], unit: float) -> None:
    """0.4 - 0.3 and 0.8 - 0.7 are no equal floats."""
    a, b = np.array(pairs, float).T * unit
    exact = signed_rank([x - y for x, y in pairs])
    assert wilcoxon(a, b) == pytest.approx(exact)
    assert wilcoxon(1 - b, 1 - a) == pytest.approx(exact)


@pytest.mark.parametrize("unit", [0.1, 1 / 1319, 1 / 3])
@pytest.mark.parametrize("n", [14, 17])
def test_wilcoxon_with_ties_is_exact_for_more_pairs_too(n: int, unit: float) -> None:
    """The normal approximation gives up to a quarter less there."""
    a, b = np.random.default_rng(n).integers([[1], [0]], [[9], [7]], (2, n))
    assert len({*np.abs(a - b)} - {0}) < n
    assert wilcoxon(a * unit, b * unit) == pytest.approx(signed_rank([*(a - b)]))


def test_wilcoxon_of_many_pairs_without_ties_is_scipys() -> None:
    a, b = normal(0, 300), normal(1, 300, at=0.2)
    assert wilcoxon(a, b) == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue)


def test_wilcoxon_ties_differences_wherever_they_are_cut() -> None:
    """0.0001 / 0.8192 lies between two decimals of twelve digits."""
    b = np.array([0.8191, 0.1, 0.2, 0.3, 0.7, 0.6])
    a = b + np.array([1, -1, 1, -1, 1, 2]) * 1e-4
    assert wilcoxon(a.round(4), b) == pytest.approx(signed_rank([1, -1, 1, -1, 1, 2]))


def test_holm_of_a_known_case() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    rejected, level = set(), 0.05
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected
