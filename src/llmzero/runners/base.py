"""The protocol between the driver and whatever runs stages."""

from __future__ import annotations

from typing import Protocol

from llmzero.core.stage import StageResult, StageSpec, StageStatus


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


class StageRunner(Protocol):
    """Runs stages. `start` returns at once; many stages may be under way.

    With an attribute `repeatable` that is true, the search's log does not wait for the disk: a lost stage costs nothing to make again.
    """

    def start(self, spec: StageSpec) -> StageHandle:
        """Start a stage whose directory holds its `stage.yaml`."""
        ...

    def attach(self, spec: StageSpec) -> StageHandle | None:
        """Return a handle of a stage that an earlier driver started; None where it is gone."""
        ...
