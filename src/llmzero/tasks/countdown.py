"""`task=countdown`: reach a target with some numbers and + - * /, each number used at most once."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from llmzero.core.settings import setting
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.expressions import evaluate
from llmzero.tasks.generated import DEFAULT_SIZES, Generated, generated_sizes
from llmzero.tasks.settings import FORMED, GeneratedTaskSettings
from llmzero.tasks.splits import content_id
from llmzero.tasks.template import prompt_template

# Numbers stay integers until a division: fractions are slower.
_OPERATORS: dict[str, Callable[[Any, Any], int | Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": Fraction,
}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class Difficulty:
    """Ranges of the generator. Numbers and targets are positive integers, bounds included."""

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
    """A partial expression: text, exact value and the precedence of its outermost operator (3: a number)."""

    text: str
    value: int | Fraction
    precedence: int = 3


@dataclass
class CountdownSettings(GeneratedTaskSettings):
    """`task=countdown`."""

    train_size: int = setting(DEFAULT_SIZES["train"], "training examples", low=1)
    val_size: int = setting(DEFAULT_SIZES["val"], "validation examples", low=2)
    test_size: int = setting(DEFAULT_SIZES["test"], "test examples", low=2)

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        if self.difficulty == "nano":
            asked = "Prompts such as `3,5,9=11:` ask for an expression"
        else:
            asked = "Questions in words ask for an expression in <answer> tags, after reasoning,"
        symbols = " ".join(DIFFICULTIES[self.difficulty].operators)
        rule = f"with {symbols} over given numbers, each used at most once, that equals a target."
        return f"{asked} {rule} {FORMED}"


class Countdown(Generated):
    """The Countdown numbers game, generated.

    `nano` difficulty writes three numbers and the target in characters. `full` difficulty has three to six
    numbers, and asks in words for reasoning and an `<answer>` tag; a template makes its prompts from
    `numbers` and `target`.
    """

    metric = "correct"
    alphabet = "0123456789+-*/() ,=:"

    def __init__(self, settings: CountdownSettings) -> None:
        super().__init__(f"countdown/{settings.difficulty}", generated_sizes(settings.sizes()), settings.seed)
        self.difficulty = settings.difficulty
        self.template = prompt_template("countdown", settings.template)

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for a well-formed expression over the numbers, and 0.9 more if it equals the target."""
        text = completion if self.difficulty == "nano" else answers.stated(completion) or ""
        value = evaluate(text, example.meta["numbers"])
        return weighted(float(value is not None), float(value == example.meta["target"]))

    def demonstration(self, example: Example) -> str:
        """Return a completion that earns the full reward."""
        return self._completion(example.answer)

    def careless(self, example: Example) -> str:
        """Return a thoughtless completion: the sum of the first two numbers, well-formed and mostly wrong."""
        return self._completion("+".join(map(str, example.meta["numbers"][:2])))

    def _completion(self, expression: str) -> str:
        return expression if self.difficulty == "nano" else f"<answer> {expression} </answer>"

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem; None where a division by zero or a target out of range came up."""
        level = DIFFICULTIES[self.difficulty]
        numbers = [rng.randint(1, level.max_number) for _ in range(rng.randint(*level.count))]
        term = _random_expression(numbers, level.operators, rng)
        if term is None or term.value.denominator != 1 or not 1 <= term.value <= level.max_target:
            return None
        target = int(term.value)
        prompt = f"{','.join(map(str, numbers))}={target}:"
        if self.difficulty == "full":
            prompt = self.template.render(numbers=numbers, target=target)
        content = f"countdown:{','.join(map(str, sorted(numbers)))}={target}"
        return Example(content_id(content), prompt, term.text, {"numbers": numbers, "target": target})


def _random_expression(numbers: list[int], operators: str, rng: random.Random) -> _Term | None:
    """Combine all numbers by random operators in random order; None where a division by zero comes up."""
    terms = [_Term(str(n), n) for n in numbers]
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
    return _Term(left_text + symbol + right_text, _OPERATORS[symbol](left.value, right.value), precedence)
