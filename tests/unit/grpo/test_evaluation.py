from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from llmzero.grpo.evaluation import (
    Evaluation,
    by_subtask,
    evaluate,
    kinds_of,
    mean_and_stderr,
    pass_at_k,
    score_completions,
)
from llmzero.grpo.nano import character_tokenizer
from llmzero.rollout.base import Rollouts, Sampling
from llmzero.tasks.base import Example, Reward


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n: int) -> None:
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([i < correct for i in range(n)], k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("values", [[0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0], [0.3, 0.5, 0.9, 0.1, 0.2, 0.2]])
def test_the_standard_error_is_that_of_a_mean_of_independent_examples(values: list[float]) -> None:
    mean, stderr = mean_and_stderr(values)
    assert mean == pytest.approx(statistics.fmean(values))
    assert stderr == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))


def test_a_single_example_has_no_standard_error() -> None:
    assert mean_and_stderr([0.4]) == (0.4, 0.0)


class Digits:
    """The score is right where the completion is the answer; half of it for any digit."""

    metric = "correct"

    def reward(self, example: Example, completion: str) -> Reward:
        return Reward(
            float(completion == example.answer),
            {"correct": 1.0 if completion == example.answer else 0.5 * completion.isdigit()},
        )


class Scripted:
    """A sampler whose completions depend on the prompt alone."""

    def __init__(self, tokenizer: Any, answers: dict[str, list[str]]) -> None:
        self.tokenizer, self.answers = tokenizer, answers

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        texts = [
            text for prompt in prompts for text in self.answers[self.tokenizer.decode(prompt)][: sampling.n]
        ]
        completions = [[*self.tokenizer.encode(text), self.tokenizer.eos_token_id] for text in texts]
        return Rollouts(
            list(prompts),
            completions,
            [[0.0] * len(c) for c in completions],
            ["stop"] * len(texts),
            sampling.n,
        )


@dataclass
class Share:
    """One of several processes; `others` are what the others hand over."""

    rank: int
    size: int
    others: list[Any] = field(default_factory=list)
    handed: Any = None

    def gather(self, value: Any) -> list[Any]:
        self.handed = value
        return [*self.others[: self.rank], value, *self.others[self.rank + 1 :]] if self.others else [value]


ANSWERS = {
    "1+1": ["2", "2", "3", "x"],
    "1+2": ["x", "x", "3", "1"],
    "2+2": ["4", "4", "4", "4"],
    "2+3": ["x", "+", "x", "+"],
    "3+3": ["6", "1", "2", "x"],
}
EXAMPLES = [Example(str(i), prompt, str(int(prompt[0]) + int(prompt[2]))) for i, prompt in enumerate(ANSWERS)]


def evaluation(world: Any, n: int) -> Evaluation:
    tokenizer = character_tokenizer("0123456789+x")
    policy: Any = SimpleNamespace(tokenizer=tokenizer)
    sampler: Any = Scripted(tokenizer, ANSWERS)
    return evaluate(Digits(), EXAMPLES, policy, sampler, world, Sampling(4, n=n))  # type: ignore[arg-type]


def test_the_score_is_the_mean_over_examples_of_the_mean_over_their_samples() -> None:
    found = evaluation(Share(0, 1), 4)
    by_example = [(1 + 1 + 0.5 + 0) / 4, (0 + 0 + 1 + 0.5) / 4, 1.0, 0.0, (1 + 0.5 + 0.5 + 0) / 4]
    assert found.n == 5
    assert found.score == pytest.approx(statistics.fmean(by_example))
    assert found.stderr == pytest.approx(statistics.stdev(by_example) / math.sqrt(5))
    assert [(row["prompt"], row["completion"]) for row in found.rows] == [
        (prompt, text) for prompt, texts in ANSWERS.items() for text in texts
    ]
    assert found.rows[0]["reward"] == 1.0
    assert found.rows[2]["parts"] == {"correct": 0.5}
    assert [row["score"] for row in found.rows[:4]] == [1.0, 1.0, 0.5, 0.0]


def test_pass_at_counts_completions_that_are_entirely_right() -> None:
    found = evaluation(Share(0, 1), 4)
    right = [2, 1, 4, 0, 1]
    assert set(found.pass_at) == {1, 2, 4}
    for k, (chance, stderr) in found.pass_at.items():
        each = [1 - math.comb(4 - c, k) / math.comb(4, k) for c in right]
        assert (chance, stderr) == pytest.approx(
            (statistics.fmean(each), statistics.stdev(each) / math.sqrt(5))
        )
    assert set(evaluation(Share(0, 1), 3).pass_at) == {1, 2}


def test_greedy_evaluation_has_no_chances() -> None:
    found = evaluation(Share(0, 1), 1)
    assert found.pass_at == {}
    assert found.score == pytest.approx((1 + 0 + 1 + 0 + 1) / 5)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_figures_do_not_depend_on_the_number_of_processes(size: int) -> None:
    alone = evaluation(Share(0, 1), 4)
    first = [Share(rank, size) for rank in range(size) if rank < len(EXAMPLES)]
    for share in first:
        evaluation(share, 4)
    handed = [share.handed for share in first] + [[]] * (size - len(first))
    rows: list[Any] = []
    for rank in range(size):
        found = evaluation(Share(rank, size, handed), 4)
        rows += found.rows
        assert (found.score, found.stderr, found.n) == pytest.approx((alone.score, alone.stderr, alone.n))
        assert found.pass_at.keys() == alone.pass_at.keys()
        for k, pair in found.pass_at.items():
            assert pair == pytest.approx(alone.pass_at[k])
    assert sorted(map(str, rows)) == sorted(map(str, alone.rows))


def test_several_completions_in_a_row_answer_the_same_example() -> None:
    rewards = score_completions(Digits(), EXAMPLES[:2], ["2", "3", "2", "3"])  # type: ignore[arg-type]
    assert [reward.value for reward in rewards] == [1.0, 0.0, 0.0, 1.0]
    assert score_completions(Digits(), [], []) == []  # type: ignore[arg-type]


def test_scores_of_subtasks_are_means_over_their_examples() -> None:
    scored = [("chord", [1.0, 0.0]), (None, [1.0, 1.0]), ("chord", [1.0, 1.0]), ("scale", [0.0, 0.0])]
    assert by_subtask(scored) == {"chord": (0.75, 0.25, 2), "scale": (0.0, 0.0, 1)}


def test_examples_without_subtasks_are_told_apart_by_difficulty() -> None:
    def kinds(*levels: Any, **meta: Any) -> list[str | None]:
        told = [{"difficulty": level, **meta} for level in levels]
        return kinds_of([Example(str(i), "", "", each) for i, each in enumerate(told)])

    assert kinds(3, 1, 2.5) == ["difficulty 3", "difficulty 1", "difficulty 2.5"]
    pairs = [f"difficulty {low} to {low + 1}" for low in range(1, 11, 2)]
    assert kinds(*range(1, 11)) == [pair for pair in pairs for _ in range(2)], "five ranges of as many"
    assert kinds(*[1] * 90, *range(2, 12))[89:91] == ["difficulty 1", "difficulty 2 to 11"]
    assert kinds(1, 2, subtask="chord") == ["chord", "chord"]
    assert kinds(1, None) == kinds(1, "hard") == kinds(2, 2) == [None, None], "tells nothing, or not of all"
    assert kinds() == []
