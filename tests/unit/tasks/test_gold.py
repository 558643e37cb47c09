"""Right answers are what their data set says, and earn full marks for themselves or are not taken."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.search.checks import check_sources
from llmzero.tasks import gold, guard
from llmzero.tasks.base import Example
from llmzero.tasks.jsonl import JsonLines, JsonLinesSettings
from llmzero.tasks.math_published import PublishedMathematics
from llmzero.tasks.mathematics import MathSettings, mathematics
from llmzero.tasks.splits import SPLIT_RANGES
from llmzero.tasks.verified import Verified

MATHEMATICS = [
    "1,3",
    "(3,-2)",
    "[2,5)",
    "\\{1,2\\}",
    "115,000",
    "\\$32,348",
    "\\frac{3}{4}",
    "x=5",
    "\\text{(C)}",
    "10\\%",
    "60^\\circ",
    "(-\\infty,-3)\\cup(3,\\infty)",
    "\\begin{pmatrix} -1 & 0 \\\\ 0 & -1 \\end{pmatrix}",
    "\\left( 3, \\frac{\\pi}{2} \\right)",
    "1{,}000{,}000",
    "10,\\!080",
    "\\text{Evelyn}",
]

WRONG = [
    *(("1,3", "13"), ("1,3", "1"), ("1,3", "3"), ("(3,-2)", "1"), ("(3,-2)", "(3-2)"), ("(3,-2)", "(-2,3)")),
    *(("[2,5)", "[2,5]"), ("[2,5)", "25"), ("\\{1,2\\}", "12"), ("\\{1,2\\}", "(1,2)"), ("115,000", "115")),
    *(("\\$32,348", "32"), ("\\frac{3}{4}", "34"), ("x=5", "y=6"), ("\\text{(C)}", "\\text{(D)}")),
    *(("60^\\circ", "6"), ("10\\%", "1"), ("1{,}000{,}000", "1"), ("\\text{Evelyn}", "\\text{Mary}")),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMZERO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gold"


def rows_file(tmp_path: Path, answers: list[Any], **more: Any) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"p{i}", "answer": answer, **more} for i, answer in enumerate(answers)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def task_of(tmp_path: Path, answers: list[Any], **settings: Any) -> JsonLines:
    return JsonLines(JsonLinesSettings(path=str(rows_file(tmp_path, answers, split="train")), **settings))


def published(folder: Path, solutions: list[Any], **settings: Any) -> PublishedMathematics:
    """Return a copy of MATH whose test split has these solutions."""
    folder.mkdir(exist_ok=True)
    for name, wanted in (("train", [f"\\boxed{{{i}}}" for i in range(40)]), ("test", solutions)):
        rows = [{"problem": f"{name} {i}", "solution": text} for i, text in enumerate(wanted)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = mathematics(MathSettings(difficulty="full", source="math", path=str(folder), **settings))
    assert isinstance(task, PublishedMathematics)
    return task


def test_answers_of_mathematics_are_loaded_as_they_are(tmp_path: Path) -> None:
    task = published(tmp_path / "copy", [f"So it is $\\boxed{{{text}}}$." for text in MATHEMATICS])
    examples = task.split("test")
    assert [example.answer for example in examples] == MATHEMATICS, "none is changed, none left out"
    own = task.rewards(examples, [f"\\boxed{{{text}}}" for text in MATHEMATICS])
    assert [reward.parts["correct"] for reward in own] == [1.0] * len(MATHEMATICS)
    assert task.scores([(wrong, right) for right, wrong in WRONG]) == [0.0] * len(WRONG)
    task.close()


def test_commas_of_gsm8k_are_taken_out_of_its_numbers_alone(tmp_path: Path) -> None:
    for name in ("train", "test"):
        answers = ["#### 1,234,567", "1,2 and then\n#### 12", "#### 1,5", "no answer", None]
        rows = [{"question": f"{name} {i}", "answer": text} for i, text in enumerate(answers * 4)]
        rows = [row | {"question": f"{row['question']} {i}"} for i, row in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = mathematics(MathSettings(difficulty="full", source="gsm8k", path=str(tmp_path)))
    assert {"1234567", "12"} <= {example.answer for example in task.split("test")} <= {"1234567", "12", "1,5"}


def test_rows_that_are_no_problems_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = published(tmp_path / "copy", ["\\boxed{7}", "it is 7", None, "\\boxed{8}"])
    with caplog.at_level(logging.WARNING, "llmzero"):
        assert [example.answer for example in task.split("test")] == ["7", "8"]
    (message,) = (record.getMessage() for record in caplog.records)
    assert (
        "2 of 44 problems are left out (task.unverified=skip): test[1]: states no answer; test[2]" in message
    )
    with pytest.raises(UserError, match=r"2 of 43 problems cannot be used:\n  test\[1\]: states no answer"):
        published(tmp_path / "copy", ["\\boxed{7}", "it is 7", None], unverified="refuse").split("test")


def test_a_published_data_set_needs_its_splits_and_columns(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps({"question": "1?", "answer": "#### 1"}) + "\n")
    task = mathematics(MathSettings(difficulty="full", source="gsm8k", path=str(file)))
    with pytest.raises(UserError, match=r"test\.jsonl: has no split train; it needs train and test"):
        task.split("test")
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "2?", "answer": "#### 1"}) + "\n")
    with pytest.raises(UserError, match=r"has no field 'problem'; it has question, answer"):
        mathematics(MathSettings(difficulty="full", source="math", path=str(tmp_path))).split("test")


@pytest.mark.parametrize(
    ("verifier", "good", "bad", "why"),
    [
        ("numeric", ["5", "1/2"], "5 km", "earns 0 of 1"),
        ("numeric", ["5", "1/2"], "about three", "earns 0 of 1"),
        ("choice", ["A", "(B)"], "Paris", "earns 0 of 1"),
        ("regex", ["\\d+ apples?", "(a|b)"], "(", "is no regular expression: missing \\)"),
        ("regex", ["\\d+", "a"], "[\\s\\S]*", "matches any text"),
        ("regex", ["\\d+", "[a-z]+ (b|c)?"], "(a+)+b", "takes too long on 'aaaaaaaa"),
        ("exact", ["red", "0"], "</answer>", "cannot be stated in <answer> tags"),
        ("exact", ["red", "0"], "<answer>x</answer>", "earns 0 of 1"),
    ],
)
def test_gold_that_its_verifier_cannot_read_is_refused_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verifier: str, good: list[str], bad: str, why: str
) -> None:
    answers = [good[0], bad, good[1], bad]
    with pytest.raises(UserError, match=r"2 of 4 problems cannot be used") as caught:
        task_of(tmp_path, answers, verifier=verifier, timeout_s=0.5).split("train")
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines[1:3]] == [
        f"  {tmp_path}/rows.jsonl:2",
        f"  {tmp_path}/rows.jsonl:4",
    ]
    assert why.replace("\\", "") in lines[1]
    assert "task.unverified=skip" in lines[-1]
    with caplog.at_level(logging.WARNING, "llmzero"):
        task = task_of(tmp_path, answers, verifier=verifier, unverified="skip", timeout_s=0.5)
        assert [example.answer for example in task.split("train")] == good
    assert "2 of 4 problems are left out" in caplog.text
    kept = task_of(tmp_path, answers, verifier=verifier, unverified="keep", timeout_s=0.5)
    assert [example.answer for example in kept.split("train")] == answers
    for each in (task, kept):
        each.close()


def test_a_check_is_paid_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def examples(unverified: str = "skip") -> list[str]:
        verifier = "tests.unit.tasks.odd_verifiers.odd"
        task = task_of(tmp_path, ["a", "leave", "b"], verifier=verifier, unverified=unverified)
        answers = [example.answer for example in task.split("train")]
        task.close()
        return answers

    assert examples() == ["a", "b"]
    (file,) = own_cache.glob("*.json")
    assert own_cache.stat().st_mode & 0o077 == 0
    calls = counted(monkeypatch)
    assert examples() == ["a", "b"]
    with pytest.raises(UserError, match="1 of 3 problems"):
        examples("refuse")
    assert calls == []
    stored = file.read_text()
    for damage in (
        stored[:-20],
        "[]",
        '{"answers": 3, "problems": ["x"]}',
        '{"answers": 3, "problems": {"y": "z"}}',
    ):
        file.write_text(damage)
        assert examples() == ["a", "b"]
        assert calls.pop() == 3
        assert file.read_text() == stored
    monkeypatch.setenv("LLMZERO_CACHE", "/dev/null/nowhere")
    assert examples() == ["a", "b"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of answers of every check."""
    calls: list[int] = []
    found = gold.found

    def counting(task: Verified, unique: list[str]) -> dict[str, str]:
        calls.append(len(unique))
        return found(task, unique)

    monkeypatch.setattr(gold, "found", counting)
    return calls


