"""Stages of an analytic model of GRPO: whole searches in milliseconds, without training."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmzero.core.files import read_json, reading, remove_temporary, write_json
from llmzero.core.settings import setting
from llmzero.core.shapes import NUMBER, require
from llmzero.core.stage import StageDir, StageResult, StageSpec, StageStatus
from llmzero.runners.base import StageRunner
from llmzero.runners.clocked import ClockedStage
from llmzero.runners.simulation.clock import Clock
from llmzero.runners.simulation.landscape import LANDSCAPES, Landscape
from llmzero.runners.simulation.training import Training

CLOCK_FILE = "clock.json"
REMEDY = "delete it, and the stage begins again"


@dataclass
class SimulatedRunnerSettings:
    """`runner=simulated`."""

    landscape: str = setting("easy", "the family of problems; docs/simulator.md", choices=tuple(LANDSCAPES))
    instance: int | None = setting(None, "which problem of the family; null is the search's seed")
    noise: float = setting(
        1.0, "multiplies the noise of scores, of metrics and of training itself; 0 is none", low=0
    )
    reference: dict[str, Any] = setting(
        {},
        "the practitioner's values that all is measured by; those left out are the base model's stage's",
    )


class ClockedRunner(StageRunner):
    """Runs stages on a simulated clock: they end in order of their simulated durations.

    A stage goes with its driver. The next one computes it again up to its last validation, and puts it on the
    clock where it stood: `clock.json` in its directory says when it began.
    """

    trains = False
    repeatable = True  # a stage that a power cut takes is made again in a moment

    def __init__(self) -> None:
        self._clocks: dict[Path, Clock] = {}  # by search: confirmation replays run side by side

    def start(self, spec: StageSpec) -> SimulatedHandle:
        """Start a stage from its beginning, now."""
        clock = self._clock(spec)
        write_json(spec.directory / CLOCK_FILE, {"began": clock.now}, sync=False)
        return SimulatedHandle(clock, self._training(spec), clock.now, taken_up=False)

    def attach(self, spec: StageSpec) -> EndedHandle | SimulatedHandle | None:
        """Return a handle of a stage that an earlier driver started; None where it had not begun."""
        clock = self._clock(spec)
        result = StageDir(spec.directory).result()
        if result is not None:
            return EndedHandle(result)
        file = spec.directory / CLOCK_FILE
        written = read_json(file, REMEDY)
        if written is None:
            return None
        with reading(file, REMEDY):
            require(written, {"began": NUMBER})
        training = self._training(spec)
        training.take_up()
        handle = SimulatedHandle(clock, training, written["began"], taken_up=True)
        clock.now = max(clock.now, handle.moment(training.spent))
        return handle

    def _clock(self, spec: StageSpec) -> Clock:
        """Return the clock of a stage's search, and clean up what an earlier driver left in its directory.

        It begins at the latest end among what that left: for the final test, the search's.
        """
        for directory in (spec.directory, *spec.directory.glob("checkpoints/*")):
            remove_temporary(directory)  # half-written by it; nobody else writes there
        here = spec.directory.parent
        if here.parent not in self._clocks:
            self._clocks[here.parent] = clock = Clock()
            files = [file for each in {here, here.with_name("nodes")} for file in each.glob("*/result.json")]
            results = [StageDir(file.parent).result() for file in files]
            clock.now = max([0.0, *(each.ended_at or 0.0 for each in results if each)])
        return self._clocks[here.parent]

    @abstractmethod
    def _training(self, spec: StageSpec) -> ClockedStage:
        """Return a stage, at its beginning."""


class SimulatedRunner(ClockedRunner):
    """Runs stages of the analytic model.

    What a stage does depends on the checkpoint it resumes from, its hyperparameters and the seed alone, so a
    path comes out alike wherever it stands in a tree and whichever method grew it.
    """

    def __init__(self, settings: SimulatedRunnerSettings) -> None:
        super().__init__()
        self.settings = settings
        self._problems: dict[int, Landscape] = {}

    def _training(self, spec: StageSpec) -> Training:
        return Training(spec, self.problem(spec.seed), self.settings.noise, self.settings.reference)

    def problem(self, seed: int) -> Landscape:
        """Return the problem of the family that a search of that seed is about."""
        number = self.settings.instance if self.settings.instance is not None else seed
        if number not in self._problems:
            self._problems[number] = LANDSCAPES[self.settings.landscape].instance(number)
        return self._problems[number]


class EndedHandle:
    """A stage that has ended."""

    def __init__(self, result: StageResult) -> None:
        self._result = result

    def poll(self) -> StageStatus:
        """Report how it ended."""
        r = self._result
        return StageStatus(r.state, r.validation, r.seconds, r.gpu_seconds, flops=r.flops)

    def stop(self) -> None:
        """Do nothing: it has ended."""

    def result(self) -> StageResult:
        """Return how it ended."""
        return self._result


class SimulatedHandle:
    """A simulated stage that began at a moment of the clock, under way or ended."""

    def __init__(self, clock: Clock, training: ClockedStage, began: float, *, taken_up: bool) -> None:
        self._clock, self._training, self._began = clock, training, began
        self._ended: EndedHandle | None = None
        self._stopped = False
        self._told: StageStatus | None = None  # the last status, while nothing is new
        clock.add(self, began, held=taken_up)
        if training.points:
            self._end_or_prepare()
            return
        training.prepare()
        clock.move(self, self.moment(training.due))
        if not training.spec.trains:
            clock.now = self.moment(training.due)
            self._go_on()

    def poll(self) -> StageStatus:
        """Report; where it is this stage's turn on the clock, go on to its next validation."""
        if self._ended is None and self._clock.turn(self):
            self._go_on()
            self._told = None
        if self._told is None:
            self._told = self._status()
        return self._told

    def _status(self) -> StageStatus:
        if self._ended is not None:
            return self._ended.poll()
        points, spent = self._training.points, self._training.spent
        progress, flops = self._training.validated if points else (0.0, 0.0)
        return StageStatus("running", list(points), spent, spent, "training", progress, flops=flops)

    def stop(self) -> None:
        """End at the validation that was reported last; before the first at that."""
        self._stopped = True
        if self._ended is None and self._training.points:
            self._clock.move(self, self.moment(self._training.spent))

    def result(self) -> StageResult:
        """Return how the stage ended."""
        assert self._ended is not None, "result() is for stages that have ended"
        return self._ended.result()

    def moment(self, seconds: float) -> float:
        """Return when on the clock so many seconds of the stage have passed, as exactly as results say it."""
        return round(self._began + round(seconds, 3), 3)

    def _go_on(self) -> None:
        """Report the next validation, or the end."""
        training = self._training
        if training.failure:
            self._end(training.fail(training.failure, self._began))
        elif self._stopped and training.points:
            self._end(training.end("stopped", self._began))
        else:
            training.validate()
            self._end_or_prepare()

    def _end_or_prepare(self) -> None:
        training = self._training
        if training.complete:
            self._end(training.end("completed", self._began))
        elif self._stopped:
            self._end(training.end("stopped", self._began))
        else:
            training.prepare()
            self._clock.move(self, self.moment(training.due))

    def _end(self, result: StageResult) -> None:
        self._ended = EndedHandle(result)
        self._clock.remove(self)
