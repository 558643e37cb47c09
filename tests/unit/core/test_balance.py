from __future__ import annotations

import pytest

from llmzero.core.balance import balanced


@pytest.mark.parametrize(
    ("right", "most", "shown"),
    [
        ([0, 0, 0, 1, 0, 1, 1], 4, [0, 1, 3, 5]),
        ([0, 0, 0, 0, 1], 4, [0, 1, 2, 4]),
        ([1, 1, 1, 1, 0], 4, [0, 1, 2, 4]),
        ([1, 0], 6, [0, 1]),
        ([0, 0, 0], 2, [0, 1]),
        ([1, 0, 1], 0, []),
    ],
)
def test_right_and_wrong_ones_are_shown_alike_as_far_as_there_are(
    right: list[int], most: int, shown: list[int]
) -> None:
    assert balanced(range(len(right)), [bool(value) for value in right], most) == shown