def test_what_changed_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "changing.py"
    module.write_text("def verify(stated, answer):\n    return stated == answer\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    calls = counted(monkeypatch)

    def loaded(answers: list[str], **settings: Any) -> None:
        gold._code.cache_clear()
        task = task_of(tmp_path, answers, verifier="changing.verify", **settings)
        task.split("train")
        task.close()

    loaded(["a", "b"])
    loaded(["a", "b", "b"])
    assert calls == [2]
    loaded(["a", "c"])
    loaded(["a", "b"], timeout_s=9.0)
    module.write_text("def verify(stated, answer):\n    return stated == answer  # changed\n")
    loaded(["a", "b"])
    assert calls == [2, 2, 2, 2]


def test_answers_that_never_end_keep_no_other_from_its_check(tmp_path: Path) -> None:
    endless = [f"sleep {9 + i}" for i in range(14)]
    task = task_of(
        tmp_path,
        ["0", *endless, *map(str, range(1, 40))],
        verifier="tests.unit.tasks.odd_verifiers.odd",
        timeout_s=0.05,
        unverified="skip",
    )
    assert [example.answer for example in task.split("train")] == [*map(str, range(40))]
    task.close()


def test_many_answers_are_checked_on_several_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gold, "MANY", 10)
    answers = [f"x={i}" for i in range(30)]
    task = task_of(tmp_path, [*answers, "\\frac{1}{"], verifier="math", unverified="skip")
    assert [example.answer for example in task.split("train")] == answers
    task.close()


