"""Countdown: reach a target with the given numbers and + - * /, each number used at most once."""

from __future__ import annotations

import ast
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from llmzero.core.settings import setting
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.generated import DEFAULT_SIZES, Generated, content_id, generated_sizes
from llmzero.tasks.settings import GeneratedTaskSettings
from llmzero.tasks.template import prompt_template

MAX_EXPRESSION_CHARS = 256  # bounds parsing time for any completion
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Difficulty:
    """What the generator draws from. Numbers and targets are positive integers, bounds included."""

    count: tuple[int, int]
    max_number: int
    max_target: int
    operators: str


DIFFICULTIES = {
    "nano": Difficulty(count=(3, 3), max_number=30, max_target=60, operators="+-"),
    "full": Difficulty(count=(3, 6), max_number=99, max_target=999, operators="+-*/"),
}


@dataclass(frozen=True)
class _Term:
    """A partial expression: its text, exact value and the precedence of its outermost operator (3: a number)."""

    text: str
    value: Fraction
    precedence: int = 3


@dataclass
class CountdownSettings(GeneratedTaskSettings):
    """`task=countdown`."""

    train_size: int = setting(DEFAULT_SIZES["train"], "training examples", low=1)
    val_size: int = setting(DEFAULT_SIZES["val"], "validation examples", low=2)
    test_size: int = setting(DEFAULT_SIZES["test"], "test examples", low=2)


class Countdown(Generated):
    """The Countdown numbers game, generated.

    `nano` difficulty writes three numbers and the target in characters; `full` asks in words for reasoning and an `<answer>` tag, with three
    to six numbers. A template makes the prompts of full difficulty from `numbers` and `target`.
    """

    metric = "correct"
    alphabet = "0123456789+-*/() ,=:"

    def __init__(self, settings: CountdownSettings) -> None:
        super().__init__(f"countdown/{settings.difficulty}", generated_sizes(settings.sizes()), settings.seed)
        self.difficulty = settings.difficulty
        self.template = prompt_template("countdown", settings.template)

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for a well-formed expression over the given numbers and 0.9 more if it equals the target."""
        value = evaluate(self._answer_text(completion), example.meta["numbers"])
        well_formed = float(value is not None)
        correct = float(value == example.meta["target"])
        return weighted(well_formed, correct)

    def demonstration(self, example: Example) -> str:
        """Return a completion that earns the full reward."""
        return self._written(example.answer)

    def careless(self, example: Example) -> str:
        """Return what somebody writes who does not think: the sum of the first two numbers, well-formed and mostly wrong."""
        return self._written("+".join(map(str, example.meta["numbers"][:2])))

    def _written(self, expression: str) -> str:
        return expression if self.difficulty == "nano" else f"<answer> {expression} </answer>"

    def _answer_text(self, completion: str) -> str:
        if self.difficulty == "nano":
            return completion
        answers: list[str] = _ANSWER.findall(completion)
        return answers[-1] if answers else ""

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem; None where a division by zero or a target out of range came up."""
        level = DIFFICULTIES[self.difficulty]
        numbers = [rng.randint(1, level.max_number) for _ in range(rng.randint(*level.count))]
        term = _random_expression(numbers, level.operators, rng)
        if term is None or term.value.denominator != 1 or not 1 <= term.value <= level.max_target:
            return None
        target = int(term.value)
        content = f"countdown:{','.join(map(str, sorted(numbers)))}={target}"
        prompt = self._prompt(numbers, target)
        return Example(content_id(content), prompt, term.text, {"numbers": numbers, "target": target})

    def _prompt(self, numbers: list[int], target: int) -> str:
        if self.difficulty == "nano":
            return f"{','.join(map(str, numbers))}={target}:"
        return self.template.render(numbers=numbers, target=target)


def _random_expression(numbers: list[int], operators: str, rng: random.Random) -> _Term | None:
    """Combine all numbers by random operators in random order; None where a division by zero comes up."""
    terms = [_Term(str(n), Fraction(n)) for n in numbers]
    while len(terms) > 1:
        left, right = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        symbol = rng.choice(operators)
        if symbol == "/" and right.value == 0:
            return None
        terms.append(_combine(left, symbol, right))
    return terms[0]


def _combine(left: _Term, symbol: str, right: _Term) -> _Term:
    """Join two terms with the fewest parentheses that keep the value."""
    precedence = _PRECEDENCE[symbol]
    left_text = f"({left.text})" if left.precedence < precedence else left.text
    tight = right.precedence < precedence or (right.precedence == precedence and symbol in "-/")
    right_text = f"({right.text})" if tight else right.text
    value = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[symbol](
        left.value, right.value
    )
    return _Term(left_text + symbol + right_text, value, precedence)


def evaluate(text: str, numbers: Sequence[int]) -> Fraction | None:
    """Return the exact value of an expression over `numbers`, each used at most once; None if it is not one.

    Only integers, + - * / and parentheses are understood. Nothing is executed: the text is parsed to a syntax tree, its
    integers are checked against `numbers`, and only then is it computed, so time and size are bounded for any text.
    """
    text = text.strip(" \n")
    if len(text) > MAX_EXPRESSION_CHARS or not _EXPRESSION.fullmatch(text):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):
        return None
    used = Counter(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    if used - Counter(numbers):
        return None
    return _value(tree)


def _value(tree: ast.expr) -> Fraction | None:
    if isinstance(tree, ast.Constant):
        return Fraction(tree.value)  # type: ignore[arg-type]  # the expression pattern admits integers only
    if not isinstance(tree, ast.BinOp) or type(tree.op) not in _OPERATORS:
        return None
    left, right = _value(tree.left), _value(tree.right)
    if left is None or right is None or (isinstance(tree.op, ast.Div) and right == 0):
        return None
    return _OPERATORS[type(tree.op)](left, right)
