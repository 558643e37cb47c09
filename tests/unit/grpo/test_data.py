from __future__ import annotations

import pytest

from llmzero.core.errors import UserError
from llmzero.grpo.data import easiest
from llmzero.tasks.base import Example

PROBLEMS = [
    Example(str(i), "", "", {"difficulty": difficulty}) for i, difficulty in enumerate([3, 1, 2.5, 1, 9, 0])
]


@pytest.mark.parametrize(
    ("share", "chosen"),
    [(1.0, "012345"), (0.99, "513204"), (0.5, "513"), (0.34, "51"), (0.17, "5"), (0.02, "5")],
)
def test_a_share_is_the_easiest_and_of_equals_the_first(share: float, chosen: str) -> None:
    assert "".join(example.id for example in easiest(PROBLEMS, share)) == chosen


@pytest.mark.parametrize("meta", [{}, {"difficulty": "hard"}, {"difficulty": None}])
def test_problems_that_do_not_tell_their_difficulty_are_taken_as_a_whole_or_refused(
    meta: dict[str, object],
) -> None:
    problems = [*PROBLEMS, Example("6", "", "", meta)]
    assert easiest(problems, 1.0) is problems
    with pytest.raises(UserError, match=r"easiest=0\.5: the task's problems do not all have a number"):
        easiest(problems, 0.5)