@pytest.mark.parametrize("unverified", ["refuse", "skip", "keep"])
def test_one_prompt_with_two_answers_is_told_with_both_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unverified: str
) -> None:
    file = tmp_path / "twice.jsonl"
    pairs = [("What  is it?", 4), ("Else?", 1), ("What is it?", "4"), ("What is it?", 5)]
    file.write_text("".join(json.dumps({"prompt": p, "answer": a, "split": "val"}) + "\n" for p, a in pairs))
    task = JsonLines(JsonLinesSettings(path=str(file), verifier="numeric", unverified=unverified))
    told = f"{file}:4: answers '5'; {file}:1 answers the same prompt '4'"
    if unverified == "refuse":
        with pytest.raises(UserError) as caught:
            task.split("val")
        assert told in str(caught.value)
    else:
        assert [example.answer for example in task.split("val")] == ["4", "1"]
        assert told in caplog.text


# --- verifiers of one's own ---


@pytest.fixture
def verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that gives the score and the log of a verifier, by the body of its function."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[Verified] = []

    def judged(body: str, stated: str = "x") -> float:
        name = f"theirs_{abs(hash((body, str(tmp_path))))}"
        (tmp_path / f"{name}.py").write_text(f"calls = []\ndef verify(stated, answer):\n    {body}\n")
        made.append(Verified(f"{name}.verify", timeout_s=1.0, workers=1))
        return made[-1].scores([(stated, "x")])[0]

    yield judged
    for task in made:
        task.close()


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ("return True", 1.0),
        ("return 1", 1.0),
        ("return 0.25", 0.25),
        ("from fractions import Fraction; return Fraction(1, 4)", 0.25),
        ("from decimal import Decimal; return Decimal('0.25')", 0.25),
        ("import numpy; return numpy.bool_(True)", 1.0),
        ("import numpy; return numpy.float32(0.25)", 0.25),
        ("import numpy; return numpy.float16(0.25)", 0.25),
        ("import numpy; return numpy.int64(1)", 1.0),
        ("import numpy; return numpy.array(0.25)", 0.25),
        ("import numpy; return numpy.array([[True]])", 1.0),
        ("return type('Score', (float,), {})(0.25)", 0.25),
        ("return type('Flag', (int,), {'__repr__': lambda self: 1 / 0})(1)", 1.0),
        ("return 1.0000001", 1.0),
    ],
)
def test_whatever_is_a_number_is_a_verdict(
    verdicts: Any, caplog: pytest.LogCaptureFixture, body: str, score: float
) -> None:
    assert verdicts(body) == score
    assert caplog.text == ""


