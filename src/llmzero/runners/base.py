"""The protocol between the driver and whatever runs stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmzero.core.hparams import Catalogue
from llmzero.core.length import Length
from llmzero.core.stage import StageResult, StageSpec, StageStatus

ENTRY_POINT = "llmzero.grpo.main.run_stage"  # by name: this half does not import it


class StageHandle(Protocol):
    """A stage under way, or ended."""

    def poll(self) -> StageStatus:
        """Return its state, the validation points so far and what it has used."""
        ...

    def stop(self) -> None:
        """Ask it to end gracefully; it keeps its checkpoint and its score."""
        ...

    def result(self) -> StageResult:
        """Return how it ended; only once `poll()` is final."""
        ...


class StageRunner(ABC):
    """Runs stages. `start` returns at once; many stages may be under way.

    Attributes:
        trains: whether stages are trained, so that there has to be a task and a model.
        repeatable: whether a lost stage costs nothing to make again, so that the search's log need not wait
            for the disk.
        any_length: whether stages of a path may differ in length from what the search is set to.
        processes_per_node: processes of a stage on one machine.
        exact: whether a stage of any length ends within half a step of it.
    """

    trains: bool = True
    repeatable: bool = False
    any_length: bool = True
    processes_per_node: int = 1
    exact: bool = True

    def warm_up(self, stage_config: Mapping[str, Any]) -> None:  # noqa: B027 - most need not
        """Get ready for stages in the background, as a search begins that will need them.

        Args:
            stage_config: the groups of the configuration that stages are made of.
        """

    def check(  # noqa: B027 - most run any stage
        self, seeds: Sequence[int], catalogue: Catalogue, length: Length, depth: int
    ) -> None:
        """Refuse a search some of whose stages could not be run.

        Args:
            seeds: its own, and those of its confirmation.
            catalogue: what its stages' hyperparameters may be.
            length: of its stages.
            depth: stages of a path at most.

        Raises:
            UserError: it is refused; the message names key and remedy.
        """

    @abstractmethod
    def start(self, spec: StageSpec) -> StageHandle:
        """Start a stage whose directory holds its `stage.json`."""

    @abstractmethod
    def attach(self, spec: StageSpec) -> StageHandle | None:
        """Return a handle of a stage that an earlier driver started; None where it is gone."""

    def describe(self, stages: Sequence[Path]) -> dict[str, str]:
        """Return what the runner tells of stages beyond their own files, such as the states of their jobs.

        Args:
            stages: directories of stages that have not ended.

        Returns:
            A line by the directory's name; stages that it tells nothing of are left out.
        """
        return {}

    def cancel(self, stages: Sequence[Path]) -> list[str]:
        """Take back those stages that wait to begin; return their directories' names."""
        return []

    def idle(self) -> Mapping[str, float]:
        """Return the device seconds that were held without a stage, by what held them.

        Amounts grow, over drivers too, and names come back with what was held since an earlier driver.
        """
        return {}

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what is held for further stages; the search is over."""
