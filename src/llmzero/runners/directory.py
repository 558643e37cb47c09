"""A stage that runs outside of the driver, seen through its directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from llmzero.core.files import no_room
from llmzero.core.stage import DISK_FULL, StageDir, StageResult, StageSpec, StageStatus

LOG_TAIL_CHARS = 2000


def submitit_folder(stage: Path) -> Path:
    """Return the folder for submitit's files, without pickles of earlier attempts.

    A process loads whatever pickle it finds under its number, and numbers come again.
    """
    folder = stage / "submitit"
    if folder.is_symlink():
        folder.unlink()
    for pickle in folder.glob("*.pkl"):
        pickle.unlink()
    return folder


class DirectoryHandle(ABC):
    """Reads heartbeats and results. Subclasses know whether what runs the stage lives."""

    def __init__(self, spec: StageSpec) -> None:
        self._stage = StageDir(spec.directory)

    @abstractmethod
    def alive(self) -> bool:
        """Whether the stage may still write a result."""

    def lost(self) -> str:
        """Return what became of a stage that ended without a result."""
        return "the process died without a result"

    @property
    def worth_another_try(self) -> bool:
        """Whether a stage that ended without a result should be started once more."""
        return True

    def poll(self) -> StageStatus:
        """Return the last heartbeat, or the result. What ended without one has died.

        Raises:
            OSError: it died because the disk is full. It has not failed: it goes on when there is room.
        """
        alive = self.alive()  # asked first: a process may write its result and end between two looks
        heartbeat = self._stage.status()
        result = self._stage.result()
        if result is not None:
            return StageStatus(
                result.state, result.validation, result.seconds, result.gpu_seconds, flops=result.flops
            )
        if not alive:
            self._require_room(heartbeat)
        return StageStatus(
            state="running" if alive else "failed",
            validation=self._stage.validation(),
            seconds=heartbeat.get("seconds", 0.0),
            gpu_seconds=heartbeat.get("gpu_seconds", 0.0),
            phase=heartbeat.get("phase") or "starting",
            progress=heartbeat.get("progress", 0.0),
            died=not alive and self.worth_another_try,
            flops=heartbeat.get("flops"),
        )

    def _require_room(self, heartbeat: dict[str, Any]) -> None:
        if heartbeat.get("phase") == DISK_FULL:
            file = heartbeat.get("file") or self._stage.path  # the cache may lie on another disk
            raise no_room(file)
        self._stage.require_room()

    def stop(self) -> None:
        """Ask the trainer to checkpoint and end."""
        self._stage.request_stop()

    def result(self) -> StageResult:
        """Return the trainer's result, or a failure made from what a dead process left behind."""
        result = self._stage.result()
        if result is not None:
            return result
        heartbeat = self._stage.status()
        log = self._stage.log_file
        tail = log.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip().splitlines() if log.exists() else []
        error = f"{self.lost()} (its log: {log}){': ' + tail[-1] if tail else ''}"
        return self._stage.failure(error, heartbeat.get("seconds", 0.0), heartbeat.get("gpu_seconds", 0.0))
