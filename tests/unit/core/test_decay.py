"""Learning-rate schedules: exact values, in a stage and as a part of a path."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from llmzero.core.decay import DECAYS, decayed
from llmzero.core.errors import UserError
from llmzero.core.stage import covered

WHOLE = (0.0, 1.0)
TENTHS = [step / 10 for step in range(11)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 11),
        ("linear", [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        ("wsd", [1.0] * 9 + [0.55, 0.1]),
    ],
)
def test_a_schedule_has_its_values(schedule: str, expected: list[float]) -> None:
    assert [decayed(schedule, WHOLE, done) for done in TENTHS] == pytest.approx(expected, abs=1e-12)


def test_a_cosine_is_half_a_period() -> None:
    found = [decayed("cosine", WHOLE, done) for done in (0, 0.25, 1 / 3, 0.5, 1)]
    assert found == pytest.approx([1, (2 + math.sqrt(2)) / 4, 0.75, 0.5, 0], abs=1e-12)


@pytest.mark.parametrize("schedule", DECAYS)
def test_parts_of_a_path_join_to_the_whole_and_never_rise(schedule: str) -> None:
    parts = [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)]
    joined = [decayed(schedule, part, done) for part in parts for done in TENTHS]
    whole = [decayed(schedule, WHOLE, a + (b - a) * done) for a, b in parts for done in TENTHS]
    assert joined == whole
    assert all(before >= after for before, after in pairwise(joined))


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="lr_schedule=square: must be one of constant, wsd, cosine, linear"):
        decayed("square", WHOLE, 0.5)
    for wrong in ([0.0], [0.5, 0.2], [-0.1, 1.0], [0.0, 1.1], [0.0, 0.5, 1.0]):
        with pytest.raises(ValueError, match="must be two shares from 0 to 1"):
            covered(wrong)
