"""The contract between the search half and the training half: a stage, its directory and its result."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from llmzero.core.compute import summed
from llmzero.core.decay import WHOLE
from llmzero.core.documents import read_yaml
from llmzero.core.files import (
    open_own,
    read_json,
    read_records,
    reading,
    remove_temporary,
    sync_directory,
    write_atomic,
    write_json,
    write_jsonl,
)
from llmzero.core.hparams import HParams
from llmzero.core.length import Length
from llmzero.core.locations import located, stored
from llmzero.core.redaction import redacted
from llmzero.core.shapes import NOTHING, NUMBER, NUMBER_OR_NOTHING, SCALAR, Shape, require

T = TypeVar("T")
FinalState = Literal["completed", "stopped", "failed"]
State = Literal["proposing", "withdrawn", "queued", "running", "completed", "stopped", "failed"]
FINAL_STATES = ("completed", "stopped", "failed")

DISK_FULL = "disk full"  # the phase of a stage that has left for want of room, to go on when there is some
ROOM_BYTES = 1024**2  # that have to be free for a stage to be started again
OPTIMIZER_FILE = "optimizer.safetensors"  # of a checkpoint: what a resumed stage can do without, at a price

CAUSE: Shape = {
    "kind": str,
    "phase?": str,
    "requested_bytes?": NUMBER_OR_NOTHING,
    "hparams?": (NOTHING, {str: SCALAR}),
}
SPEC: Shape = {
    "node_id": str,
    "parent?": (str, NOTHING),
    "depth": int,
    "resume_from?": (str, NOTHING),
    "steps": (int, NOTHING),
    "flops?": NUMBER_OR_NOTHING,
    "schedule?": [NUMBER],
    "seed": int,
    "hparams": dict,
}
POINT: Shape = {
    **dict.fromkeys(("step", "global_step", "n"), int),
    **dict.fromkeys(("score", "stderr", "seconds"), NUMBER),
    "flops?": NUMBER_OR_NOTHING,
}
RESULT: Shape = {
    "state": str,
    "validation": list,
    "best_step?": (int, NOTHING),
    "best_score?": NUMBER_OR_NOTHING,
    "checkpoint?": (str, NOTHING),
    "last_checkpoint": (str, NOTHING),
    "seconds": NUMBER,
    "gpu_seconds": NUMBER,
    "flops?": NUMBER_OR_NOTHING,
    "error": (str, NOTHING),
    "cause": (NOTHING, CAUSE),
    "ended_at": NUMBER_OR_NOTHING,
}
HEARTBEAT: Shape = {
    "phase": (str, NOTHING),
    **dict.fromkeys(("progress", "seconds", "gpu_seconds"), NUMBER),
    "flops": NUMBER_OR_NOTHING,
}
NO_HEARTBEAT = {"phase": "", "progress": 0.0, "seconds": 0.0, "gpu_seconds": 0.0, "flops": None}
_SPEC_KEYS = ("node_id", "parent", "depth", "resume_from", "steps", "flops", "schedule", "seed", "hparams")


@dataclass(frozen=True)
class StageSpec:
    """Everything a stage needs to run, on any machine that sees its directory.

    Attributes:
        node_id: zero-padded integer in order of creation; `0000` is the base model.
        parent_id: the node it branches from; None for the root.
        depth: stages from the root to this one.
        directory: the stage directory.
        resume_from: checkpoint directory to continue from; None for the base model.
        hparams: a value for every name of the catalogue.
        steps: GRPO steps to train; 0 evaluates the weights it starts from; None where FLOPs are its length.
        seed: of data order and sampling, where the stage starts a path.
        config: the rest of the stage's resolved config (task, model, rollout, algorithm, trainer).
        flops: FLOPs to train; None where steps are its length.
        schedule: the shares of `lr_schedule` at which it begins and ends: 0 and 1 where it has its own, parts
            of the path's where `trainer.lr_over=path`.
    """

    node_id: str
    parent_id: str | None
    depth: int
    directory: Path
    resume_from: Path | None
    hparams: HParams
    steps: int | None
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    flops: float | None = None
    schedule: tuple[float, float] = WHOLE

    @property
    def length(self) -> Length:
        """How much it trains."""
        return Length(self.steps, self.flops)

    @property
    def trains(self) -> bool:
        """Whether it does more than to evaluate the weights it starts from."""
        return self.steps != 0

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `stage.json`."""
        return {
            "node_id": self.node_id,
            "parent": self.parent_id,
            "depth": self.depth,
            "resume_from": stored(self.resume_from, self.directory),
            "steps": self.steps,
            "flops": self.flops,
            "schedule": list(self.schedule),
            "seed": self.seed,
            "hparams": self.hparams,
            **self.config,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], directory: Path) -> StageSpec:
        """Read what `to_dict` wrote.

        Raises:
            ValueError, KeyError: it is something else.
        """
        require(value, SPEC)
        config = {key: item for key, item in value.items() if key not in _SPEC_KEYS}
        length = Length(value["steps"], value.get("flops"))
        return cls(
            node_id=value["node_id"],
            parent_id=value["parent"],
            depth=value["depth"],
            directory=directory,
            resume_from=located(value["resume_from"], directory),
            hparams=value["hparams"],
            steps=length.steps,
            seed=value["seed"],
            config=config,
            flops=length.flops,
            schedule=covered(value.get("schedule", WHOLE)),
        )


