from __future__ import annotations

import pytest

from llmzero.core.length import Length


def test_steps_and_flops_exclude_each_other() -> None:
    for values in ((None, None), (4, 1e9)):
        with pytest.raises(ValueError, match="one of them has to be null"):
            Length(*values)


def test_a_length_in_steps_ends_with_its_last_step_whatever_the_compute() -> None:
    length = Length(steps=4)
    assert [length.ends(step, None) for step in range(6)] == [False] * 4 + [True] * 2
    assert [length.share(step, 1e9) for step in (0, 1, 4, 5)] == [0, 0.25, 1, 1]
    assert length.left(3, None) == 1
    assert (Length(steps=0).ends(0, 0.0), Length(steps=0).share(0, 0.0)) == (True, 1.0)


@pytest.mark.parametrize(("flops", "steps"), [(1, 1), (14, 1), (16, 2), (24, 2), (26, 3), (44, 4), (46, 5)])
def test_a_length_in_flops_ends_with_the_nearest_step_and_has_at_least_one(flops: float, steps: int) -> None:
    length = Length(flops=flops)
    assert next(step for step in range(10) if length.ends(step, 10.0 * step)) == steps


def test_a_share_of_flops_is_that_of_what_was_computed() -> None:
    length = Length(flops=40.0)
    assert [length.share(3, flops) for flops in (0.0, 10.0, 50.0)] == [0.0, 0.25, 1.0]
    assert length.left(3, 10.0) == 30.0


@pytest.mark.parametrize(
    ("length", "each", "validations", "due"),
    [
        (Length(steps=10), 5.0, None, [4, 8, 10]),
        (Length(steps=10), 5.0, 4, [3, 5, 8, 10]),
        (Length(flops=50.0), 5.0, 4, [3, 5, 8, 10]),
        (Length(steps=3), 5.0, 8, [1, 2, 3]),
        (Length(flops=52.0), 5.0, 2, [6, 10]),
    ],
)
def test_validations_are_spread_evenly_and_one_stands_at_the_end(
    length: Length, each: float, validations: int | None, due: list[int]
) -> None:
    def is_due(step: int) -> bool:
        return length.is_due(step, each * (step - 1), each * step, 4, validations)

    assert [
        step for step in range(1, 11) if not length.ends(step - 1, each * (step - 1)) and is_due(step)
    ] == due
