"""Scoring a policy on a split: greedy decoding, mean score, standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmzero.grpo.policy import encode_prompts
from llmzero.rollout.base import Engine, Rollouts, Sampling
from llmzero.tasks.base import Example, Reward, Task


def decode(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> list[str]:
    """Return the completions' texts."""
    return list(tokenizer.batch_decode(rollouts.completions, skip_special_tokens=True))


def score_completions(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> list[Reward]:
    """Reward completions; several in a row may answer the same example."""
    repeats = len(texts) // len(examples)
    return [task.reward(examples[i // repeats], text) for i, text in enumerate(texts)]


def evaluate(task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, sampler: Engine, max_tokens: int) -> dict[str, Any]:
    """Return `score`, `stderr`, `n`, `seconds` of greedy decoding on `examples`, and the scored completions as `rows`.

    The score is the mean of the task's metric; its standard error is that of a mean over independent examples.
    """
    started = time.perf_counter()
    rollouts = sampler.generate(encode_prompts(tokenizer, examples), Sampling(max_tokens, temperature=0.0))
    texts = decode(tokenizer, rollouts)
    rewards = score_completions(task, examples, texts)
    scores = [reward.parts[task.metric] for reward in rewards]
    n = len(scores)
    mean = sum(scores) / n
    variance = sum((score - mean) ** 2 for score in scores) / max(1, n - 1)
    rows = [
        {"prompt": example.prompt, "completion": text, "reward": reward.value, "parts": reward.parts}
        for example, text, reward in zip(examples, texts, rewards, strict=True)
    ]
    return {"score": mean, "stderr": math.sqrt(variance / n), "n": n, "seconds": time.perf_counter() - started, "rows": rows}
