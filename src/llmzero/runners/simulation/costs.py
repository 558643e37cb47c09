"""What a simulated stage costs: device seconds by the phases of a trainer, and compute by its formula."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.compute import Arithmetic, Work
from llmzero.runners.simulation.drive import Drive

# Of Qwen3-0.6B, which every landscape is said to train, with prompts of so many tokens.
ARITHMETIC = Arithmetic(linear=880_803_840, head=311_164_928, attention=229_376)
PROMPT = 128


@dataclass(frozen=True)
class Costs:
    """Device seconds at the reference: of a step's phases, a validation of 1000 examples, a stage's start.

    `sampling`, `logprobs`, `update` go with the completion tokens of a batch; `decode` with their greatest
    length; `optimizer` is an update's own.
    """

    sampling: float = 0.04
    decode: float = 0.03
    reward: float = 0.005
    logprobs: float = 0.03
    update: float = 0.11
    optimizer: float = 0.01
    validation: float = 0.6
    startup: float = 1.5


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Device seconds of one step."""

    generation: float
    reward: float
    logprobs: float
    update: float

    @property
    def total(self) -> float:
        """All phases together."""
        return self.generation + self.reward + self.logprobs + self.update


def step_seconds(costs: Costs, drive: Drive, length: float) -> StepSeconds:
    """Return the cost of a step; `length` of its completions is in multiples of the base model's."""
    tokens = drive.batch * length
    return StepSeconds(
        generation=costs.sampling * tokens + costs.decode * length,
        reward=costs.reward * drive.batch,
        logprobs=costs.logprobs * tokens if drive.kl_coef > 0 else 0.0,
        update=costs.update * tokens * drive.epochs + costs.optimizer * drive.updates,
    )


def step_flops(drive: Drive, length: float) -> float:
    """Return the compute of a step whose completions are so many tokens long."""
    group = Work.of([(PROMPT, [max(1, round(length))] * round(drive.group))])  # all groups are alike
    forward, passes = ARITHMETIC.forward(group), 2 if drive.kl_coef > 0 else 1
    return float(round(drive.prompts) * (passes * forward + round(drive.epochs) * ARITHMETIC.update(group)))


def validation_seconds(costs: Costs, examples: int, length: float) -> float:
    """Return what a validation costs."""
    return costs.validation * length * examples / 1000