def test_tensors_are_verdicts_though_pytorch_is_loaded_with_the_first(
    verdicts: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading it takes seconds, and more memory than a worker may have."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # whose threads a fork would lose
    product = "(torch.ones(600, 600) @ torch.ones(600, 600)).mean() / 600"
    for value, score in (
        ("torch.tensor(True)", 1.0),
        (product, 1.0),
        ("torch.tensor([0.25], dtype=torch.bfloat16)", 0.25),
    ):
        assert verdicts(f"import torch; return {value}") == score
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return 'yes'", "it returns str 'yes': it must return a number from 0 to 1"),
        ("return '1.0'", "it returns str '1.0'"),
        ("return None", "it returns None"),
        ("return 1j", "it returns complex 1j"),
        ("return (1.0, 'fine')", "it returns tuple"),
        ("return [1.0]", "it returns list"),
        ("return {'score': 1}", "it returns dict"),
        ("return float('nan')", "it returns float nan"),
        ("return float('inf')", "it returns float inf"),
        ("return 10 ** 400", "it returns int"),
        ("import numpy; return numpy.float32('nan')", "it returns numpy.float32"),
        ("import numpy; return numpy.array([1.0, 0.0])", "it returns numpy.ndarray of shape (2,)"),
        ("import numpy; return numpy.complex64(1)", "it returns numpy.complex64"),
        ("import numpy; return numpy.array('x')", "it returns numpy.ndarray"),
        ("from decimal import Decimal; return Decimal('sNaN')", "it returns decimal.Decimal"),
        ("raise ValueError('no\\nway \\x1b[31m')", "it raises ValueError: no way"),
        ("raise SystemExit(3)", "it raises SystemExit: 3"),
        ("return verify(stated, answer)", "it raises RecursionError"),
        ("import os; os._exit(1)", None),
        ("import time; time.sleep(60 if calls or calls.append(1) else 0)", None),
    ],
)
def test_a_verifier_that_gives_no_number_says_so_once(
    verdicts: Any, caplog: pytest.LogCaptureFixture, body: str, why: str | None
) -> None:
    if body.startswith("import os"):
        with pytest.raises(UserError, match=r"verify cannot be called in a process .*: its process ended"):
            verdicts(body)
        return
    assert verdicts(body, stated="what it said") == 0
    (record,) = caplog.records
    message = record.getMessage()
    assert "for 'what it said' and the right answer 'x'" in message
    assert (why or "it fails, or takes more than task.timeout_s=1") in message
    assert "\x1b" not in message
    assert message.startswith("task.verifier=theirs_")


