"""How long a stage is: a number of GRPO steps, or an amount of compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

LENGTHS = (0.5, 2.0)  # of a stage that an agent sizes, in multiples of the usual one of its search


def flops_text(flops: float | None) -> str:
    """Return an amount of compute for people."""
    return "unknown FLOPs" if flops is None else f"{flops:.3g} FLOPs"


@dataclass(frozen=True)
class Length:
    """The length of a stage; one of the two is set. 0 steps only evaluate.

    Raises:
        ValueError: both are set, or none.
    """

    steps: int | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.flops is None):
            raise ValueError(f"steps={self.steps}, flops={self.flops}: one of them has to be null")

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.flops is None else flops_text(self.flops)

    def times(self, factor: float) -> Length:
        """Return it a number of times, of steps one at least."""
        if self.steps is not None:
            return Length(max(1, round(self.steps * factor)) if self.steps else 0)
        return Length(flops=(self.flops or 0.0) * factor)

    def is_about(self, other: Length) -> bool:
        """Return whether it is the same, but for what rounding makes of FLOPs."""
        if self.flops is None or other.flops is None:
            return self == other
        return math.isclose(self.flops, other.flops, rel_tol=1e-6)

    def expected_steps(self, step: int, flops: float | None) -> int:
        """Return how many steps it is, of FLOPs after what its steps have cost; the arguments are those of
        `share`.
        """
        if self.steps is not None:
            return self.steps
        share = self.share(step, flops)
        return max(step, round(step / share)) if share else step

    def left(self, step: int, flops: float | None) -> float:
        """Return how much is left, in steps or FLOPs; the arguments are those of `share`."""
        return (1 - self.share(step, flops)) * (self.flops if self.flops is not None else self.steps or 0)

    def share(self, step: int, flops: float | None) -> float:
        """Return how much of the stage is done, 0 to 1.

        Args:
            step: steps that were taken.
            flops: what they have cost; None is unknown, as only of a stage sized in steps.
        """
        done, whole = (flops or 0.0, self.flops) if self.flops is not None else (step, self.steps)
        return min(1.0, done / whole) if whole else 1.0

    def is_due(
        self, step: int, before: float | None, flops: float | None, every: int, validations: int | None
    ) -> bool:
        """Return whether a validation follows a step.

        Args:
            step: its number in the stage.
            before: what the steps before it have cost.
            flops: what they and it have cost.
            every: steps from one validation to the next.
            validations: how many there are over the length, in place of one each `every` steps.
        """
        if self.ends(step, flops):
            return True
        if validations is None:
            return step % every == 0
        return int(validations * self.share(step, flops)) > int(validations * self.share(step - 1, before))

    def ends(self, step: int, flops: float | None) -> bool:
        """Return whether the stage ends after a step; it takes one at least, unless it only evaluates.

        One sized in FLOPs ends with the step that comes nearest to its length, judged by what its steps have
        cost on average: where half a step more would go beyond it.
        """
        if self.flops is None:
            return step >= (self.steps or 0)
        return step > 0 and (flops or 0.0) * (1 + 0.5 / step) >= self.flops
