"""Scoring a policy on a split: mean score, standard error, pass@k."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmzero.grpo.data import is_number
from llmzero.grpo.distributed import World
from llmzero.grpo.policy import Policy, encode_prompts
from llmzero.rollout.base import Engine, Sampling, copies_before
from llmzero.tasks.base import Example, Reward, Task, rewards_of

MOST_LEVELS = 8  # of difficulty that are told apart; more of them are told in ranges
RANGES = 5


@dataclass(frozen=True)
class Evaluation:
    """What a policy scored on a split.

    Attributes:
        score: mean over examples of the mean over their samples; `stderr` is that of a mean over independent
            examples.
        pass_at: k -> (estimate, standard error), for powers of two up to the number of samples.
        subtasks: name -> (score, standard error, n) of the examples of a kind; see `kinds_of`.
        rows: scored completions of this process's share of the examples: prompt, the right answer where the
            task has one, reward, its parts, score, and the kind as `subtask` where there is one.
    """

    score: float
    stderr: float
    n: int
    seconds: float
    pass_at: dict[int, tuple[float, float]]
    subtasks: dict[str, tuple[float, float, int]]
    rows: list[dict[str, Any]]


def decode(tokenizer: PreTrainedTokenizerBase, completions: Sequence[list[int]]) -> list[str]:
    """Return the completions' texts."""
    # Transformers decodes no completions as one empty text.
    return list(tokenizer.batch_decode(completions, skip_special_tokens=True)) if completions else []


def score_completions(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> list[Reward]:
    """Reward completions; several in a row may answer the same example."""
    repeats = len(texts) // max(1, len(examples))
    return rewards_of(task, [examples[i // repeats] for i in range(len(texts))], texts)


def evaluate(
    task: Task, examples: Sequence[Example], policy: Policy, sampler: Engine, world: World, sampling: Sampling
) -> Evaluation:
    """Score `sampling.n` completions of every example; every process scores a share, and all return the
    whole's figures.
    """
    started = time.perf_counter()
    prompts, share = encode_prompts(policy.tokenizer, examples), slice(world.rank, None, world.size)
    own, kinds = examples[share], kinds_of(examples)[share]
    sampling = replace(sampling, copies=copies_before(prompts)[share])
    rollouts = sampler.generate(prompts[share], sampling)
    texts = decode(policy.tokenizer, rollouts.completions)
    rewards = score_completions(task, own, texts)
    scores = [reward.parts[task.metric] for reward in rewards]
    by_example = [(kind, scores[i * sampling.n : (i + 1) * sampling.n]) for i, kind in enumerate(kinds)]
    gathered = [pair for share in world.gather(by_example) for pair in share]
    everything = [row for _, row in gathered]
    score, stderr = mean_and_stderr([sum(row) / len(row) for row in everything])
    rows = [
        {
            "prompt": own[i // sampling.n].prompt,
            "completion": text,
            "reward": reward.value,
            "parts": reward.parts,
            "score": reward.parts[task.metric],
            **({"answer": answer} if (answer := own[i // sampling.n].answer) else {}),
            **({"subtask": kind} if (kind := kinds[i // sampling.n]) else {}),
        }
        for i, (text, reward) in enumerate(zip(texts, rewards, strict=True))
    ]
    powers = [2**i for i in range(sampling.n.bit_length())] if sampling.n > 1 else []
    pass_at = {
        k: mean_and_stderr([pass_at_k(len(row), sum(s >= 1.0 for s in row), k) for row in everything])
        for k in powers
    }
    return Evaluation(
        score, stderr, len(everything), time.perf_counter() - started, pass_at, by_subtask(gathered), rows
    )


def kinds_of(examples: Sequence[Example]) -> list[str | None]:
    """Return the kind of each example, by which scores are told apart: the subtask that its `meta` names, or
    where none does the difficulty, in ranges of about equally many where there are many of them.
    """
    names = [example.meta.get("subtask") for example in examples]
    told = [example.meta.get("difficulty") for example in examples]
    levels = [float(level) for level in told if is_number(level)]
    if any(names) or len(levels) < len(told) or len(set(levels)) < 2:
        return names
    ordered = sorted(levels)
    tops = sorted(set(ordered))
    if len(tops) > MOST_LEVELS:
        tops = sorted({ordered[-(-len(ordered) * (i + 1) // RANGES) - 1] for i in range(RANGES)})
    lowest = [ordered[0], *(min(level for level in ordered if level > top) for top in tops[:-1])]
    texts = [
        f"difficulty {low:g}" if low == top else f"difficulty {low:g} to {top:g}"
        for low, top in zip(lowest, tops, strict=True)
    ]
    return [texts[bisect_left(tops, level)] for level in levels]


def by_subtask(scored: Sequence[tuple[str | None, list[float]]]) -> dict[str, tuple[float, float, int]]:
    """Return score, standard error and number of the examples of each subtask."""
    scores: dict[str, list[float]] = defaultdict(list)
    for name, row in scored:
        if name is not None:
            scores[name].append(sum(row) / len(row))
    return {name: (*mean_and_stderr(values), len(values)) for name, values in sorted(scores.items())}


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / max(1, n - 1)
    return mean, math.sqrt(variance / n)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the chance that k of n samples, `correct` of them right, hold a right one: Chen et al. (arXiv
    2107.03374), equation 1.
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