def test_a_verdict_out_of_bounds_is_cut_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "generous_one.py").write_text("def verify(stated, answer):\n    return float(stated)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = Verified("generous_one.verify", timeout_s=5.0, workers=1)
    assert task.scores([("1.5", "1"), ("-1", "1"), ("0.5", "1")]) == [1.0, 0.0, 0.5]
    task.close()
    (record,) = caplog.records
    told = record.getMessage()
    assert told == (
        "task.verifier=generous_one.verify: returns 1.5; verdicts are cut to the range from 0 to 1 "
        "(said once)"
    )


@pytest.mark.parametrize("unverified", ["refuse", "skip", "keep"])
@pytest.mark.parametrize("body", ["raise KeyError(stated)", "return 'yes'", "import no_such_module"])
def test_a_verifier_that_always_fails_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, unverified: str
) -> None:
    (tmp_path / "never_works.py").write_text(f"def verify(stated, answer):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = task_of(tmp_path, ["a", "b"], verifier="never_works.verify", unverified=unverified)
    with pytest.raises(UserError, match=r"verifier=never_works\.verify: fails for every right answer: it "):
        task.split("train")
    task.close()


def test_what_a_verifier_says_is_kept_without_secrets(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "much-too-secret")
    (tmp_path / "asking.py").write_text(
        "def verify(stated, answer):\n"
        "    if answer == 'b':\n        raise OSError('https://judge?key=much-too-secret refused')\n"
        "    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UserError, match=r":2: the right answer 'b': it raises OSError: .*key=\[key\] refused"
    ):
        task_of(tmp_path, ["a", "b"], verifier="asking.verify").split("train")
    (file,) = own_cache.glob("*.json")
    assert "it raises OSError" in file.read_text()
    assert "secret" not in file.read_text()


def test_a_first_call_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WARM_UP_S", 1.0)
    task = task_of(tmp_path, ["sleep 600", "b"], verifier="tests.unit.tasks.odd_verifiers.odd")
    with pytest.raises(UserError, match=r"odd cannot be called .*: its first call was not done after 1 s"):
        task.split("train")


def test_a_verifier_that_fails_at_its_third_call_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "third_time.py").write_text(
        "calls = []\n"
        "def verify(stated, answer):\n"
        "    calls.append(stated)\n"
        "    if len(calls) == 4:  # the first call warms it up\n        raise OSError('gone')\n"
        "    return stated == answer\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UserError, match=r"1 of 4 problems cannot be used:\n  .*:3: .* it raises OSError: gone"
    ):
        task_of(tmp_path, list("abcd"), verifier="third_time.verify").split("train")
    task = Verified("third_time.verify", timeout_s=5.0, workers=1)
    assert task.scores([("a", "a")] * 5) == [1, 1, 0, 1, 1]
    assert caplog.text.count("it raises OSError: gone; that earns 0 (said once)") == 1
    task.close()


def test_gold_that_is_no_example_of_itself_may_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "test_cases.py").write_text("def verify(stated, answer):\n    return stated == '42'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = task_of(tmp_path, ["assert f() == 42"], verifier="test_cases.verify", unverified="keep")
    assert len(task.split("train")) == 1
    assert "with task.unverified=keep no right answer has to earn full marks for itself" in caplog.text
    assert task.reward(Example("1", "", "assert f() == 42"), "<answer>42</answer>").value == 1
    task.close()


def test_no_split_means_what_the_prompt_says(tmp_path: Path) -> None:
    answers = [*map(str, range(60))]
    by_null = JsonLines(JsonLinesSettings(path=str(rows_file(tmp_path, answers, split=None))))
    nulls = {name: by_null.split(name) for name in SPLIT_RANGES}
    absent = JsonLines(JsonLinesSettings(path=str(rows_file(tmp_path, answers))))
    for name, examples in nulls.items():
        assert [each.id for each in examples] == [each.id for each in absent.split(name)]


def test_a_search_looks_at_all_splits_before_it_begins(tmp_path: Path) -> None:
    group = {"_target_": "llmzero.tasks.jsonl.JsonLines", "path": str(tmp_path / "rows.jsonl")}
    with pytest.raises(UserError, match=r"task\.path=.*rows\.jsonl: cannot be read"):
        check_sources(group, {})
    rows_file(tmp_path, ["a", "b"], split="train")
    with pytest.raises(UserError, match=r"rows\.jsonl: split val has 0 problems"):
        check_sources(group, {})
    rows_file(tmp_path, [*map(str, range(60))])
    check_sources(group, {})
    with pytest.raises(UserError, match=r"split test has \d+ problems, and needs 50"):
        check_sources({**group, "test_size": 50}, {})
    nano = {"_target_": "llmzero.grpo.models.NanoModel"}
    with pytest.raises(UserError, match=r"model=nano: its warm start needs demonstrations.*model=hf"):
        check_sources(group, nano)
    check_sources({"_target_": "llmzero.tasks.countdown.Countdown"}, nano)


def test_every_split_of_a_file_is_read_at_once(tmp_path: Path) -> None:
    task = task_of(tmp_path, ["a", "b"])
    assert len(task.split("train")) == 2
    for name in ("val", "test"):
        with pytest.raises(UserError, match=rf"rows\.jsonl: split {name} has 0 problems, and needs 1"):
            task.split(name)
    assert [*SPLIT_RANGES] == ["train", "val", "test"]
