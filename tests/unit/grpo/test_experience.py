"""Which groups are kept, which reward each figure is made of, and whose completions are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmzero.core.compute import Arithmetic, Work
from llmzero.core.seeds import seed_of
from llmzero.grpo.batch import Sample
from llmzero.grpo.checkpoint import Position
from llmzero.grpo.data import DataOrder
from llmzero.grpo.distributed import World
from llmzero.grpo.evaluation import evaluate
from llmzero.grpo.experience import Collector, experience_metrics
from llmzero.grpo.nano import character_tokenizer
from llmzero.grpo.phases import Phases
from llmzero.grpo.settings import AlgorithmSettings
from llmzero.rollout.base import FinishReason, Rollouts, Sampling, prompt_seeds
from llmzero.tasks.base import Example, Reward

LONGEST, GROUP = 20, 4
ALPHABET = "abcdefgh+-wf"  # a prompt is a letter; a completion is +, - or f, and w to make it longer
ARITHMETIC = Arithmetic(linear=1000, head=100, attention=10)
START = Position(0, 0, 0, 0, 0, "base", 0, 0.0)


class Marks:
    """+ is right, h is half right, - is wrong, f is wrong and not even well-formed."""

    metric = "correct"

    def reward(self, example: Example, completion: str) -> Reward:
        right, formed = {"+": 1.0, "h": 0.5}.get(completion[0], 0.0), float(completion[0] != "f")
        return Reward(0.1 * formed + 0.9 * right, {"format": formed, "correct": right})


@dataclass
class Scripted:
    """A sampler whose completions depend on the prompt alone."""

    tokenizer: Any
    answers: dict[str, list[str]]
    asked: list[str] = field(default_factory=list)

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        self.asked += [self.tokenizer.decode(prompt) for prompt in prompts]
        texts = [text for prompt in prompts for text in self.answers[self.tokenizer.decode(prompt)]]
        completions = [self.tokenizer.encode(text)[:LONGEST] for text in texts]
        finish: list[FinishReason] = ["length" if len(c) == LONGEST else "stop" for c in completions]
        return Rollouts(list(prompts), completions, [[-1.0] * len(c) for c in completions], finish, GROUP)


LONG = "w" * LONGEST
GROUPS = {
    "a": ["+", "+", "-", "-"],  # right and wrong
    "b": ["-", "-", "-", "-" + LONG],  # wrong, and one of them overlong
    "c": ["+", "+", "+", "+" + LONG],  # right, and one of them overlong
    "d": ["-", "-", "f", "f" + LONG],  # wrong, and some without the form
    "e": ["-", "-", "-", "-"],  # wrong
    "g": ["+" + LONG, "-", "-", "-"],  # the penalty takes back what being right earned
    "h": ["h", "h", "h", "h"],  # half right
}
KEPT = "ag"


def collector(prompts: str, **algorithm: Any) -> Collector:
    tokenizer = character_tokenizer(ALPHABET)
    return Collector(
        task=Marks(),  # type: ignore[arg-type]
        policy=SimpleNamespace(tokenizer=tokenizer, arithmetic=ARITHMETIC),  # type: ignore[arg-type]
        sampler=Scripted(tokenizer, GROUPS),  # type: ignore[arg-type]
        world=World(0, 1, None),
        hparams={
            "prompts_per_step": 2,
            "group_size": GROUP,
            "max_completion_length": LONGEST,
            "temperature": 1.0,
        },
        algorithm=AlgorithmSettings(overlong="soft", overlong_buffer=0.5, **algorithm),
        data=DataOrder([Example(letter, letter, "") for letter in prompts], 0),
        phases=Phases(),
    )


def letters(samples: Sequence[Sample]) -> str:
    tokenizer = character_tokenizer(ALPHABET)
    return "".join(sorted({tokenizer.decode(sample.prompt) for sample in samples}))


def test_dynamic_sampling_keeps_groups_of_different_correctness_alone() -> None:
    """DAPO's equation 11: neither lengths nor forms make a group informative, and a penalty hides none."""
    made = collector("".join(GROUPS), dynamic_sampling=5)
    made.hparams["prompts_per_step"] = 4
    groups, metrics, position = made.collect(START)
    assert letters([s for group in groups for s in group]) == KEPT
    assert position.prompts_seen == metrics["prompts_sampled"] > 4
    made.set_advantages(groups)
    for group in groups:
        shaped = np.array([s.shaped_reward for s in group])
        expected = (shaped - shaped.mean()) / (shaped.std() + 1e-4) if shaped.std() > 1e-4 else 0 * shaped
        assert [s.advantage for s in group] == pytest.approx(expected.tolist(), abs=1e-5)
    assert any(s.advantage for group in groups for s in group)


