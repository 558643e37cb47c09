"""What holds for all tasks, and the verifiers that compare answers."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rewards import adversarial
from llmzero.cli import composed
from llmzero.config import InspectTaskConfig
from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.tasks import answers
from llmzero.tasks.base import Example, rewards_of
from llmzero.tasks.chemistry import ChemistrySettings, chemistry
from llmzero.tasks.countdown import Countdown, CountdownSettings
from llmzero.tasks.jsonl import JsonLines, JsonLinesSettings
from llmzero.tasks.math_fractions import Fractions
from llmzero.tasks.math_published import PublishedMathematics
from llmzero.tasks.math_questions import WordProblems
from llmzero.tasks.mathematics import MathSettings, mathematics
from llmzero.tasks.music_nano import ShortMusic
from llmzero.tasks.music_questions import SheetMusic
from llmzero.tasks.reasoning import ReasoningGym, ReasoningGymSettings
from llmzero.tasks.settings import TIMEOUT_S
from llmzero.tasks.splits import SPLIT_RANGES
from llmzero.tasks.verified import Verified

SIZES = {"train": 600, "val": 200, "test": 200}
COUNTS = {f"{split}_size": size for split, size in SIZES.items()}
GENERATED: dict[str, Any] = {
    "countdown/nano": lambda seed: Countdown(CountdownSettings(**COUNTS, difficulty="nano", seed=seed)),
    "countdown/full": lambda seed: Countdown(CountdownSettings(**COUNTS, difficulty="full", seed=seed)),
    "math/nano": lambda seed: Fractions(SIZES, seed),
    "math/full": lambda seed: WordProblems(SIZES, seed, workers=1, template=None),
    "ssmr/nano": lambda seed: ShortMusic(SIZES, seed),
    "ssmr/full": lambda seed: SheetMusic(SIZES, seed, template=None),
    "chem/nano": lambda seed: chemistry(ChemistrySettings(**COUNTS, difficulty="nano", seed=seed)),
    "chem/full": lambda seed: chemistry(ChemistrySettings(**COUNTS, difficulty="full", seed=seed)),
}


@pytest.mark.parametrize("name", GENERATED)
def test_splits_are_disjoint_and_of_their_size_whatever_the_seed(name: str) -> None:
    tasks = [GENERATED[name](seed) for seed in (0, 1)]
    ids = {
        (seed, split): {e.id for e in task.split(split)} for seed, task in enumerate(tasks) for split in SIZES
    }
    assert {split: len(ids[0, split]) for split in SIZES} == SIZES
    for (seed, split), own in ids.items():
        for (other_seed, other), others in ids.items():
            assert split == other or not own & others, (
                f"{split} of seed {seed} and {other} of seed {other_seed}"
            )
    again = GENERATED[name](0)
    assert [vars(e) for e in again.split("val")] == [vars(e) for e in tasks[0].split("val")]
    prompts = {split: {e.prompt for e in tasks[0].split(split)} for split in SIZES}
    assert not prompts["train"] & prompts["val"]
    assert not prompts["train"] & prompts["test"]


# --- answers ---


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer> 7 </answer>", "7"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer> <answer>3</answer>", "3"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("12 * 2 = 24\n#### 24", "24"),
        ("\\boxed{never closed", None),
        ("<answer>never closed", None),
        ("just 7", None),
        ("", None),
    ],
)
def test_the_last_stated_answer_counts(completion: str, answer: str | None) -> None:
    assert answers.stated(completion) == answer


@pytest.mark.parametrize(
    ("verifier", "stated", "answer", "score"),
    [
        ("exact", " red  wine ", "red wine", 1),
        ("exact", "Red wine", "red wine", 0),
        ("numeric", "that makes 1,234.50 dollars", "1234.5", 1),
        ("numeric", "1/4", "0.25", 1),
        ("numeric", "25%", "0.25", 1),
        ("numeric", "-3", "3", 0),
        ("numeric", "it is 3, or 4", "3", 0),
        ("numeric", "no number", "3", 0),
        ("numeric", "0", "0", 1),
        ("numeric", "1e-9", "0", 0),
        ("numeric", "nan", "3", 0),
        ("numeric", "1/0", "3", 0),
        ("choice", "(B)", "B", 1),
        ("choice", "the answer is C.", "c", 1),
        ("choice", "A, B, C, D", "A", 0),
        ("choice", "none", "A", 0),
        ("math", "\\frac{1}{2}", "0.5", 1),
        ("math", "x^2+2x+1", "(x+1)^2", 1),
        ("math", "\\sqrt{8}", "2\\sqrt{2}", 1),
        ("math", "(1,2)", "(2,1)", 0),
        ("math", "3", "4", 0),
        ("math", "the answer is 9", "9", 1),
        ("math", "x = 9", "9", 1),
        ("math", "9e999[13CH4]{", "9", 0),
        ("math", "%\n9e999", "9", 0),
        ("math", "9٣", "9", 0),
        ("math", "10**10**101/0^^__", "10", 0),
        ("math", "9e999\\boxed{\x00", "9", 0),
        ("regex", "12 apples", "\\d+ apples?", 1),
        ("regex", "12 apples and a pear", "\\d+ apples?", 0),
    ],
)
def test_verifiers(
    verifiers: dict[str, Verified], verifier: str, stated: str, answer: str, score: float
) -> None:
    assert verifiers[verifier].reward(Example("1", "", answer), stated).value == score


@pytest.fixture(scope="module")
def verifiers() -> Iterator[dict[str, Verified]]:
    made = {
        name: Verified(name, TIMEOUT_S, workers=1) for name in ("exact", "numeric", "choice", "math", "regex")
    }
    yield made
    for verified in made.values():
        if verified._guard is not None:
            verified._guard.close()


@pytest.mark.parametrize(
    "completion",
    ["<answer>10**10**10**10</answer>", "<answer>9^{9^{9^{9}}}</answer>", "<answer>(99999999)!</answer>"],
)
def test_mathematics_that_would_never_end_earns_nothing(
    verifiers: dict[str, Verified], completion: str
) -> None:
    task = verifiers["math"]
    assert task.reward(Example("1", "", "7"), completion).value == 0
    assert task.reward(Example("1", "", "7"), "<answer>14/2</answer>").value == 1, (
        "and the next one is judged as ever"
    )


def test_a_regular_expression_that_would_never_end_earns_nothing(verifiers: dict[str, Verified]) -> None:
    assert verifiers["regex"].reward(Example("1", "", "(a+)+b"), "a" * 40).value == 0


@pytest.mark.parametrize(
    "name",
    ["countdown/nano", "countdown/full", "math/nano", "ssmr/nano", "ssmr/full", "chem/nano", "chem/full"],
)
def test_no_completion_earns_what_an_honest_answer_would_not(name: str) -> None:
    """Rewards stay within bounds, and only what equals the answer is correct."""
    task = GENERATED[name](0)
    example = next(
        example for example in task.split("val") if len(example.answer) != 1
    )  # a letter may be guessed
    rng = random.Random(0)
    for _ in range(5_000):
        completion = adversarial(rng, example)
        reward = task.reward(example, completion)
        assert 0 <= reward.value <= 1
        assert all(0 <= part <= 1 for part in reward.parts.values())
        assert reward.parts["correct"] == 0, completion


@pytest.mark.parametrize("name", ["exact", "numeric", "choice"])
def test_quick_verifiers_bear_anything(verifiers: dict[str, Verified], name: str) -> None:
    rng = random.Random(1)
    answer = {"exact": "red", "numeric": "123456.789", "choice": "Q"}[name]
    for _ in range(5_000):
        completion = adversarial(rng, Example("1", "", answer))
        assert verifiers[name].reward(Example("1", "", answer), completion).value == 0, completion


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "{" * 100_000,
        "\\boxed{" * 20_000,
        "<answer>" * 20_000,
        "A" * 1_000_000,
        "1" * 1_000_000,
        "\x00" * 10_000,
    ],
)
def test_long_completions_take_linear_time(verifiers: dict[str, Verified], text: str) -> None:
    def seconds(length: int) -> float:
        began = time.process_time()
        for name in ("exact", "numeric", "choice"):
            verifiers[name].reward(Example("1", "", "7"), text[:length])
        return time.process_time() - began

    assert seconds(len(text)) < 60 * max(seconds(len(text) // 10), 0.01)


@pytest.mark.parametrize("verifier", ["math", "numeric"])
def test_numbers_beyond_all_bounds_are_judged(verifiers: dict[str, Verified], verifier: str) -> None:
    huge = ["9e999999/1e-9", "1e999999%", "9e999999", "1e999999999999999999", "1/1e-999999", "0e999999999"]
    huge += ["-9e999999/9e-999999", "1e-999999999999", "1e-999999%"]
    for stated in [*huge, "7"]:
        for answer in [*huge, "7", "1e9999"]:
            example = Example("1", "", answer)
            value = verifiers[verifier].reward(example, f"<answer>{stated}</answer>").value
            assert value in (0, 1)
            assert value == 0 or stated != "7" or answer == "7"


@pytest.mark.parametrize("name", ["countdown/full", "ssmr/full", "chem/full", "math/full"])
def test_rewards_of_long_completions_take_linear_time(name: str) -> None:
    task = GENERATED[name](0)
    example = task.split("val")[0]
    pieces = [
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "<answer>1",
        "((",
        "\\boxed{",
        "C1",
        "1/",
        "^",
        "#",
    ]

    def seconds(piece: str, count: int) -> float:
        began = time.process_time()
        task.reward(example, piece * count)
        return time.process_time() - began

    for piece in pieces:
        assert seconds(piece, 20_000) < 60 * max(seconds(piece, 2_000), 0.01), piece


def test_the_last_closed_answer_of_countdown_counts() -> None:
    task = GENERATED["countdown/full"](0)
    example = Example("1", "", "", {"numbers": [1, 2, 3], "target": 6})
    for completion, value in [
        ("<answer>1+2+3</answer>", 1.0),
        ("<answer>1+2</answer> no, <answer>1+2+3</answer> <answer>", 1.0),
        ("<answer>1+2+3</answer><answer>1+2</answer>", 0.1),
        ("<answer> <answer>1+2+3</answer>", 1.0),
        ("It goes into <answer> tags: <answer>\t1 +\t2+3\n</answer>, not <answer> </answer>.", 1.0),
        ("<answer>1+2+3", 0.0),
        ("</answer>", 0.0),
    ]:
        assert task.reward(example, completion).value == pytest.approx(value), completion


def test_a_verifier_of_your_own_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_verifiers.py").write_text(
        "def generous(stated, answer):\n    return 7.0\n\n"
        "def broken(stated, answer):\n    raise ValueError(stated)\n\n"
        "def odd(stated, answer):\n    return 'yes'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scores = {
        name: Verified(f"my_verifiers.{name}", TIMEOUT_S, workers=1).reward(Example("1", "", "x"), "x").value
        for name in ("generous", "broken", "odd")
    }
    assert scores == {"generous": 1.0, "broken": 0.0, "odd": 0.0}
    with pytest.raises(UserError, match=r"task\.verifier=my_verifiers\.none"):
        Verified("my_verifiers.none", TIMEOUT_S, workers=1)
    with pytest.raises(UserError, match="must be one of exact, numeric, choice, math, regex"):
        Verified("nonsense", TIMEOUT_S, workers=1)


# --- files ---


def written(tmp_path: Path, lines: list[Any]) -> Path:
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return file


def test_a_file_of_problems_is_divided_by_content(tmp_path: Path) -> None:
    lines = [{"prompt": f"What is {i} + 1?", "answer": i + 1, "level": i % 3} for i in range(200)]
    task = JsonLines(
        JsonLinesSettings(
            path=str(written(tmp_path, [*lines, lines[0], {"prompt": "What  is 0 + 1?", "answer": 1}])),
            verifier="numeric",
        )
    )
    splits = {name: task.split(name) for name in SPLIT_RANGES}
    assert sum(map(len, splits.values())) == 200, "what differs in white space alone is one problem"
    assert not {e.id for e in splits["train"]} & {e.id for e in splits["val"]}
    example = splits["val"][0]
    assert example.meta["level"] in (0, 1, 2)
    assert task.reward(example, f"so it is {example.answer}").value == 1
    assert [r.value for r in rewards_of(task, [example, example], [example.answer, "-1"])] == [1, 0]


def test_a_file_may_say_its_splits_and_a_template_the_prompt(tmp_path: Path) -> None:
    template = tmp_path / "ask.jinja"
    template.write_text("Level {{ level }}: {{ prompt }}")
    lines = [
        {"prompt": f"p{i}", "answer": "A", "level": 1, "split": ("train", "val", "test")[i % 3]}
        for i in range(9)
    ]
    task = JsonLines(
        JsonLinesSettings(
            path=str(written(tmp_path, lines)), verifier="choice", template=str(template), train_size=2
        )
    )
    assert [e.prompt for e in task.split("train")] == ["Level 1: p0", "Level 1: p3"]
    assert len(task.split("test")) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"prompt": "a"}], r"problems\.jsonl:1: needs a text or a number as 'answer'; it has 'prompt'"),
        (["{oops"], r"problems\.jsonl:1: is no JSON"),
        (["[1]"], r"problems\.jsonl:1: must be an object"),
        ([{"prompt": "a", "answer": "b", "split": "dev"}], r"split='dev': must be one of train, val, test"),
        (
            [{"prompt": "a", "answer": "b", "split": ["train"]}],
            r":1: split=\['train'\]: must be one of train",
        ),
        ([{"prompt": "a", "answer": "b", "split": {}}], r":1: split=\{\}: must be one of train"),
        *(
            ([{"prompt": "a", "answer": "b", "split": s}], rf":1: split={s!r}: must be one of train")
            for s in (0, "", False, 1.5)
        ),
        (['{"prompt": "a", "answer": 1e400}'], r":1: 'answer' is inf, which is no number"),
        (['{"prompt": "a", "answer": -Infinity}'], r":1: 'answer' is -inf, which is no number"),
        (['{"prompt": NaN, "answer": 1}'], r":1: 'prompt' is nan, which is no number"),
        *(
            (
                [f'{{"prompt": "a", "answer": {value}}}'],
                r":1: needs a text or a number as 'answer'; it has answer=",
            )
            for value in ("true", "null", "[4]", '{"x": 4}')
        ),
        ([{"prompt": " ", "answer": "b"}], r":1: 'prompt' is empty"),
        ([{"prompt": "a", "answer": "\n"}], r":1: 'answer' is empty"),
        (['{"prompt": "a", "answer": "b", "answer": "c"}'], r":1: states 'answer' more than once"),
        (
            [{"prompt": "a", "answer": "b", "split": s} for s in ("train", "test")],
            r":2: the same prompt stands in split train",
        ),
        ([{"prompt": "a", "answer": "b", "split": "train"}], r"split val has 0 problems"),
    ],
)
def test_files_that_cannot_be_used_say_where_and_why(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        JsonLines(JsonLinesSettings(path=str(written(tmp_path, lines)))).split("val")


def test_a_copy_of_a_published_data_set_is_loaded(tmp_path: Path) -> None:
    for name, count in (("train", 40), ("test", 10)):
        rows = [
            {"question": f"What is {i} and {i}?", "answer": f"{i}+{i}={2 * i}\n#### {2 * i:,}"}
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = mathematics(MathSettings(difficulty="full", source="gsm8k", path=str(tmp_path)))
    assert isinstance(task, PublishedMathematics)
    ids = {name: {e.id for e in task.split(name)} for name in SPLIT_RANGES}
    assert len(ids["test"]) == 10
    assert len(ids["train"] | ids["val"]) == 30, "what the test has is not taught"
    example = task.split("test")[3]
    assert task.reward(example, f"<answer>{example.answer}</answer>").parts == {"format": 1.0, "correct": 1.0}
    assert task.reward(example, example.answer).value == 0, "no answer was stated"
    with pytest.raises(UserError, match=r"give a copy of it as task\.path"):
        mathematics(MathSettings(difficulty="full", source="math", path=str(tmp_path / "none"))).split("val")


@pytest.mark.parametrize("outside", ["../secret.jsonl", "ABSOLUTE", "link.jsonl"])
def test_a_copy_of_a_data_set_is_made_of_its_own_files(tmp_path: Path, outside: str) -> None:
    line = json.dumps({"question": "secret", "answer": "#### 1"})
    (tmp_path / "secret.jsonl").write_text(f"{line}\n")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "train.jsonl").write_text(f"{line}\n")
    (copy / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    name = str(tmp_path / "secret.jsonl") if outside == "ABSOLUTE" else outside
    (copy / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: train\n    path: train.jsonl\n  - split: test\n    path: {name}\n---\n"
    )
    task = mathematics(MathSettings(difficulty="full", source="gsm8k", path=str(copy)))
    with pytest.raises(
        UserError, match=rf"task\.path={copy}: the data set names .*jsonl, which is not its own"
    ):
        task.split("test")


def test_word_problems_are_right() -> None:
    """Generated answers, and the numbers in the question, are positive integers."""
    task = WordProblems(SIZES, 0, workers=1, template=None)
    for example in task.split("train"):
        assert int(example.answer) > 0
        assert math.isfinite(int(example.answer))
    assert len({e.prompt[:12] for e in task.split("train")}) > 20


# --- reasoning-gym ---


def gym(dataset: str, **settings: Any) -> ReasoningGym:
    return ReasoningGym(
        ReasoningGymSettings(
            dataset=dataset, **{"train_size": 60, "val_size": 20, "test_size": 20, **settings}
        )
    )


@pytest.mark.parametrize("dataset", ["leg_counting", "simple_equations", "family_relationships"])
def test_data_sets_of_reasoning_gym_are_divided_and_verified_by_themselves(dataset: str) -> None:
    task = gym(dataset)
    ids = {name: {e.id for e in task.split(name)} for name in SPLIT_RANGES}
    assert [len(own) for own in ids.values()] == [60, 20, 20]
    assert not ids["train"] & ids["val"] | ids["train"] & ids["test"] | ids["val"] & ids["test"]
    examples = task.split("val")
    right = task.rewards(examples, [f"so <answer>{e.answer}</answer>" for e in examples])
    assert [reward.value for reward in right] == [1.0] * 20
    wrong = task.rewards(
        examples[:4],
        ["", examples[1].answer, "<answer>\x00</answer>", "<answer>" + "9" * 100_000 + "</answer>"],
    )
    assert [reward.value for reward in wrong[:2]] == [0, 0], "no answer was stated"
    assert max(reward.value for reward in wrong) < 0.2
    task._guard.close()


def test_the_command_line_sets_what_a_data_set_of_reasoning_gym_needs() -> None:
    overrides = ["task=reasoning_gym", "task.dataset=leg_counting", "task.config={max_animals: 5}"]
    assert composed("inspect_task", InspectTaskConfig, overrides).task["config"] == {"max_animals": 5}


def test_settings_of_reasoning_gym_are_passed_on_and_checked() -> None:
    easy = gym("leg_counting", config={"min_animals": 1, "max_animals": 2})
    assert max(e.meta["entry"]["metadata"]["num_animals"] for e in easy.split("train")) == 2
    with pytest.raises(UserError, match=r"task\.dataset=nonsense: must be one of"):
        gym("nonsense")
    with pytest.raises(UserError, match=r"leg_counting does not take it"):
        gym("leg_counting", config={"colour": "red"})
    with pytest.raises(UserError, match=r"gave only \d+ different problems"):
        gym(
            "leg_counting",
            config={"min_animals": 1, "max_animals": 1, "min_instances": 1, "max_instances": 1},
            train_size=10_000,
        ).split("train")


# --- fractions ---


@pytest.mark.parametrize(
    ("completion", "format_", "correct"),
    [
        ("6/28", 1, 1),
        ("27/126", 1, 1),
        ("30/140", 0, 0),  # zeros appended
        (" 9/42\n", 1, 1),
        ("6/27", 1, 0),
        ("3/14", 0, 0),  # the same fraction again
        ("1/5", 0, 0),
        ("30000/140000", 0, 0),
        ("06/28", 0, 0),
        ("6/28 9/42", 0, 0),
        ("6:28", 0, 0),
        ("٦/28", 0, 0),
        ("0/0", 0, 0),
        ("", 0, 0),
    ],
)
def test_equal_fractions(completion: str, format_: float, correct: float) -> None:
    example = Example("1", "3/14:", "6/28", {"above": 3, "below": 14, "factor": 2})
    assert Fractions(SIZES, 0).reward(example, completion).parts == {"format": format_, "correct": correct}


def test_demonstrations_are_right_and_careless_ones_are_not() -> None:
    for name in ("countdown/nano", "math/nano", "ssmr/nano", "chem/nano"):
        task = GENERATED[name](0)
        examples = task.split("train")
        assert all(task.reward(e, task.demonstration(e)).value == 1 for e in examples)
        careless = [task.reward(e, task.careless(e)) for e in examples]
        assert sum(reward.parts["correct"] for reward in careless) < 0.4 * len(careless), name
        letters = set(task.alphabet)
        assert all(set(e.prompt + task.demonstration(e) + task.careless(e)) <= letters for e in examples)
        assert max(len(task.demonstration(e)) for e in examples) < 16, (
            "it fits the completion length with its end"
        )


def test_math_refuses_a_source_that_it_does_not_have() -> None:
    with pytest.raises(UserError, match=r"task\.source=published: must be one of generated, gsm8k, math"):
        make({"_target_": "llmzero.tasks.mathematics.mathematics", "source": "published"}, "task")
