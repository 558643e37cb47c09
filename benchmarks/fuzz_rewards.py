#!/usr/bin/env python
"""Gives tasks hostile completions and mutated right answers: none raises, and every batch ends in time.

Usage: PYTHONPATH=. python benchmarks/fuzz_rewards.py [--count COMPLETIONS] [--seed SEED] [TASK ...]
By default 100,000 completions for every task, about ten minutes a task. Prints a line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.rewards import PIECES, TASKS
from llmzero.tasks.base import Example, Task, rewards_of
from llmzero.tasks.guard import QUICK_S, TIMEOUTS_A_WORKER
from llmzero.tasks.settings import TIMEOUT_S
from llmzero.tasks.verified import Verified

BATCH = 250
LIMIT_S = QUICK_S * BATCH + TIMEOUTS_A_WORKER * TIMEOUT_S  # what a guard promises for a batch, by one worker
VERIFIERS = {
    "exact": "red wine",
    "numeric": "3 1/2",
    "choice": "B",
    "regex": "\\d+ apples?",
    "math": "(3,-2)",
}
MADE: dict[str, Callable[[], Any]] = {
    **TASKS,
    **{f"jsonl {name}": lambda name=name: Verified(name, TIMEOUT_S, workers=1) for name in VERIFIERS},  # type: ignore[misc]
}
DIGITS = "0123456789٣٤८４𝟗Ⅷ½²"
SIGNS = [
    *"+-−–*/^=<>≤%$€£,.;:!|&~#'\"`_\\?",
    "\\%",
    "\\$",
    "\\,",
    "{,}",
    "\u2009",
    "\u00a0",
    "\\pm",
    "\\times",
]
CONTROLS = [*"\x00\x01\x07\x08\t\n\x0b\x0c\r\x1b\x7f\x85\u2028\u200b\u202e\ufeff\ud800\udfff", "\r\n"]
COMMANDS = [
    "frac",
    "dfrac",
    "sqrt",
    "text",
    "boxed",
    "fbox",
    "overline",
    "left(",
    "right)",
    "begin{matrix}",
    "log",
]
OPENING = [
    "",
    "",
    "<answer>",
    "<answer",
    "< answer >",
    "<ANSWER>",
    "\\boxed{",
    "\\boxed ",
    "\\fbox{",
    "#### ",
    "<think>",
    "$",
    "**",
]
CLOSING = ["</answer>", "</ answer>", "</answer", "}", "</think>", "$", "**", "\n", ""]
WORDS = [
    "Step 2: add",
    "The answer is",
    "because I",
    "A cat",
    "and",
    "or",
    "not",
    "apples",
    "km",
    "B.",
    "(C)",
    "naïve",
    "Ответ",
    "答案",
]


def fuzzed(rng: random.Random, example: Example) -> str:
    """Return a completion: parts in a row, nested LaTeX, a deep tower, or the right answer, mutated."""
    return rng.choice(KINDS)(rng, example)


def _row(rng: random.Random, _example: Example) -> str:
    makers = (_number, lambda _: rng.choice(WORDS), lambda _: rng.choice(SIGNS), lambda _: rng.choice(PIECES))
    parts = [rng.choice(makers)(rng) for _ in range(rng.randint(0, 10))]
    return _stated(rng, rng.choice(("", " ")).join(parts))


def _nested(rng: random.Random, _example: Example) -> str:
    text = _number(rng)
    for _ in range(rng.randint(1, 12)):
        command, other = rng.choice(COMMANDS), rng.choice(("", f"{{{_number(rng)}}}", "}"))
        text = f"\\{command}{{{text}}}{other}"
    return _stated(rng, text)


def _tower(rng: random.Random, _example: Example) -> str:
    opening, closing = rng.choice(
        [("(", ")"), ("{", "}"), ("[", "]"), ("-", ""), ("x^{", "}"), ("1/(", ")"), ("!", "")]
    )
    depth = rng.choice((3, 30, 300, 3000))
    return _stated(rng, opening * depth + _number(rng) + closing * rng.choice((depth, depth - 1, 0)))


def _mutated(rng: random.Random, example: Example) -> str:
    text = list(example.answer)
    for _ in range(rng.randint(0, 4)):
        place = rng.randint(0, len(text))
        text[place : place + rng.randint(0, 1)] = rng.choice(
            (rng.choice(SIGNS), rng.choice(CONTROLS), _number(rng), " ")
        )
    return _stated(rng, "".join(text))


KINDS = (_row, _row, _nested, _tower, _mutated, _mutated)


def _number(rng: random.Random) -> str:
    """Return something like a number: with many digits, in mixed scripts, with a huge exponent."""
    alphabet = rng.choice(("0123456789", "0123456789", "0123456789", DIGITS))
    digits = "".join(rng.choices(alphabet, k=rng.choice((1, 1, 2, 3, 9, 40, 600, 5000))))
    form = rng.choice(
        (
            "{}",
            "{}",
            "{}.{}",
            "{}e{}",
            "{}e-{}",
            "{}/{}",
            "{} {}/{}",
            "{},{}",
            "1e{}",
            "10^{}",
            "9e99999/{}e-9",
        )
    )
    return form.format(*[digits] + [str(rng.randint(0, 10 ** rng.randint(1, 12))) for _ in range(3)])


def _stated(rng: random.Random, text: str) -> str:
    """Return a text between marks of an answer that may not fit each other, among other text."""
    before, after = (
        rng.choice(("", "", rng.choice(WORDS), rng.choice(CONTROLS), "<answer>1</answer>")) for _ in "ab"
    )
    if rng.random() < 0.4:
        return f"{before}<answer>{text}</answer>{after}"
    return f"{before}{rng.choice(OPENING)}{text}{rng.choice(CLOSING)}{after}"


def examples_of(task: Any) -> Sequence[Example]:
    """Return problems of a task; of a verifier, one with an answer that it reads."""
    if hasattr(task, "split"):
        return list(task.split("val"))
    return [Example("1", "", VERIFIERS[task.verifier])]


def fuzz(task: Task, count: int, seed: int) -> dict[str, Any]:
    """Reward `count` completions in batches; return what they cost.

    Raises:
        AssertionError: a reward is out of bounds, or a batch took longer than its limit.
    """
    rng, examples, slowest, full = random.Random(seed), examples_of(task), 0.0, 0
    rewards_of(task, examples[:1], ["1"])  # starts the processes
    for start in range(0, count, BATCH):
        batch = [rng.choice(examples) for _ in range(min(BATCH, count - start))]
        texts = [fuzzed(rng, example) for example in batch]
        began = time.perf_counter()
        rewards = rewards_of(task, batch, texts)
        slowest = max(slowest, time.perf_counter() - began)
        assert slowest <= LIMIT_S, (slowest, LIMIT_S)
        assert len(rewards) == len(batch)
        assert all(0 <= part <= 1 for reward in rewards for part in (reward.value, *reward.parts.values()))
        full += sum(reward.parts["correct"] == 1 for reward in rewards)
    return {"completions": count, "correct": full, "slowest_batch_s": round(slowest, 3), "limit_s": LIMIT_S}


def main() -> None:
    """Fuzz the tasks of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(MADE)}")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.tasks or MADE:
        began = time.perf_counter()
        found = fuzz(MADE[name](), options.count, options.seed)
        print(json.dumps({"task": name, **found, "seconds": round(time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main()
