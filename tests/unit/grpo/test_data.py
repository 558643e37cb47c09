from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from llmzero.core.errors import UserError
from llmzero.grpo.data import easiest
from llmzero.tasks.base import Example
from llmzero.tasks.jsonl import JsonLines, JsonLinesSettings
from llmzero.tasks.metro import Metro, MetroSettings

PROBLEMS = [
    Example(str(i), "", "", {"difficulty": difficulty}) for i, difficulty in enumerate([3, 1, 2.5, 1, 9, 0])
]


@pytest.mark.parametrize(
    ("share", "chosen"),
    [(1.0, "012345"), (0.99, "513204"), (0.5, "513"), (0.34, "51"), (0.17, "5"), (0.02, "5")],
)
def test_a_share_is_the_easiest_and_of_equals_the_first(share: float, chosen: str) -> None:
    assert "".join(example.id for example in easiest(PROBLEMS, share)) == chosen


@pytest.mark.parametrize("meta", [{}, {"difficulty": "hard"}, {"difficulty": None}, {"difficulty": math.nan}])
def test_problems_that_do_not_tell_their_difficulty_are_taken_as_a_whole_or_refused(
    meta: dict[str, object],
) -> None:
    problems = [*PROBLEMS, Example("6", "", "", meta)]
    assert easiest(problems, 1.0) is problems
    with pytest.raises(UserError, match=r"easiest=0\.5: the task's problems do not all have a number"):
        easiest(problems, 0.5)


def test_lines_of_a_file_and_trips_tell_their_difficulty(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    lines = [
        {"prompt": str(i), "answer": "1", "difficulty": 10 - i, "split": ("train", "val", "test")[i % 3]}
        for i in range(12)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    problems = JsonLines(JsonLinesSettings(path=str(file))).split("train")
    assert [example.prompt for example in easiest(problems, 0.5)] == ["9", "6"]
    trips = Metro(MetroSettings()).split("train")
    assert {len(easiest(trips, share)) for share in (0.1, 1.0)} == {round(len(trips) / 10), len(trips)}
    assert max(example.meta["length"] for example in easiest(trips, 0.1)) == 2
