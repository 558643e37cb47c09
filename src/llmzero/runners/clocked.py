"""What a stage on the simulated clock is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from llmzero.core.stage import FinalState, StageDir, StageResult, StageSpec, ValidationPoint


class ClockedStage(ABC):
    """A stage that is gone through from one validation to the next, at moments of a clock.

    Attributes:
        spec: what it was asked for; `stage`: its directory.
        points: the validations so far.
        spent: device seconds up to the last of them; `due`: up to the next.
        validated: share of the length that was done there, and the stage's compute.
        failure: how it fails at `due`; None where it goes on.
    """

    spec: StageSpec
    stage: StageDir
    points: list[ValidationPoint]
    spent: float
    due: float
    validated: tuple[float, float]
    failure: Any

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether it has come to its end."""

    @abstractmethod
    def prepare(self) -> None:
        """Compute up to the next validation, or to where it fails."""

    @abstractmethod
    def validate(self) -> None:
        """Write that validation, and what led to it."""

    @abstractmethod
    def _score(self) -> ValidationPoint:
        """Take that validation, and write nothing."""

    def take_up(self) -> None:
        """Go again up to the last validation that an earlier driver wrote, and write nothing of it."""
        written = self.stage.validation()
        for _ in written:
            self.prepare()
            self._score()
        if written:  # a driver may have been killed between metrics and validation
            self.stage.truncate_after(written[-1].step)

    @abstractmethod
    def end(self, state: FinalState, began: float) -> StageResult:
        """Write the checkpoints and the result of a stage that began at a moment of the clock."""

    @abstractmethod
    def fail(self, failure: Any, began: float) -> StageResult:
        """Write the result of a stage that has failed."""