def covered(shares: Sequence[float]) -> tuple[float, float]:
    """Return the shares of a schedule at which a stage begins and ends, after checking them.

    Raises:
        ValueError: they are something else.
    """
    if len(shares) != 2 or not 0 <= shares[0] <= shares[1] <= 1:
        raise ValueError(f"schedule={list(shares)}: must be two shares from 0 to 1, the lower one first")
    return shares[0], shares[1]


@dataclass(frozen=True)
class ValidationPoint:
    """One validation: the mean score of `n` examples under greedy decoding, with its standard error.

    `flops` is the compute behind it since the base model; None is unknown.
    """

    step: int
    global_step: int
    score: float
    stderr: float
    n: int
    seconds: float
    flops: float | None = None

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ValidationPoint:
        """Read a line of `validation.jsonl`.

        Raises:
            ValueError: a field is missing or of another type.
        """
        require(value, POINT)
        return cls(
            **{name: value[name] for name in ("step", "global_step", "score", "stderr", "n", "seconds")},
            flops=value.get("flops"),
        )


@dataclass(frozen=True)
class StageStatus:
    """What a runner can say of a stage at any moment.

    `flops` is the stage's own compute; None is unknown. `phase` and `progress` (0 to 1) are for the display.
    `died` says that it ended without leaving a result, so that trying once more may help.
    """

    state: State
    validation: list[ValidationPoint] = field(default_factory=list)
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    phase: str = ""
    progress: float = 0.0
    died: bool = False
    flops: float | None = None

    @property
    def final(self) -> bool:
        """Whether the stage has ended."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class StageResult:
    """How a stage ended.

    `checkpoint` is the one with the best validation score, `last_checkpoint` the latest. `cause` says why a
    stage failed, for programs: `kind` is `out_of_memory`, `not_finite`, `timeout` or `error`, `phase` what it
    was doing; out of memory also tells `requested_bytes` and the `hparams` that drive memory there.
    `ended_at` is the moment of the end in seconds, on a clock that all stages of a search share; it puts
    stages in order that are found to have ended together. `flops` is the compute of the stage's steps; None
    is unknown, as of stages of earlier versions.
    """

    state: FinalState
    validation: list[ValidationPoint]
    best_step: int | None
    best_score: float | None
    checkpoint: Path | None
    seconds: float
    gpu_seconds: float
    error: str | None = None
    last_checkpoint: Path | None = None
    cause: dict[str, Any] | None = None
    ended_at: float | None = None
    flops: float | None = None

    def to_dict(self, directory: Path) -> dict[str, Any]:
        """Return the content of `result.json` of the stage in a directory."""
        return {
            **vars(self),
            "checkpoint": stored(self.checkpoint, directory),
            "last_checkpoint": stored(self.last_checkpoint, directory),
            "validation": [{**vars(point)} for point in self.validation],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], locate: Callable[[str | None], Path | None]) -> StageResult:
        """Read what `to_dict` wrote; `locate` returns the checkpoint that a text names.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        value = {"last_checkpoint": None, "cause": None, "ended_at": None, "error": None, **value}
        require(value, RESULT)
        if value["state"] not in FINAL_STATES:
            raise ValueError(f"state={value['state']}: must be one of {', '.join(FINAL_STATES)}")
        chosen = value["best_step"], value["best_score"], value["validation"] or None
        if value["checkpoint"] and None in chosen:
            raise ValueError("there is a checkpoint, but no validation that chose it")
        paths = {name: locate(value[name]) for name in ("checkpoint", "last_checkpoint")}
        points = [ValidationPoint.from_dict(point) for point in value["validation"]]
        return cls(**{**value, **paths, "validation": points})


