#!/usr/bin/env python
"""Measures how fast rewards are, what completions that try to break them earn, and what endless ones cost.

Usage: PYTHONPATH=. python benchmarks/rewards.py [COMPLETIONS [TASK ...]]
By default 100,000 completions for every task: half an hour. The task `time-outs` takes two minutes alone.
Writes benchmarks/results/rewards.json.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmzero.tasks.base import Example, Task, rewards_of
from llmzero.tasks.chemistry import ChemistrySettings, chemistry
from llmzero.tasks.countdown import Countdown, CountdownSettings
from llmzero.tasks.mathematics import MathSettings, mathematics
from llmzero.tasks.music import SheetMusicSettings, sheet_music
from llmzero.tasks.reasoning import ReasoningGym, ReasoningGymSettings
from llmzero.tasks.settings import TIMEOUT_S
from llmzero.tasks.verified import Verified

RESULTS = Path(__file__).resolve().parent / "results/rewards.json"
SIZES: dict[str, Any] = {"train_size": 200, "val_size": 200, "test_size": 20}
BATCH = 1000
TIME_OUTS = "time-outs"
BOMB, HONEST = "\\boxed{9^{9^{9^{9}}}}", "\\boxed{\\frac{14}{2}}"  # the first never ends; of 7
LIMIT_S = 2.0  # of a call that may never end
HONEST_S = 3.0  # seconds for which correct answers are judged
TASKS: dict[str, Callable[[], Any]] = {
    "countdown nano": lambda: Countdown(CountdownSettings(difficulty="nano", **SIZES)),
    "countdown full": lambda: Countdown(CountdownSettings(difficulty="full", **SIZES)),
    "ssmr nano": lambda: sheet_music(SheetMusicSettings(difficulty="nano", **SIZES)),
    "ssmr full": lambda: sheet_music(SheetMusicSettings(difficulty="full", **SIZES)),
    "chem nano": lambda: chemistry(ChemistrySettings(difficulty="nano", **SIZES)),
    "chem full": lambda: chemistry(ChemistrySettings(difficulty="full", **SIZES)),
    "math nano": lambda: mathematics(MathSettings(difficulty="nano", **SIZES)),
    "math full": lambda: mathematics(MathSettings(difficulty="full", workers=2, **SIZES)),
    "reasoning_gym leg_counting": lambda: ReasoningGym(
        ReasoningGymSettings(dataset="leg_counting", workers=2, **SIZES)
    ),
    "jsonl numeric": lambda: Verified("numeric", TIMEOUT_S, workers=1),
    "jsonl math": lambda: Verified("math", workers=2, timeout_s=1.0),
}
# Adversarial completions are concatenations of these.
PIECES = [
    *(
        "<answer>",
        "</answer>",
        "\\boxed{",
        "}",
        "{",
        "####",
        "((((((((((",
        "1" * 400,
        "9e999",
        "-",
        "\x00",
        "\ud800",
        "٣",
        "𝟗",
        "1/0",
        "%",
        "\n",
        " ",
    ),
    *(
        "10**10**10",
        "^{9}",
        "\\frac{1}{0}",
        "nan",
        "inf",
        "A",
        "(B)",
        "__import__('os').system('false')",
        "<answer>" * 50,
        "1," * 200,
        "🙂" * 30,
    ),
    *(
        "C1CC1",
        "[H]" * 60,
        "[" * 200,
        "%99",
        "*",
        ".",
        "c1ccccc1" * 40,
        "[13CH4]",
        "C" * 500,
        "^^__",
        "K:C",
        "|" * 100,
        "F#" * 50,
        "A B C D",
    ),
]


def adversarial(rng: random.Random, example: Example) -> str:
    """Return a concatenation of `PIECES` and words of the prompt, half of the time between answer tags."""
    own = example.prompt.split() or [""]
    begin, end = rng.choice([("", ""), ("<answer>", "</answer>")])
    text = "".join(
        rng.choice(PIECES) if rng.random() < 0.8 else rng.choice(own) for _ in range(rng.randint(0, 12))
    )
    return f"{begin}{text}{end}"


def main() -> None:
    """Measure the tasks of the command line, or all, and add them to the results."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[2:] or (*TASKS, TIME_OUTS):
        results[name] = time_outs() if name == TIME_OUTS else measure(TASKS[name](), count)
        print(name, results[name], flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def measure(task: Task, count: int) -> dict[str, Any]:
    """Return how many correct answers are judged a second, and what `count` adversarial completions earn."""
    examples = (
        task.split("val")
        if hasattr(task, "split")
        else [Example(str(n), f"What is {n} + 1?", str(n + 1)) for n in range(200)]
    )
    return {"honest_a_second": round(speed(task, examples)), **attack(task, examples, count)}


def speed(task: Task, examples: Sequence[Example]) -> float:
    """Return how many correct answers are judged a second."""
    if hasattr(task, "demonstration"):
        answers = [task.demonstration(example) for example in examples]
    else:
        answers = [f"<answer>{example.answer}</answer>" for example in examples]
    rewards_of(task, examples, answers)  # starts the worker processes
    judged, began = 0, time.perf_counter()
    while time.perf_counter() - began < HONEST_S:
        judged += len(rewards_of(task, examples, answers))
    return judged / (time.perf_counter() - began)


def attack(task: Task, examples: Sequence[Example], count: int) -> dict[str, Any]:
    """Return what adversarial completions earn; print each that counts as correct, for inspection."""
    rng, right, highest, began = random.Random(0), 0, 0.0, time.perf_counter()
    for start in range(0, count, BATCH):
        batch = [rng.choice(examples) for _ in range(min(BATCH, count - start))]
        texts = [adversarial(rng, example) for example in batch]
        for example, text, reward in zip(batch, texts, rewards_of(task, batch, texts), strict=True):
            assert 0 <= reward.value <= 1
            assert all(0 <= part <= 1 for part in reward.parts.values())
            highest = max(highest, reward.value)
            if reward.parts["correct"] > 0:
                right += 1
                print(f"  right: {example.prompt[-60:]!r} {text[:2000]!r} (answer {example.answer!r})")
    return {
        "adversarial": count,
        "adversarial_a_second": round(count / (time.perf_counter() - began)),
        "right": right,
        "highest_reward": highest,
    }


def time_outs() -> dict[str, Any]:
    """Return what answers that never end cost, in units of the limit of one call: alone and in batches."""
    task = Verified("math", LIMIT_S, workers=1)
    example = Example("1", "What is 14 / 2?", "7")

    def limits(*texts: str) -> float:
        began = time.perf_counter()
        found = [reward.value for reward in task.rewards([example] * len(texts), texts)]
        assert found == [float(text == HONEST) for text in texts]
        return round((time.perf_counter() - began) / LIMIT_S, 3)

    limits(HONEST)  # starts the processes
    return {
        "limit_s": LIMIT_S,
        "one": [limits(BOMB) for _ in range(4)],
        "honest_one_after_it": limits(HONEST),
        "batch_of_4": limits(*[BOMB] * 4),
        "batch_of_64_honest_and_64_endless": limits(*[BOMB, HONEST] * 64),
    }


if __name__ == "__main__":
    main()
