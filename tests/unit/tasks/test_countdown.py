from __future__ import annotations

import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzero.core.errors import UserError
from llmzero.tasks.base import Example
from llmzero.tasks.countdown import Countdown, CountdownSettings
from llmzero.tasks.expressions import evaluate


@pytest.fixture(scope="module", params=["nano", "full"])
def task(request: pytest.FixtureRequest) -> Countdown:
    return Countdown(
        CountdownSettings(difficulty=request.param, train_size=1500, val_size=150, test_size=150)
    )


def test_splits_have_the_stated_size_and_share_no_problem(task: Countdown) -> None:
    splits = {name: task.split(name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 1500, "val": 150, "test": 150}
    problems = [
        (tuple(sorted(e.meta["numbers"])), e.meta["target"]) for split in splits.values() for e in split
    ]
    assert len(set(problems)) == 1800


def test_splits_stay_disjoint_across_seeds_and_are_the_same_on_every_call() -> None:
    a, b = (
        Countdown(CountdownSettings(seed=0, train_size=2000, val_size=200, test_size=200)),
        Countdown(CountdownSettings(seed=1, train_size=2000, val_size=200, test_size=200)),
    )
    assert {e.id for e in a.split("train")}.isdisjoint(e.id for e in b.split("test"))
    again = Countdown(CountdownSettings(seed=0, train_size=2000, val_size=200, test_size=200))
    assert a.split("val") == again.split("val")
    assert a.split("val") != b.split("val")


def test_the_default_sizes_exist() -> None:
    task = Countdown(CountdownSettings())
    assert [len(task.split(name)) for name in ("train", "val", "test")] == [4800, 1000, 1000]


def test_more_problems_than_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"task\.val_size=100000: only \d+ distinct"):
        Countdown(CountdownSettings(val_size=100_000)).split("val")


def test_demonstrations_earn_everything_and_careless_answers_only_the_format(task: Countdown) -> None:
    examples = task.split("train")
    assert all(task.reward(e, task.demonstration(e)).value == 1.0 for e in examples)
    careless = [task.reward(e, task.careless(e)) for e in examples]
    assert all(r.parts["format"] == 1.0 for r in careless)
    assert sum(r.parts["correct"] for r in careless) < 0.3 * len(careless)


NANO = Countdown(CountdownSettings())
PROBLEM = Example("x", "3,9,2=24:", "(3+9)*2", {"numbers": [3, 9, 2], "target": 24})


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("(3+9)*2", 1.0),
        ("2*(9+3)", 1.0),
        (" ( 3 + 9 ) * 2 ", 1.0),
        ("3+9*2", 0.1),
        ("24", 0.0),  # not one of the numbers
        ("3*9-3", 0.0),  # a number used twice
        ("(3+9)*2*1", 0.0),
        ("(3+9)*2=24", 0.0),
        ("(3+9)**2", 0.0),
        ("39-2", 0.0),
        ("-3", 0.0),
        ("9//2", 0.0),
        ("9/(3-3)", 0.0),
        ("", 0.0),
        ("\0", 0.0),
        ("0x18", 0.0),
        ("2_4", 0.0),
        ("\uff13+9", 0.0),
        ("__import__('os').system('true')", 0.0),
        ("(" * 10_000, 0.0),
        ("9" * 10_000, 0.0),
        ("10**10**10", 0.0),
        ("(3+9)*2 " + "x" * 300, 0.0),
    ],
)
def test_rewards(completion: str, reward: float) -> None:
    assert NANO.reward(PROBLEM, completion).value == pytest.approx(reward)


def test_full_difficulty_reads_the_last_answer_tag() -> None:
    task = Countdown(CountdownSettings(difficulty="full"))
    assert (
        task.reward(PROBLEM, "Let me see. <answer>3+9</answer> no, <answer> (3+9)*2 </answer>").value == 1.0
    )
    assert task.reward(PROBLEM, "(3+9)*2").value == 0.0


@settings(max_examples=300)
@given(
    st.text(alphabet="0123456789+-*/() \n", max_size=40), st.lists(st.integers(1, 20), min_size=1, max_size=6)
)
def test_any_text_over_the_alphabet_is_bounded_and_honest(text: str, numbers: list[int]) -> None:
    value = evaluate(text, numbers)
    if value is not None:
        exact = eval(
            "".join(f"Fraction({t})" if t.isdigit() else t for t in _tokens(text)), {"Fraction": Fraction}
        )
        assert value == exact


def _tokens(text: str) -> list[str]:
    spaced = "".join(f" {c} " if c in "+-*/()" else c for c in text)
    return spaced.split()


def test_twenty_thousand_hostile_completions_neither_crash_nor_hang() -> None:
    rng = random.Random(0)
    pieces = [
        "(",
        ")",
        "+",
        "-",
        "*",
        "/",
        "3",
        "9",
        "2",
        "24",
        " ",
        "**",
        "9" * 50,
        "\0",
        "é",
        "<answer>",
        "=",
        ",",
        "\n",
        "lambda:0",
        "1e9",
    ]
    started = time.process_time()
    for _ in range(20_000):
        completion = "".join(rng.choices(pieces, k=rng.choice([1, 5, 20, 200])))
        reward = NANO.reward(PROBLEM, completion)
        assert 0.0 <= reward.value <= 1.0
    assert time.process_time() - started < 60
