from __future__ import annotations

import random
import unicodedata
from collections import Counter
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.tasks.base import Example
from llmzero.tasks.metro import COUNTS, LATIN, Metro

SPLITS = ("train", "val", "test")


def metro(**settings: Any) -> Metro:
    task: Metro = make({"_target_": "llmzero.tasks.metro.Metro", **settings}, "task")
    return task


TASK = metro()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stops": 4, "longest": 9},
        {"stops": len(LATIN), "longest": len(COUNTS) - 1},
        {"seed": 7},
        {"stops": 52},
    ],
)
def test_splits_hold_every_trip_once(settings: dict[str, Any]) -> None:
    task = metro(**settings)
    trips = [example for name in SPLITS for example in task.split(name)]
    stops, longest = task.settings.stops, task.settings.longest
    wanted = {f"{stop}{COUNTS[n]}:" for stop in LATIN[:stops] for n in range(1, longest + 1)}
    assert len(trips) == stops * longest
    assert {example.prompt for example in trips} == wanted
    assert len({example.id for example in trips}) == len(trips)
    assert [e.id for e in metro(**settings).split("val")] == [e.id for e in task.split("val")]


@pytest.mark.parametrize(("longest", "there_are"), [(1, 0), (2, 1)])
def test_a_map_without_problems_to_score_is_refused(longest: int, there_are: int) -> None:
    with pytest.raises(UserError, match=f"task=metro: split val has {there_are} problems .* at least 2"):
        metro(stops=4, longest=longest)


def test_answers_follow_one_ring_of_all_stops() -> None:
    ring, stop = [], LATIN[0]
    for _ in range(104):
        ring.append(stop)
        stop = TASK.successor[stop]
    assert stop == LATIN[0]
    assert sorted(ring) == sorted(LATIN[:104])
    place = {each: i for i, each in enumerate(ring)}
    for name in SPLITS:
        for example in TASK.split(name):
            ahead = place[example.answer] - place[example.prompt[0]]
            assert ahead % 104 == example.meta["length"] == COUNTS.index(example.prompt[1])


def test_another_seed_is_another_map_with_splits_that_stay_disjoint() -> None:
    other = metro(seed=1)
    assert sum(TASK.successor[stop] != other.successor[stop] for stop in TASK.successor) > 90
    assert {e.prompt for e in TASK.split("train")}.isdisjoint(e.prompt for e in other.split("test"))


def test_sizes_are_taken_and_more_than_exist_are_refused() -> None:
    small = metro(train_size=50, val_size=20, test_size=10)
    assert [len(small.split(name)) for name in SPLITS] == [50, 20, 10]
    with pytest.raises(UserError, match=r"task\.val_size=1000: only \d+ distinct problems of metro"):
        metro(val_size=1000).split("val")


EXAMPLE = Example("1", "a3:", "d", {"length": 3})


@pytest.mark.parametrize(
    ("completion", "formatted", "correct"),
    [
        ("b2c1d0", 1, 1),
        ("b2?b2?b2c1?c1d0", 1, 1),
        ("d0", 1, 1),
        ("b2c1d0 \n", 1, 1),
        ("b2c1c0", 1, 0),
        ("d0c0", 1, 0),
        ("b2c1d", 0, 0),
        ("b2c1d0?", 0, 0),
        ("b2c1?d0d", 0, 0),
        ("b2c1d00", 0, 0),
        ("0", 0, 0),
        ("d\uff10", 0, 0),
        ("d٠", 0, 0),
        ("\u03b40", 0, 0),
        ("d0\x00", 0, 0),
        ("", 0, 0),
    ],
)
def test_what_stands_before_the_last_0_counts(completion: str, formatted: float, correct: float) -> None:
    reward = TASK.reward(EXAMPLE, completion)
    assert reward.parts == {"format": formatted, "correct": correct}
    assert reward.value == correct


def test_any_text_is_judged() -> None:
    rng = random.Random(0)
    letters = TASK.alphabet + " \n\x00\ud800é🙂"
    for _ in range(20_000):
        text = "".join(rng.choices(letters, k=rng.choice([1, 2, 5, 40])))
        reward = TASK.reward(EXAMPLE, text)
        ends = text.rstrip()
        assert reward.value == float(ends.endswith("d0")), repr(text)
    assert TASK.reward(EXAMPLE, "d0" * 100_000).value == 1


def test_demonstrations_are_right_and_short() -> None:
    for example in TASK.split("train"):
        assert TASK.reward(example, TASK.demonstration(example)).value == 1
        assert len(TASK.demonstration(example)) == 2 * example.meta["length"]


def hops_of(text: str, length: int) -> list[tuple[int, str, int]]:
    """Return each hop of a writing: the count before it, its stop, and the count that it writes."""
    pairs = [text[i : i + 2] for i in range(0, len(text), 2)] if "?" not in text else []
    counts = [length, *(COUNTS.index(pair[1]) for pair in pairs)]
    return [(before, pair[0], after) for before, pair, after in zip(counts, pairs, counts[1:], strict=False)]


