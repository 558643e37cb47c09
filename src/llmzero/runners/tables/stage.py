"""A stage that is answered from a table, on the simulated clock; it leaves the files that a trainer would."""

from __future__ import annotations

from typing import Any

from llmzero.core.files import append, append_jsonl, write_json
from llmzero.core.stage import FinalState, StageDir, StageResult, StageSpec, ValidationPoint, best_point
from llmzero.runners.clocked import ClockedStage
from llmzero.runners.tables.format import Table
from llmzero.runners.tables.walk import Place, Used, Visit, Walk, walk


class TableStage(ClockedStage):
    """A stage from its beginning; `prepare` goes up to the next validation, which `validate` writes.

    Attributes:
        points: the validations so far.
        spent: device seconds up to the last of them; `due`: up to the next.
        validated: share of the length that was done there, and the stage's compute.
        failure: how it fails next, at `due`; None where it goes on.
    """

    def __init__(self, spec: StageSpec, table: Table) -> None:
        self.spec, self.table = spec, table
        self.stage = StageDir(spec.directory)
        self.place = Place.of(spec.resume_from, table)
        self.points: list[ValidationPoint] = []
        self.spent = self.due = 0.0
        self.validated = (0.0, 0.0)
        self.failure: str | None = None
        self._walk = self._planned()

    def _planned(self) -> Walk:
        if not self.spec.trains:
            return Walk(self.place.used(self.table), Used(), [])
        number = self.table.number(self.spec.hparams)
        if number is None:
            wanted = {name: self.spec.hparams.get(name) for name in self.table.catalogue}
            return Walk(Used(), Used(), [], f"hparams={wanted}: {self.table.file.name} has no such stage")
        return walk(self.table, self.place, number, self.spec.length)

    @property
    def complete(self) -> bool:
        """Whether the last validation is its end."""
        return self._walk.failure is None and len(self.points) == max(1, len(self._walk.visits))

    def prepare(self) -> None:
        """Go up to the next validation, or to where the stage fails."""
        if not self.spec.trains:
            self.due = float(self.table.header["base"]["seconds"])
        elif len(self.points) < len(self._walk.visits):
            self.due = (self._walk.first + self._next.used).seconds
        else:
            self.failure = self._walk.failure

    @property
    def _next(self) -> Visit:
        return self._walk.visits[len(self.points)]

    def validate(self) -> None:
        """Write the validation, and before it what there is of the steps that led to it."""
        if not self.points:
            self._begin()
        if self.spec.trains:
            visit, path = self._next, self._walk.before + self._next.used
            where = {"step": visit.used.steps, "global_step": path.steps}
            rollouts = [row for row in visit.stage.rollouts if row["step"] == visit.point.step]
            append_jsonl(self.stage.metrics_file, self._metrics(visit))
            append_jsonl(self.stage.rollouts_file, [{**row, **where} for row in rollouts])
        append_jsonl(self.stage.validation_file, [vars(self._score())])

    def _begin(self) -> None:
        """Remove what an earlier attempt left; say what is other than was asked for."""
        for file in (self.stage.metrics_file, self.stage.validation_file, self.stage.rollouts_file):
            file.unlink(missing_ok=True)
        walked, notes = self._walk, []
        if walked.first.steps:
            notes.append(
                f"{walked.first.steps} steps that the parent left undone come first, at this expense"
            )
        if walked.visits and walked.visits[-1].point is not walked.visits[-1].stage.points[-1]:
            used = walked.visits[-1].used
            notes.append(
                f"asked for {self.spec.length}, it ends at the nearest validation: {used.steps} steps, "
                f"{used.flops:.4g} FLOPs"
            )
        if notes:
            append(self.stage.log_file, "".join(f"{self.table.file.name}: {note}\n" for note in notes))

    def _metrics(self, visit: Visit) -> list[dict[str, Any]]:
        """Return the metrics of the steps up to a validation; the seconds of a step go with its FLOPs."""
        point, columns, begin = visit.point, visit.stage.metrics, visit.begin
        start = Used.of(visit.stage, visit.index)
        flops, seconds = point.flops - start.flops, point.seconds - start.seconds
        costs = [value or 0.0 for value in columns["step_flops"][begin : point.step]]
        path, done, lines = self._walk.before + self._next.used, 0.0, []
        ahead = point.step - begin
        for number, cost in enumerate(costs, 1):
            done += cost
            share = done / sum(costs) if sum(costs) else number / ahead
            lines.append(
                {
                    "step": visit.used.steps - ahead + number,
                    "global_step": path.steps - ahead + number,
                    **{name: values[begin + number - 1] for name, values in columns.items()},
                    "step_seconds": round(seconds * (cost / sum(costs) if sum(costs) else 1 / ahead), 4),
                    "flops": path.flops - flops * (1 - share),
                    "gpu_seconds": round((self._walk.first + visit.used).seconds - seconds * (1 - share), 3),
                }
            )
        return lines

    def _score(self) -> ValidationPoint:
        """Take the next validation, or of a stage that only evaluates the one of its split."""
        header, split = self.table.header, "val"
        if self.spec.trains:
            at, used = self._next.point, self._next.used
        else:
            at, used = self.table.point(self.place.path, self.place.points), Used()
            split = self.spec.config["trainer"].get("evaluation_split", "val")
        score, stderr = (at.test, at.test_stderr) if split == "test" else (at.score, at.stderr)
        path = self._walk.before + used
        n = header["test_n" if split == "test" else "val_n"]
        point = ValidationPoint(used.steps, path.steps, score, stderr, n, 0.0, path.flops)
        self.points.append(point)
        self.spent = round(self.due, 3)
        share = len(self.points) / max(1, len(self._walk.visits))
        self.validated = (share, (self._walk.first + used).flops)
        return point

    def end(self, state: FinalState, began: float) -> StageResult:
        """Write the best and the last checkpoint and the result of a stage that began at `began`."""
        best, last = best_point(self.points), self.points[-1]
        assert best is not None, "a stage validates before it ends"
        evaluates = not self.spec.trains and self.spec.resume_from is not None
        paths = {}
        for point in (best, last):
            paths[point.step] = self.spec.resume_from if evaluates else self.stage.checkpoint(point.step)
            if not evaluates:
                self.stage.checkpoints.mkdir(parents=True, exist_ok=True)
                self._place(self.points.index(point)).save(self.stage.checkpoint(point.step))
        return self._written(
            StageResult(
                state=state,
                validation=self.points,
                best_step=best.step,
                best_score=best.score,
                checkpoint=paths[best.step],
                last_checkpoint=paths[last.step],
                seconds=self.spent,
                gpu_seconds=self.spent,
                ended_at=round(began + self.spent, 3),
                flops=self.validated[1],
            )
        )

    def _place(self, index: int) -> Place:
        """Return where the checkpoint of a validation lies."""
        if not self.spec.trains:
            return Place()
        visit, last = self._walk.visits[index], self._walk.visits[len(self.points) - 1]
        same = visit.stage.path == last.stage.path
        paid = last.index + 1 if same else len(visit.stage.points)
        return Place(visit.stage.path, visit.index + 1, paid)

    def fail(self, failure: str, began: float) -> StageResult:
        """Write the result of a stage that fails; it is charged what it has used."""
        ended_at = round(began + self.spent, 3)
        return self._written(
            StageResult(
                state="failed",
                validation=self.points,
                best_step=None,
                best_score=None,
                checkpoint=None,
                seconds=self.spent,
                gpu_seconds=self.spent,
                error=failure,
                cause={"kind": "error"},
                ended_at=ended_at,
                flops=self.validated[1],
            )
        )

    def _written(self, result: StageResult) -> StageResult:
        write_json(self.stage.result_file, result.to_dict(self.stage.path), sync=False)
        return result
