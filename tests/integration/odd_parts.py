"""Tasks and an engine that misbehave where they are told to; a `stage.json` names them by `_target_`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmzero.grpo.data import DataOrder
from llmzero.grpo.loss import LOSSES, LossSettings
from llmzero.rollout.base import Rollouts, Sampling, Weights
from llmzero.rollout.settings import TorchEngineSettings
from llmzero.rollout.torch_engine import TorchEngine
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.countdown import Countdown, CountdownSettings

NO_MACHINE_HAS = 2**58  # bytes


class Poisoned(Countdown):
    """Rewards whose sums have no bound in float32, in the given steps of a path (from 1)."""

    def __init__(self, steps: Sequence[int], prompts_per_step: int, data_seed: int, **settings: Any) -> None:
        super().__init__(CountdownSettings(**settings))
        self.rewarded = 0
        order = DataOrder(self.split("train"), data_seed)
        self.poisoned = {
            example.id
            for step in steps
            for example in order.take((step - 1) * prompts_per_step, prompts_per_step)
        }

    def reward(self, example: Example, completion: str) -> Reward:
        self.rewarded += 1
        honest = super().reward(example, completion)
        huge = 2e38 if self.rewarded % 2 else 3e38
        return Reward(huge, honest.parts) if example.id in self.poisoned else honest


class Unrewarding(Countdown):
    """No completion earns a number."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(CountdownSettings(**settings))

    def reward(self, example: Example, completion: str) -> Reward:
        return Reward(float("nan"), super().reward(example, completion).parts)


class Terse(Countdown):
    """The shorter, the better: a score that training raises at once."""

    metric = "short"

    def reward(self, example: Example, completion: str) -> Reward:
        value = 1 / (1 + len(completion))
        return Reward(value, {"short": value})


class Dull(Countdown):
    """All completions of a share of the prompts earn the same; those of the others earn 0 and 1 in turn."""

    def __init__(self, share: float, **settings: Any) -> None:
        super().__init__(CountdownSettings(**settings))
        self.share, self.rewarded = share, 0

    def dull(self, example: Example) -> bool:
        return int(example.id, 16) % 1000 < 1000 * self.share

    def reward(self, example: Example, completion: str) -> Reward:
        self.rewarded += 1
        value = 0.5 if self.dull(example) else float(self.rewarded % 2)
        return Reward(value, {"format": 1.0, "correct": value})


class Journal(Countdown):
    """Writes down every completion with its reward, which knows three values."""

    def __init__(self, journal: str, **settings: Any) -> None:
        super().__init__(CountdownSettings(**settings))
        self.journal = Path(journal)

    def reward(self, example: Example, completion: str) -> Reward:
        value = len(completion) % 3 / 2
        with self.journal.open("a") as file:
            print(json.dumps({"completion": completion, "reward": value}), file=file)
        return Reward(value, {"format": 1.0, "correct": value})


class Hungry(TorchEngine):
    """Asks for more memory than there is, in the generation or the update of a step of a stage (from 2)."""

    def __init__(self, phase: str, step: int, **settings: Any) -> None:
        super().__init__(TorchEngineSettings(**settings))
        self.phase, self.step, self.current = phase, step, 0

    def start(self, weights: Weights) -> None:
        super().start(weights)
        next(weights.model.parameters()).register_hook(lambda _gradient: self._ask("update"))

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        if sampling.temperature > 0:  # validation is greedy
            self._ask("generation")
        return super().generate(prompts, sampling)

    def load_weights(self, weights: Weights) -> None:
        super().load_weights(weights)
        self.current += 1

    def _ask(self, phase: str) -> None:
        if (phase, self.current) == (self.phase, self.step):
            torch.empty(NO_MACHINE_HAS, dtype=torch.uint8)


def _half(ratio: Tensor, logprobs: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    return LOSSES["grpo"].surrogate(ratio, logprobs, advantages, settings) / 2


HALVED = replace(LOSSES["grpo"], surrogate=_half)  # half of GRPO's objective


class Slow(Countdown):
    """Every reward takes its time."""

    def __init__(self, pause_s: float, **settings: Any) -> None:
        super().__init__(CountdownSettings(**settings))
        self.pause_s = pause_s

    def reward(self, example: Example, completion: str) -> Reward:
        time.sleep(self.pause_s)
        return super().reward(example, completion)