class StageDir:
    """Reads and writes the files of one stage directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "stage.json"
        self.earlier_spec_file = path / "stage.yaml"  # as earlier versions wrote it
        self.proposal_file = path / "proposal.json"
        self.metrics_file = path / "metrics.jsonl"
        self.validation_file = path / "validation.jsonl"
        self.rollouts_file = path / "rollouts.jsonl"
        self.status_file = path / "status.json"
        self.stop_file = path / "stop"
        self.result_file = path / "result.json"
        self.log_file = path / "log.txt"
        self.checkpoints = path / "checkpoints"

    def write_spec(self, spec: StageSpec) -> None:
        """Create the directory with its `stage.json`, which whoever starts the stage could write again.

        An infinite setting, such as a timeout, stays what it is, as `Infinity`; null would mean something
        else.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.spec_file, json.dumps(spec.to_dict(), indent=2) + "\n", sync=False)

    def has_spec(self) -> bool:
        """Return whether the stage is described, by this version or an earlier one."""
        return self.spec_file.exists() or self.earlier_spec_file.exists()

    def read_spec(self) -> StageSpec:
        """Read `stage.json`, or the `stage.yaml` of an earlier version.

        Raises:
            DamagedFileError: it is none.
        """
        remedy = "delete it, and the command that began the search writes it again"
        values = read_json(self.spec_file, remedy)
        file = self.spec_file if values else self.earlier_spec_file
        with reading(file, remedy):
            return StageSpec.from_dict(values or read_yaml(file), self.path)

    def status(self) -> dict[str, Any]:
        """Return the last heartbeat; empty before the first.

        Raises:
            DamagedFileError: it is none.
        """
        remedy = "delete it; a stage that runs writes it again"
        heartbeat = read_json(self.status_file, remedy) or {}
        with reading(self.status_file, remedy):
            whole = {**NO_HEARTBEAT, **heartbeat}
            require(whole, HEARTBEAT)
        return heartbeat

    def validation_limit(self) -> int | None:
        """Return the longest completion of the stage's validations; None where that is its own
        `max_completion_length`, as in stages of earlier versions, or where it is not described yet.

        Raises:
            DamagedFileError: the stage's description has something else in its place.
        """
        remedy = "give a number of tokens, or null for the stage's own limit"
        trainer = (read_json(self.spec_file, remedy) or {}).get("trainer") or {}
        with reading(self.spec_file, remedy):
            require(trainer, {"validation_max_tokens?": (int, NOTHING)}, "trainer")
        limit: int | None = trainer.get("validation_max_tokens")
        return limit

    def validation(self) -> list[ValidationPoint]:
        """Return the validation points so far."""
        return self._records(self.validation_file, ValidationPoint.from_dict)

    def subtasks(self) -> list[tuple[int, dict[str, list[float]]]]:
        """Return the validations so far that tell of subtasks: step, and score, standard error and number of
        examples by the subtask's name.
        """
        found = self._records(self.validation_file, _subtasks)
        return [(step, subtasks) for step, subtasks in found if subtasks]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of the steps so far."""
        return self._records(self.metrics_file, _metrics)

    def flops(self, until: float = math.inf) -> float | None:
        """Return the compute of the steps so far, or up to one; None is unknown, as of an earlier version."""
        return summed(line.get("step_flops") for line in self.metrics() if line["step"] <= until)

    def rollouts(self) -> list[dict[str, Any]]:
        """Return the sampled rollouts so far."""
        return self._records(self.rollouts_file, _rollout)

    def _records(self, file: Path, kind: Callable[[dict[str, Any]], T]) -> list[T]:
        """Return the records of a log; only of a stage that has not ended may the last line be unfinished."""
        return read_records(file, kind, whole=self.result_file.exists())

    def result(self) -> StageResult | None:
        """Return the result; None while the stage has not ended.

        Raises:
            DamagedFileError: it is none.
        """
        remedy = "delete it, and the stage goes on from its last checkpoint"
        value = read_json(self.result_file, remedy)
        with reading(self.result_file, remedy):
            locate = partial(located, directory=self.path)
            return StageResult.from_dict(value, locate) if value is not None else None

    def write_result(self, result: StageResult) -> None:
        """Write `result.json`, the last file of a stage."""
        write_json(self.result_file, result.to_dict(self.path))

    def request_stop(self) -> None:
        """Ask the trainer to checkpoint and end after the step in hand."""
        open_own(self.stop_file).close()

    def require_room(self) -> None:
        """Raise OSError, which names the directory, where the disk has no room for a stage's small files."""
        probe = self.path / ".room.tmp"
        try:
            write_atomic(probe, " " * ROOM_BYTES)
        finally:
            probe.unlink(missing_ok=True)

    def complete_checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first; half-written ones are left out."""
        return sorted(path.parent for path in self.checkpoints.glob("step_*/COMPLETE"))

    def remove_unfinished(self) -> None:
        """Delete what a killed attempt left half-written or half-deleted."""
        remove_temporary(self.path)
        for path in self.checkpoints.glob("*"):
            if not (path / "COMPLETE").exists():
                shutil.rmtree(path)

    def checkpoint(self, step: int) -> Path:
        """Return the checkpoint directory of a step."""
        return self.checkpoints / f"step_{step:05d}"

    def failure(
        self, error: str, seconds: float, gpu_seconds: float, cause: dict[str, Any] | None = None
    ) -> StageResult:
        """Return the result of a failed stage: its validation so far, its complete checkpoints, its compute.

        The error, which may be in the words of a server, is told without secrets.
        """
        complete = set(self.complete_checkpoints())
        best = best_point([point for point in self.validation() if self.checkpoint(point.step) in complete])
        return StageResult(
            state="failed",
            validation=self.validation(),
            best_step=best.step if best else None,
            best_score=best.score if best else None,
            checkpoint=self.checkpoint(best.step) if best else None,
            last_checkpoint=max(complete, default=None),
            seconds=seconds,
            gpu_seconds=gpu_seconds,
            error=redacted(error),
            cause=cause,
            ended_at=time.time(),
            flops=self.flops(),
        )

    def truncate_after(self, step: int) -> None:
        """Forget every line of the logs beyond `step`, as a retried stage will write them again."""
        for file in (self.metrics_file, self.validation_file, self.rollouts_file):
            if file.exists():
                write_jsonl(
                    file, [record for record in read_records(file, _of_step) if record["step"] <= step]
                )


def _of_step(record: dict[str, Any]) -> dict[str, Any]:
    require(record, {"step": int})
    return record


def _metrics(record: dict[str, Any]) -> dict[str, Any]:
    require(record, {str: NUMBER_OR_NOTHING})
    return _of_step(record)


def _rollout(record: dict[str, Any]) -> dict[str, Any]:
    require(record, {"step": int, "prompt": str, "completion": str, "reward": NUMBER_OR_NOTHING})
    return record


def _subtasks(record: dict[str, Any]) -> tuple[int, dict[str, list[float]]]:
    require(record, {"step": int, "subtasks?": (NOTHING, {str: [NUMBER]})})
    subtasks = record.get("subtasks") or {}
    if any(len(figures) != 3 for figures in subtasks.values()):
        raise ValueError("subtasks: each must have a score, a standard error and a number of examples")
    return record["step"], subtasks


def best_point(points: Sequence[ValidationPoint]) -> ValidationPoint | None:
    """Return the first point with the highest score; None of no points."""
    return max(points, key=lambda point: (point.score, -point.step), default=None)


def commit_checkpoint(temporary: Path, final: Path) -> None:
    """Turn a written directory into a checkpoint: fsync its files, rename it, and only then mark it."""
    for file in temporary.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_directory(temporary)
    if final.exists():
        remove_checkpoint(final)
    os.replace(temporary, final)
    marker = final / "COMPLETE"
    with marker.open("w") as handle:
        os.fsync(handle.fileno())
    sync_directory(final)
    sync_directory(final.parent)


def remove_checkpoint(directory: Path) -> None:
    """Delete a checkpoint, its `COMPLETE` first, so that a half-deleted one is not taken for a whole one."""
    (directory / "COMPLETE").unlink(missing_ok=True)
    shutil.rmtree(directory)
