"""Mathematics: remainders in characters for the nano model, word problems, GSM8K and MATH. Answers are checked by math-verify."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal

from llmzero.errors import UserError
from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, Split, split_of, weighted
from llmzero.tasks.generated import Generated, content_id
from llmzero.tasks.verified import Verified
from llmzero.tasks.word_problems import word_problem

ASKED = "{question}\n\nThink step by step, then give the final answer alone inside <answer> </answer> tags, for example <answer> 42 </answer>."
LARGEST = 80
MODULI = (5, 10)
SOURCES = {
    "gsm8k": {"path": "openai/gsm8k", "name": "main", "question": "question", "answer": "answer"},
    "math": {"path": "EleutherAI/hendrycks_math", "name": "algebra", "question": "problem", "answer": "solution"},
}


def mathematics(
    difficulty: Literal["nano", "full"],
    source: Literal["generated", "gsm8k", "math"] = "generated",
    path: str | None = None,
    subset: str | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Remainders | WordProblems | Published:
    """Return the task that a configuration describes.

    Args:
        difficulty: `nano` is remainders of sums and differences, `full` asks in words.
        source: of `full`: generated word problems, or a published data set.
        path: of a published data set: where it lies instead of on the hub, a directory or file that `datasets` loads.
        subset: of a published data set, such as a subject of MATH; null is its usual one.
        train_size: examples for training; null is all that a published data set has, and 4800 generated ones.
        val_size: the same for validation; null is 1000 generated ones.
        test_size: the same for the test; null is 1000 generated ones.
        seed: of the generators.
        workers: processes that check answers.
    """
    given = {"train": train_size, "val": val_size, "test": test_size}
    if difficulty == "full" and source != "generated":
        return Published(source, path, subset, given, workers)
    sizes = {"train": train_size or 4800, "val": val_size or 1000, "test": test_size or 1000}
    return Remainders(sizes, seed) if difficulty == "nano" else WordProblems(sizes, seed, workers)


class Remainders(Generated):
    """Sums and differences of two numbers up to 80, modulo 5 or 10, written in characters: `38+45%10=`."""

    metric = "correct"
    alphabet = "0123456789+-%="

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        super().__init__("math/nano", sizes, seed)

    def draw(self, rng: random.Random) -> Example:
        """Return a problem; the remainder is not negative."""
        first, second, sign, modulus = rng.randint(1, LARGEST), rng.randint(1, LARGEST), rng.choice("+-"), rng.choice(MODULI)
        result = (first + second if sign == "+" else first - second) % modulus
        text = f"{first}{sign}{second}%{modulus}"
        return Example(content_id(f"remainder:{text}"), f"{text}=", str(result), {"first": first, "modulus": modulus})

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for a number and nothing else, and 0.9 more for the right one."""
        text = completion.strip()
        number = float(text.isascii() and text.isdigit() and len(text) <= 6)
        correct = float(bool(number) and str(int(text)) == example.answer)
        return weighted(number, correct)

    def demonstration(self, example: Example) -> str:
        """Return the result."""
        return example.answer

    def careless(self, example: Example) -> str:
        """Return the remainder of the first number, as somebody writes who forgets the second."""
        return str(example.meta["first"] % example.meta["modulus"])


class _Stated(Verified):
    """Answers in words: 0.1 for stating one where it was asked for, 0.9 more for the right one."""

    def __init__(self, workers: int) -> None:
        super().__init__("math", workers=workers)

    def rewards(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Reward]:
        """Reward completions; one that states no answer earns nothing."""
        found = [answers.stated(completion) for completion in completions]
        judged = iter(self.compared([(text, example.answer) for text, example in zip(found, examples, strict=True) if text is not None]))
        return [weighted(0.0, 0.0) if text is None else weighted(1.0, next(judged)) for text in found]


class WordProblems(Generated, _Stated):
    """Generated grade-school problems of two to four steps."""

    def __init__(self, sizes: dict[str, int], seed: int, workers: int = 1) -> None:
        Generated.__init__(self, "math/full", sizes, seed)
        _Stated.__init__(self, workers)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem with an answer that is a positive integer."""
        question, answer = word_problem(rng)
        return Example(content_id(f"word:{question}"), ASKED.format(question=question), str(answer)) if answer > 0 else None


class Published(_Stated):
    """A data set of the hub, or a copy of it. Its test split is our test split; its training split is divided by the hash of the problem."""

    def __init__(self, source: str, path: str | None, subset: str | None, sizes: Mapping[str, int | None], workers: int = 1) -> None:
        super().__init__(workers)
        self.source, self.path, self.subset, self.sizes = source, path, subset, sizes
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        return self._splits()[name]

    def _load(self) -> dict[str, list[Example]]:
        known = SOURCES[self.source]
        rows = _hub_rows(self.path or known["path"], None if self.path else self.subset or known["name"])
        test = {example.id: example for example in _examples(rows["test"], known)}
        taught = {example.id: example for example in _examples(rows["train"], known) if example.id not in test}
        val = [example for example in taught.values() if split_of(example.id) == "val"]
        train = [example for example in taught.values() if split_of(example.id) != "val"]
        found = {"train": train, "val": val, "test": list(test.values())}
        return {name: list(islice(examples, self.sizes[name])) for name, examples in found.items()}


def _examples(rows: Iterable[Mapping[str, Any]], known: Mapping[str, str]) -> Iterable[Example]:
    for row in rows:
        question, solution = str(row[known["question"]]).strip(), str(row[known["answer"]])
        answer = answers.stated(solution)
        if answer is not None:
            yield Example(content_id(" ".join(question.split())), ASKED.format(question=question), answer.replace(",", ""))


def _hub_rows(path: str, name: str | None) -> Any:
    """Load a data set.

    Raises:
        UserError: `datasets` is not installed, or the data set cannot be had.
    """
    if find_spec("datasets") is None:
        raise UserError("task=math task.source=...: needs the package datasets: pip install 'llmzero[tasks]'")
    from datasets import load_dataset

    try:
        return load_dataset(path, name)
    except Exception as error:  # of the hub, the network, the files
        raise UserError(f"task=math: the data set {path} cannot be loaded ({error}); give a copy of it as task.path=DIRECTORY") from error
