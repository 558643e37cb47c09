"""The way of a stage through the tree of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmzero.core.files import read_json, reading, write_atomic
from llmzero.core.length import Length
from llmzero.core.shapes import require
from llmzero.runners.tables.format import Path_, Point, Stage, Table


@dataclass(frozen=True)
class Used:
    """Steps, FLOPs and device seconds of a part of a path."""

    steps: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, stage: Stage, points: int) -> Used:
        """Return what a stage of the tree has used by so many of its validations."""
        if not points:
            return cls()
        point = stage.points[points - 1]
        return cls(point.step, point.flops, point.seconds)

    def __add__(self, other: Used) -> Used:
        return Used(self.steps + other.steps, self.flops + other.flops, self.seconds + other.seconds)

    def __sub__(self, other: Used) -> Used:
        return Used(self.steps - other.steps, self.flops - other.flops, self.seconds - other.seconds)

    def amount(self, length: Length) -> float:
        """Return the steps or the FLOPs, whichever a length is in."""
        return float(self.steps if length.flops is None else self.flops)


@dataclass(frozen=True)
class Place:
    """Where a checkpoint lies in a tree.

    Attributes:
        path: of the stage of the tree that it is from; empty for the base model.
        points: validations of that stage up to the checkpoint.
        paid: validations of it that the search has run.
    """

    path: Path_ = ()
    points: int = 0
    paid: int = 0

    @classmethod
    def of(cls, checkpoint: Path | None, table: Table) -> Place:
        """Read what a checkpoint holds; None is the base model.

        Raises:
            DamagedFileError: it holds no place in this table.
        """
        if checkpoint is None:
            return cls()
        file = checkpoint / "COMPLETE"
        state = read_json(file)
        with reading(file):
            if state is None:
                raise ValueError("there is no place in a table")
            require(state, {"path": [int], "points": int, "paid": int})
            place = cls(tuple(state["path"]), state["points"], state["paid"])
            stage = table.stages.get(place.path)
            held = len(stage.points) if stage else 0
            if (place.path and not held) or not min(1, held) <= place.points <= place.paid <= held:
                raise ValueError(f"{state}: is no place in {table.file.name}")
            return place

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint that is this; its directory's parent exists."""
        checkpoint.mkdir(exist_ok=True)
        write_atomic(checkpoint / "COMPLETE", json.dumps(vars(self)), sync=False)

    def used(self, table: Table) -> Used:
        """Return what the path up to here has used, as far as it is paid."""
        used = Used()
        for length in range(1, len(self.path)):
            stage = table.stages[self.path[:length]]
            used += Used.of(stage, len(stage.points))
        return used + Used.of(table.stages[self.path], self.paid) if self.path else used

    def undone(self, table: Table) -> Used:
        """Return what is left of the stage that it is from."""
        if not self.path:
            return Used()
        stage = table.stages[self.path]
        return Used.of(stage, len(stage.points)) - Used.of(stage, self.paid)


@dataclass(frozen=True)
class Visit:
    """A validation on a stage's way through the tree.

    Attributes:
        stage: of the tree; `index` is that of the validation in it.
        used: by the stage that is run, from the first step of its own on.
    """

    stage: Stage
    index: int
    used: Used

    @property
    def point(self) -> Point:
        """The validation, as the table has it."""
        return self.stage.points[self.index]

    @property
    def begin(self) -> int:
        """Steps of the tree's stage before this validation's."""
        return self.stage.points[self.index - 1].step if self.index else 0


@dataclass(frozen=True)
class Walk:
    """A stage's way through the tree: along one configuration, to the validation nearest to its length.

    It begins where its parent has come to. A parent that was stopped early has left a part of its stage
    undone, and the tree has no children there: that part comes first, at this stage's expense. It counts as a
    part of this stage where the configuration is the same.

    Attributes:
        before: what the path has used up to the stage's first step of its own.
        first: of that, what the stage itself pays, as its parent had left it undone.
        visits: the validations on the way.
        failure: why it does not come to the stage's end after them; None where it does.
    """

    before: Used
    first: Used
    visits: list[Visit]
    failure: str | None = None


def walk(table: Table, place: Place, number: int, length: Length) -> Walk:
    """Return the way of a stage of a length, from a place on, under the configuration of a number."""
    same = place.path[-1:] == (number,)
    first = Used() if same else place.undone(table)
    before = place.used(table) + first
    visits = list(_ahead(table, place, number, same=same))
    amounts = [0.0, *(visit.used.amount(length) for visit in visits)]
    wanted = float(length.steps or length.flops or 0)
    if amounts[-1] + (amounts[-1] - amounts[-2] if visits else 0.0) / 2 >= wanted:
        end = min(range(1, len(amounts)), key=lambda i: abs(amounts[i] - wanted))
        return Walk(before, first, visits[:end])
    following = table.stages.get((*place.path, number))
    last = visits[-1].stage if visits else following
    if last is not None and last.error is not None:
        return Walk(before, first, visits, last.error)
    problem = (
        f"{table.file.name} has {amounts[-1]:.4g} of {length} from here, as it is {table.depth} stages deep; "
        f"give a shorter stage, or search.max_depth={table.depth}"
    )
    return Walk(before, first, [], problem)


def _ahead(table: Table, place: Place, number: int, *, same: bool) -> Iterator[Visit]:
    """Yield all validations of a configuration from a place on: the rest of its stage, then those below."""
    used, path, done = Used(), place.path, place.paid
    while True:
        stage = table.stages.get(path) if same else None
        if stage is not None:
            start = used - Used.of(stage, done)
            for index in range(done, len(stage.points)):
                visit = Visit(stage, index, start + Used.of(stage, index + 1))
                used = visit.used
                yield visit
        path, done, same = (*path, number), 0, True
        if path not in table.stages:
            return
