from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmzero.grpo.advantages import group_advantages, informative, soft_overlong_penalty, whiten

REWARDS = [1.0, 0.0, 0.2, 0.0, 0.5, 0.9, 0.1, 0.3, 0.7, 0.7, 0.7, 0.7]
FLOOR = 1e-4


def scaled(rewards: list[float]) -> list[float]:
    mean, deviation = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [(r - mean) / (deviation + FLOOR) if deviation > FLOOR else 0.0 for r in rewards]


def centred(rewards: list[float]) -> list[float]:
    return [r - statistics.fmean(rewards) for r in rewards]


def against_the_others(rewards: list[float]) -> list[float]:
    return [r - statistics.fmean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]


@pytest.mark.parametrize(
    ("baseline", "slow"), [("mean_std", scaled), ("mean", centred), ("leave_one_out", against_the_others)]
)
@pytest.mark.parametrize("group_size", [2, 3, 4, 6, 12])
def test_advantages_compare_a_completion_with_its_own_group(
    baseline: str, slow: Callable[[list[float]], list[float]], group_size: int
) -> None:
    found = group_advantages(torch.tensor(REWARDS), group_size, baseline)
    expected = [a for i in range(0, len(REWARDS), group_size) for a in slow(REWARDS[i : i + group_size])]
    assert max(map(abs, expected)) > 0.3
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("baseline", ["mean_std", "mean", "leave_one_out"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, 1.0])
def test_equal_rewards_teach_nothing(baseline: str, reward: float) -> None:
    """Rounding errors of a mean divided by a deviation of zero would otherwise be a gradient."""
    found = group_advantages(torch.full((7,), reward), 7, baseline)
    assert float(found.abs().max()) < 1e-6
    assert baseline != "mean_std" or found.tolist() == [0.0] * 7


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8), st.floats(0.5, 2), st.floats(-1, 1))
def test_scaled_advantages_do_not_depend_on_the_scale_of_rewards(
    rewards: list[float], scale: float, shift: float
) -> None:
    values = torch.tensor([*rewards, 0.0, 1.0], dtype=torch.float64)
    found = group_advantages(values, 5)
    assert float(found.view(2, 5).mean(1).abs().max()) < 1e-9
    assert float(found.view(2, 5)[1].abs().max()) > 0.5
    moved = group_advantages(values * scale + shift, 5)
    informative = values.view(2, 5).std(1, correction=0) > 0.05
    torch.testing.assert_close(
        moved.view(2, 5)[informative], found.view(2, 5)[informative], rtol=1e-2, atol=1e-9
    )


def test_whitened_advantages_have_mean_zero_and_deviation_one_over_the_batch() -> None:
    advantages = [2.0, -1.0, 0.5, 4.0, 3.0]
    mean, deviation = statistics.fmean(advantages), statistics.pstdev(advantages)
    found = whiten(torch.tensor(advantages))
    assert found.tolist() == pytest.approx([(a - mean) / (deviation + FLOOR) for a in advantages])
    assert statistics.fmean(found.tolist()) == pytest.approx(0, abs=1e-6)
    assert statistics.pstdev(found.tolist()) == pytest.approx(1, abs=1e-3)
    assert whiten(torch.zeros(4)).tolist() == [0.0] * 4


def test_overlong_penalty_falls_over_the_buffer_from_zero_to_minus_one() -> None:
    lengths = torch.tensor([1, 79, 80, 81, 90, 99, 100])
    assert soft_overlong_penalty(lengths, 100, 20).tolist() == pytest.approx(
        [0, 0, 0, -0.05, -0.5, -0.95, -1]
    )
    assert soft_overlong_penalty(torch.tensor([99, 100]), 100, 1).tolist() == [0, -1]


@pytest.mark.parametrize("baseline", ["mean_std", "mean", "leave_one_out"])
@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=8, max_size=8), st.integers(-7, 0))
def test_a_group_counts_as_informative_where_it_has_advantages(
    baseline: str, rewards: list[float], exponent: int
) -> None:
    """Whatever the size of the differences, by numpy in float64: no group counts and teaches nothing."""
    values = np.array(rewards) * 10.0**exponent
    deviations = values.reshape(-1, 4).std(axis=1)
    assume(bool((abs(deviations - FLOOR) > 1e-9).all()))
    given_rewards = torch.tensor(values)
    expected = (deviations > FLOOR).tolist()
    assert informative(given_rewards, 4).tolist() == expected
    advantages = group_advantages(given_rewards, 4, baseline).view(-1, 4)
    assert (advantages != 0).any(1).tolist() == expected


@pytest.mark.parametrize("baseline", ["mean_std", "mean", "leave_one_out"])
@pytest.mark.parametrize(("difference", "counts"), [(1e-6, False), (1e-4, False), (1e-3, True)])
def test_differences_that_are_none_have_no_advantages(baseline: str, difference: float, counts: bool) -> None:
    rewards = torch.tensor([0.0, difference])
    assert informative(rewards, 2).tolist() == [counts]
    assert bool(group_advantages(rewards, 2, baseline).any()) == counts


def test_groups_of_equal_rewards_are_not_informative() -> None:
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.2, 0.1])
    assert informative(rewards, 3).tolist() == [False, False, False, True]
    assert informative(torch.tensor([1.0, 1.0, 0.0, 0.0]), 4).tolist() == [True]
