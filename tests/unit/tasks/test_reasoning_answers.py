"""Answers that are code, given to every verifier of reasoning-gym, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

CODE = [
    "__import__('pathlib').Path('ran').touch()",
    "[__import__('pathlib').Path('ran').touch()]",
    "open('ran', 'w')",
    "[open('ran', 'w')]",
    "str(open('ran', 'w'))",
    "x + open('ran', 'w').fileno()",
    "[[c for c in [open('ran', 'w')]]]",
    "(lambda: open('ran', 'w'))()",
    "eval('open(chr(114) + chr(97) + chr(110), chr(119))')",
    'exec(\'open("ran", "w")\')',
    "sympify(\"open('ran', 'w')\")",
    "Tuple(\"open('ran', 'w')\")",
    "lambdify(x, \"open('ran', 'w')\")(1)",
    "Integer(1).__class__.__mro__[-1].__subclasses__()",
    "(1).__class__.__base__.__subclasses__()[0] + x",
    "f\"{open('ran', 'w')}\"",
    "{'a': open('ran', 'w')}",
    "0 if open('ran', 'w') else 1",
]


def main(datasets: list[str]) -> None:
    """Print what data sets give their own answers, before and after they are restricted; try to run code."""
    from llmzero.tasks import reasoning

    entries = {name: reasoning.generator(name, "{}", 0, 1)[0] for name in datasets}
    before = {
        name: float(reasoning.generator(name, "{}", 0, 1).score_answer(entry["answer"], entry))
        for name, entry in entries.items()
    }
    after = {name: reasoning.score(name, "{}", entry["answer"], entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        for answer in CODE:
            try:
                reasoning.score(name, "{}", answer, entry)
            except Exception:  # a guard gives nothing for it
                continue
            finally:
                assert not Path("ran").exists(), f"{name} ran {answer}"
    print(f"\n{json.dumps([before, after])}")  # on a line of its own: some verifiers print


def scored(directory: Path, *datasets: str) -> Any:
    code = f"from tests.unit.tasks.test_reasoning_answers import main; main({list(datasets)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(directory: Path, *datasets: str) -> None:
    before, after = scored(directory, *datasets)
    assert after == before
    assert not list(directory.iterdir())


def test_verifiers_that_evaluate_answers_run_no_code(tmp_path: Path) -> None:
    lists = ("string_insertion", "spiral_matrix", "binary_matrix")
    check(tmp_path, *lists, "polynomial_multiplication", "puzzle24", "countdown", "bitwise_arithmetic")


def test_no_verifier_runs_code(tmp_path: Path) -> None:
    from reasoning_gym.factory import DATASETS

    check(tmp_path, *sorted(set(DATASETS) - {"composite"}))  # which is made of the others


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*x + sin(x)**2/3", "2*x + sin(x)**2/3"),
        ("sqrt(8)", "2*sqrt(2)"),
        ("abs(-3) + factorial(3)", "9"),
        ("f(x) + pi", "f(x) + pi"),
        ("max(1, 2)*1.5", "3.0"),
        ("5!", "120"),
    ],
)
def test_formulas_keep_their_values(text: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sympy
    from sympy.parsing import sympy_parser

    from llmzero.tasks.reasoning_answers import formula

    expected = sympy.parse_expr(text)
    monkeypatch.setattr(sympy_parser, "eval_expr", formula)
    assert sympy.parse_expr(text) == expected
    assert expected == sympy.sympify(value) or abs(float(expected) - float(value)) < 1e-9