def test_writings_differ_and_go_wrong_as_often_as_is_asked_for() -> None:
    """Each stop of a writing is its predecessor's right or wrong successor, looks again aside."""
    steps: Counter[tuple[str, bool]] = Counter()
    slips: Counter[tuple[int, int]] = Counter()
    for example in TASK.split("train"):
        texts = [TASK.writing(example, number) for number in range(20)]
        assert texts[3] == TASK.writing(example, 3)
        assert example.meta["length"] < 5 or len(set(texts)) > 14
        for text in texts:
            stop = example.prompt[0]
            for before, to, after in hops_of(text, example.meta["length"]):
                assert to in (TASK.successor[stop], TASK.wrong[stop])
                steps[stop, to == TASK.wrong[stop]] += 1
                slips[before, before - after] += 1
                stop = to
    for stop in TASK.successor:
        wrong, right = steps[stop, True], steps[stop, False]
        assert wrong / (wrong + right) == pytest.approx(TASK.wrong_share[stop], abs=0.35)
    share = sum(n for (_, wrong), n in steps.items() if wrong) / sum(steps.values())
    assert share == pytest.approx(0.55, abs=0.03)
    assert {(count, by) for count, by in slips if count <= 5} == {(count, 1) for count in range(1, 6)}
    for count in range(6, 17):
        skipped = slips[count, 2] / (slips[count, 1] + slips[count, 2])
        assert skipped == pytest.approx(TASK.slip_share[count], abs=0.12)
        assert 0.5 <= TASK.slip_share[count] <= 0.6
    assert {by for _, by in slips} == {1, 2}


def test_a_slip_makes_a_trip_end_too_early_and_earns_nothing() -> None:
    always = metro(slip_share=1.0, slip_spread=0.0, wrong_share=0.0, wrong_spread=0.0, recheck=0.0)
    for example in always.split("train"):
        text, length = always.writing(example, 0), example.meta["length"]
        slips = range(length, 5, -2)
        assert len(text) == 2 * (length - len(slips))
        assert always.reward(example, text).value == (0 if slips else 1)
        assert always.reward(example, text).parts["format"] == 1
    never = metro(slip_share=0.0, slip_spread=0.0, wrong_share=0.0, wrong_spread=0.0, recheck=0.0)
    assert all(never.writing(e, 0) == never.demonstration(e) for e in never.split("train"))


def test_looks_again_make_writings_long() -> None:
    steady = metro(slip_share=0.0, slip_spread=0.0)
    long = [e for e in steady.split("train") if e.meta["length"] == 16]
    lengths = sorted(len(steady.writing(e, k)) for e in long for k in range(10))
    assert lengths[0] == 32
    assert lengths[len(lengths) // 2] > 70
    brisk = metro(slip_share=0.0, slip_spread=0.0, recheck=0.0)
    assert {len(brisk.writing(e, 0)) for e in brisk.split("train") if e.meta["length"] == 16} == {32}


def test_wrong_successors_are_neither_the_stop_nor_the_right_one_and_meet_every_stop() -> None:
    for task in (TASK, metro(stops=4), metro(stops=len(LATIN))):
        assert sorted(task.wrong.values()) == sorted(task.wrong)
        assert all(task.wrong[stop] not in (stop, task.successor[stop]) for stop in task.wrong)


def test_characters_are_distinct_and_survive_normalisation() -> None:
    alphabet = metro(stops=len(LATIN), longest=len(COUNTS) - 1).alphabet
    assert len(set(alphabet)) == len(alphabet) == len(LATIN) + len(COUNTS) + 2
    assert "".join(LATIN[:52]) == "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert all(unicodedata.is_normalized("NFKC", stop) for stop in LATIN)
    letters = set(TASK.alphabet)
    assert all(set(e.prompt + TASK.writing(e, 0)) <= letters for e in TASK.split("train"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stops", 3, r"task\.stops=3: must be from 4 to \d+"),
        ("stops", 1000, r"task\.stops=1000: must be from 4 to \d+"),
        ("longest", 0, r"task\.longest=0: must be from 1 to 35"),
        ("longest", 36, r"task\.longest=36: must be from 1 to 35"),
        ("wrong_share", 1.5, r"task\.wrong_share=1\.5: must be from 0 to 1"),
        ("wrong_spread", -0.5, r"task\.wrong_spread=-0\.5: must be from 0 to 1"),
        ("slips_above", 0, r"task\.slips_above=0: must be at least 1"),
        ("slip_share", 1.5, r"task\.slip_share=1\.5: must be from 0 to 1"),
        ("slip_spread", -0.5, r"task\.slip_spread=-0\.5: must be from 0 to 1"),
        ("recheck", -0.1, r"task\.recheck=-0\.1: must be"),
        ("rechecks", -1, r"task\.rechecks=-1: must be"),
        ("concise_share", 2.0, r"task\.concise_share=2\.0: must be"),
        ("val_size", 1, r"task\.val_size=1: must be at least 2"),
    ],
)
def test_settings_that_make_no_map_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metro(**{key: value})