@pytest.mark.parametrize("letter", sorted(set(GROUPS) - set(KEPT)))
@pytest.mark.parametrize("options", [{}, {"whiten": True}, {"advantage": "mean"}])
def test_a_batch_that_is_all_right_or_all_wrong_has_no_gradient_with_dynamic_sampling(
    letter: str, options: dict[str, Any]
) -> None:
    made = collector(letter, dynamic_sampling=2, **options)
    groups, metrics, _ = made.collect(START)
    made.set_advantages(groups)
    assert (len(groups), metrics["prompts_sampled"]) == (2, 6)
    assert {s.advantage for group in groups for s in group} == {0.0}
    completions = [len(answer[:LONGEST]) for answer in GROUPS[letter]]
    assert metrics["step_flops"] == ARITHMETIC.forward(Work.of([(1, completions)] * 6)), (
        "rejects cost as much"
    )


def test_without_dynamic_sampling_every_group_stays_and_penalties_count() -> None:
    made = collector("b")
    groups, _, _ = made.collect(START)
    made.set_advantages(groups)
    for group in groups:
        assert [s.shaped_reward for s in group] == pytest.approx([0.1, 0.1, 0.1, -0.9])
        assert group[3].advantage < 0 < group[0].advantage


@pytest.mark.parametrize(
    ("prompts", "same", "right", "wrong"),
    [
        ("e", 1.0, 0.0, 1.0),
        ("b", 1.0, 0.0, 1.0),
        ("c", 1.0, 1.0, 0.0),
        ("h", 1.0, 0.0, 0.0),
        ("d", 0.0, 0.0, 0.0),
        ("a", 0.0, 0.0, 0.0),
        ("ab", 0.5, 0.0, 0.5),
        ("cb", 1.0, 0.5, 0.5),
        ("ch", 1.0, 0.5, 0.0),
    ],
)
def test_metrics_are_of_the_tasks_own_reward(prompts: str, same: float, right: float, wrong: float) -> None:
    made = collector(prompts)
    groups, metrics, _ = made.collect(START)
    samples = [s for group in groups for s in group]
    values = np.array([s.reward.value for s in samples])
    assert metrics["zero_variance_groups"] == same
    assert (metrics["all_right_groups"], metrics["all_wrong_groups"]) == (right, wrong)
    assert metrics["reward_mean"] == pytest.approx(values.mean())
    assert metrics["reward_std"] == pytest.approx(values.std(), abs=1e-6)
    assert metrics["train_score"] == pytest.approx(np.mean([s.reward.parts["correct"] for s in samples]))
    for sample in samples:
        sample.shaped_reward -= len(sample.completion)
    assert metrics.items() >= experience_metrics(groups, "correct").items(), "whatever the penalty"


class Noted:
    """A sampler that draws whatever the seeds of its prompts say."""

    def __init__(self) -> None:
        self.drawn: list[tuple[tuple[int, ...], int]] = []

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        seeds = prompt_seeds(sampling, prompts)
        self.drawn += zip(map(tuple, prompts), seeds, strict=True)
        completions = [[3 + seed % 5] for seed in seeds for _ in range(sampling.n)]
        rows = len(completions)
        return Rollouts(list(prompts), completions, [[-1.0]] * rows, ["stop"] * rows, sampling.n)


def test_no_prompt_of_a_path_is_sampled_twice_with_one_seed() -> None:
    """Three problems for batches of five: copies within a batch, over the ends of epochs, and after a stage
    was resumed at its position.
    """
    made, noted = collector("abc"), Noted()
    made.sampler = noted  # type: ignore[assignment]
    made.task = SimpleNamespace(metric="correct", reward=lambda *_: Reward(0.0, {"correct": 0.0}))  # type: ignore
    made.hparams["prompts_per_step"], position = 5, START
    for _ in range(4):
        _, _, position = made.collect(position)
    assert len(noted.drawn) == 20
    assert len(set(noted.drawn)) == len({seed for _, seed in noted.drawn}) == 20
    first = prompt_seeds(Sampling(1, seed=seed_of(0, 0)), [list(prompt) for prompt, _ in noted.drawn[:5]])
    assert [seed for _, seed in noted.drawn[:5]] == first


@pytest.mark.parametrize("size", [2, 3])
def test_copies_are_counted_over_all_processes(size: int) -> None:
    examples = [Example(letter, letter, "") for letter in "aabab"]
    drawn = []
    for processes in (1, size):
        noted = Noted()
        for rank in range(processes):
            policy: Any = SimpleNamespace(tokenizer=character_tokenizer(ALPHABET))
            world: Any = SimpleNamespace(rank=rank, size=processes, gather=lambda value: [value])
            task: Any = SimpleNamespace(metric="right", reward=lambda *_: Reward(0.0, {"right": 0.0}))
            evaluate(task, examples, policy, noted, world, Sampling(4, 1.0, n=2, seed=1))  # type: ignore[arg-type]
        drawn.append(sorted(noted.drawn))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 5
