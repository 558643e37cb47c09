from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.tasks.base import Example
from llmzero.tasks.tower import Tower

SPLITS = ("train", "val", "test")


def tower(**settings: Any) -> Tower:
    task: Tower = make({"_target_": "llmzero.tasks.tower.Tower", **settings}, "task")
    return task


TASK = tower()
EXAMPLES = [example for name in SPLITS for example in TASK.split(name)]


def test_splits_have_the_stated_sizes_and_share_no_problem() -> None:
    assert [len(TASK.split(name)) for name in SPLITS] == [540, 180, 180]
    assert len({example.prompt for example in EXAMPLES}) == 900
    assert [e.id for e in tower().split("val")] == [e.id for e in TASK.split("val")]
    other = tower(seed=1)
    assert {e.prompt for e in TASK.split("train")}.isdisjoint(e.prompt for e in other.split("test"))
    assert sum(TASK.behind[way] != other.behind[way] for way in TASK.behind) > 90


def test_short_ways_are_few_and_all_there() -> None:
    """10 rooms and 2 doors a floor: 20 ways of one floor, 40 of two; 60 % of the problems are in train."""
    lengths = Counter(example.meta["length"] for example in EXAMPLES)
    assert (lengths[1], lengths[2], lengths[3]) == (20, 40, 80)
    assert lengths[6] > 200
    assert all(e.meta["difficulty"] == e.meta["length"] == len(e.prompt) - 2 for e in EXAMPLES)


def test_answers_follow_the_doors_up_floor_by_floor() -> None:
    for example in EXAMPLES:
        room = example.prompt[0]
        assert room in TASK.rooms[0]
        for floor, door in enumerate(example.prompt[1:-1]):
            assert door in TASK.doors[floor]
            room = TASK.behind[room, door]
            assert room in TASK.rooms[floor + 1]
        assert room == example.answer


def test_every_room_is_behind_one_door_of_each_kind() -> None:
    assert len(TASK.behind) == 6 * 10 * 2
    for floor, doors in enumerate(TASK.doors):
        for door in doors:
            behind = [TASK.behind[room, door] for room in TASK.rooms[floor]]
            assert sorted(behind) == sorted(TASK.rooms[floor + 1])


def test_demonstrations_are_right() -> None:
    for example in EXAMPLES:
        assert TASK.reward(example, TASK.demonstration(example)).value == 1
        assert set(example.prompt + TASK.demonstration(example)) <= set(TASK.alphabet)


def test_writings_err_as_often_as_is_asked_for_and_stay_on_their_floors() -> None:
    errors: Counter[bool] = Counter()
    for example in TASK.split("train"):
        assert TASK.writing(example, 3) == TASK.writing(example, 3)
        assert TASK.careless(example) == TASK.writing(example, 0)
        for number in range(20):
            room = example.prompt[0]
            for door, named in zip(example.prompt[1:-1], TASK.writing(example, number), strict=True):
                assert named in (TASK.behind[room, door], TASK.wrong[room, door])
                errors[named == TASK.wrong[room, door]] += 1
                room = named
    assert errors[True] / errors.total() == pytest.approx(0.7, abs=0.02)
    shares = TASK.wrong_share.values()
    assert 0.6 <= min(shares) < 0.62
    assert 0.78 < max(shares) <= 0.8
    assert all(TASK.wrong[way] != TASK.behind[way] for way in TASK.behind)
    faultless = tower(wrong_share=0.0, wrong_spread=0.0)
    assert all(faultless.writing(e, 0) == faultless.demonstration(e) for e in faultless.split("val"))


EXAMPLE = Example("1", "a02:", "z", {"length": 2, "difficulty": 2})


@pytest.mark.parametrize(
    ("completion", "formatted", "correct"),
    [
        ("kz", 1, 1),
        ("zz", 1, 1),
        (" kz\n", 1, 1),
        ("kx", 1, 0),
        ("zk", 1, 0),
        ("z", 0, 0),
        ("kkz", 0, 0),
        ("k z", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_last_room_counts_in_an_answer_of_the_right_length(
    completion: str, formatted: float, correct: float
) -> None:
    reward = TASK.reward(EXAMPLE, completion)
    assert reward.parts == {"format": formatted, "correct": correct}
    assert reward.value == correct


def test_any_text_is_judged() -> None:
    rng = random.Random(0)
    for _ in range(5000):
        text = "".join(rng.choices(TASK.alphabet + " \n\x00\ud800é🙂", k=rng.choice([1, 2, 3])))
        assert TASK.reward(EXAMPLE, text).value == float(len(text.strip()) == 2 and text.strip()[1] == "z")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rooms": 2}, r"task\.rooms=2: must be at least 3"),
        ({"rooms": 100}, r"task\.rooms=100: 700 rooms on 6 floors have no character each"),
        ({"doors": 7}, r"task\.doors=7: 42 doors on 6 floors have no character each, of which there are 36"),
        ({"floors": 0}, r"task\.floors=0: must be at least 1"),
        ({"wrong_share": 1.5}, r"task\.wrong_share=1\.5: must be from 0 to 1"),
        ({"wrong_spread": -1.0}, r"task\.wrong_spread=-1\.0: must be from 0 to 1"),
        ({"val_size": 1}, r"task\.val_size=1: must be at least 2"),
    ],
)
def test_settings_that_make_no_tower_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tower(**settings)


def test_more_problems_than_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"task\.train_size=5000: only \d+ distinct problems of tower"):
        tower(train_size=5000).split("train")
