"""What pilots are ruled by."""

from __future__ import annotations

import pytest

from llmzero.runners.pilot_plan import (
    MARGIN,
    expected_seconds,
    fits,
    is_leaving,
    longest_expected,
    pilots_to_submit,
)

FINISHED = [[16, 100.0], [16, 120.0], [0, 30.0], [4, 40.0]]


@pytest.mark.parametrize(
    ("steps", "finished", "seconds"),
    [
        (16, FINISHED, 120.0),  # the longest of as many steps
        (0, FINISHED, 30.0),
        (32, FINISHED, 960.0),  # by the slowest step: validation of a stage without steps counts as one
        (32, [[16, 100.0], [16, 120.0]], 240.0),
        (8, [[16, 100.0]], 100.0),  # no shorter than a whole one, most of which may be its start
    ],
)
def test_a_stage_is_expected_to_take_as_long_as_the_longest_alike(
    steps: int, finished: list[list[float]], seconds: float
) -> None:
    assert expected_seconds(steps, finished) == pytest.approx(MARGIN * seconds)


def test_nothing_is_expected_of_the_first_stage() -> None:
    assert expected_seconds(16, []) is None


@pytest.mark.parametrize(
    ("expected", "left", "whole", "taken"),
    [
        (None, 10.0, 3600.0, True),  # nothing known: try
        (None, 0.0, 3600.0, False),  # no time at all
        (100.0, 100.0, 3600.0, True),
        (101.0, 100.0, 3600.0, False),
        (5000.0, 3500.0, 3600.0, True),  # longer than any pilot: by one that has just begun
        (5000.0, 1700.0, 3600.0, False),
        (1e9, None, None, True),  # no time limit
    ],
)
def test_a_stage_is_taken_where_it_fits(
    expected: float | None, left: float | None, whole: float | None, taken: bool
) -> None:
    assert fits(expected, left, whole) is taken


def test_a_pilot_is_replaced_as_early_as_pilots_wait_in_the_queue() -> None:
    assert longest_expected([[16, 250.0], [0, 30.0]]) == MARGIN * 250.0 == 300.0
    assert not is_leaving(1000.0, 3600.0, 300.0, 600.0)
    assert is_leaving(899.0, 3600.0, 300.0, 600.0)
    assert is_leaving(299.0, 3600.0, 300.0, 0.0)
    assert not is_leaving(None, 3600.0, 300.0, 600.0)
    assert not is_leaving(601.0, 3600.0, None, 600.0), "nothing is known of stages"
    assert is_leaving(599.0, 3600.0, None, 600.0)
    assert not is_leaving(601.0, 3600.0, 4000.0, 600.0), "a stage longer than it uses it to its end"


@pytest.mark.parametrize(
    ("stages", "serving", "alive", "max_gpus", "more"),
    [
        (0, 0, 0, None, 0),
        (1, 0, 0, None, 1),  # no more than stages
        (9, 0, 0, None, 4),  # no more than `pilots`
        (9, 3, 3, None, 1),
        (9, 4, 4, None, 0),
        (2, 4, 4, None, 0),  # more than are wanted are left alone
        (9, 3, 4, None, 1),  # one is about to leave: its successor is asked for
        (9, 3, 4, 8, 0),  # but not beyond the cap, 2 devices each
        (9, 0, 0, 5, 2),
        (9, 0, 8, None, 0),  # one replacement each
        (9, 0, 7, None, 1),
    ],
)
def test_pilots_are_as_many_as_there_is_work_for(
    stages: int, serving: int, alive: int, max_gpus: int | None, more: int
) -> None:
    assert pilots_to_submit(stages, serving, alive, 4, 2, max_gpus) == more
