"""Decision points: moments of searches at which the next stage was to be proposed, on tables of real trees.

A file of them has a point a line. It names a table of a folder, paths in it and numbers, and no other file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.files import parsed, read_text, reading
from llmzero.core.shapes import Shape, require
from llmzero.runners.tables.format import SUFFIX, Path_, Table, read_table

POINTS = Path(__file__).resolve().parents[4] / "benchmarks" / "points"
ENDING = ".jsonl"
NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)  # of a table: no path
MOST_WORDS = 1000  # characters of `why`
MOST_STAGES = 1000  # of a search
REMEDY = "make the file again: python -m benchmarks.make_points; or delete the line"
RECORD: Shape = {
    **dict.fromkeys(("table", "source", "why"), str),
    "budget": int,
    "stages": [[int]],
    "parent": [int],
    "others": [[int]],
}


@dataclass(frozen=True)
class DecisionPoint:
    """A moment of a search at which a child of `parent` was to be proposed.

    Attributes:
        name: the stem of its file and the number of its line.
        table: the tree that the search ran on.
        source: the search, in words.
        budget: its limit of stages.
        stages: that had ended by then, in order of creation, as paths of the table; the base model is not
            among them.
        parent: the stage that is to be continued; `()` is the base model.
        others: stages that could be continued instead, the most promising first.
        why: the search chose the parent, in words.
    """

    name: str
    table: Table
    source: str
    budget: int
    stages: tuple[Path_, ...]
    parent: Path_
    others: tuple[Path_, ...]
    why: str

    def untried(self, parent: Path_) -> list[Path_]:
        """Return the children of a stage that the search had not made: what could be proposed."""
        children = [(*parent, number) for number in range(len(self.table.configurations))]
        return [path for path in children if path not in self.stages]

    def node_id(self, path: Path_) -> str:
        """Return the id that a stage has in the search."""
        return f"{self.stages.index(path) + 1 if path else 0:04d}"


def files_of(names: Sequence[str]) -> list[Path]:
    """Return the files of points that names mean: of `benchmarks/points`, or files; all of it for `all`.

    Raises:
        UserError: there is none of a name.
    """
    known = sorted(POINTS.glob(f"*{ENDING}"))
    files = []
    for name in names:
        file = Path(name) if name.endswith(ENDING) else POINTS / f"{name}{ENDING}"
        if name != "all" and (("/" in name and not name.endswith(ENDING)) or not file.is_file()):
            there = ", ".join(each.stem for each in known) or "none"
            raise UserError(f"points={name:.100}: there is no such file; known: all, {there}, or a file")
        files += known if name == "all" else [file]
    if not files:
        raise UserError("points: names no file; give points=all")
    return list(dict.fromkeys(files))


def read_points(file: Path, tables: Path) -> list[DecisionPoint]:
    """Read a file of points, and the tables that they name from a folder; all of it is checked.

    Raises:
        UserError: there is no such table.
        DamagedFileError: it holds something else.
    """
    number = 0
    points: list[DecisionPoint] = []
    known: dict[str, Table] = {}
    text = read_text(file, REMEDY)
    with reading(file, REMEDY, line=lambda: number):
        for line in text.splitlines():
            number += 1
            record = parsed(line)
            require(record, RECORD)
            name = record["table"]
            if not NAME.fullmatch(name):
                raise ValueError(f"table={name!r:.100}: must be a name of letters, digits, - and _")
            if name not in known:
                known[name] = _table(tables / f"{name}{SUFFIX}", file, number)
            points.append(_point(f"{file.stem}-{number}", known[name], record))
        if not points:
            raise ValueError("there is no point")
    return points


def _table(file: Path, points: Path, number: int) -> Table:
    if not file.is_file():
        raise UserError(
            f"{points}:{number}: table={file.name.removesuffix(SUFFIX)}: there is no {file}; give "
            f"tables=FOLDER, or make it: python -m benchmarks.make_table"
        )
    return read_table(file)


def _point(name: str, table: Table, record: dict[str, Any]) -> DecisionPoint:
    """Return a point whose stages are a tree of the table, and whose parent can be continued.

    Raises:
        ValueError: it is none.
    """
    stages, others = (tuple(map(tuple, record[key])) for key in ("stages", "others"))
    point = DecisionPoint(
        name,
        table,
        record["source"],
        record["budget"],
        stages,
        tuple(record["parent"]),
        others,
        record["why"],
    )
    if len(point.why) > MOST_WORDS:
        raise ValueError(f"why: has more than {MOST_WORDS} characters")
    if not len(stages) < point.budget <= MOST_STAGES:
        raise ValueError(
            f"budget={point.budget}: must be more than {len(stages)} stages, {MOST_STAGES} at most"
        )
    seen: set[Path_] = {()}
    for path in stages:
        if path not in table.stages:
            raise ValueError(f"stages: {list(path)}: is no stage of {table.file.name}")
        if path in seen or path[:-1] not in seen:
            raise ValueError(f"stages: {list(path)}: stands there twice, or before its parent")
        seen.add(path)
    for key, paths in (("parent", [point.parent]), ("others", others)):
        _check_open(point, key, paths)
    if len({point.parent, *others}) <= len(others):
        raise ValueError("others: must be different stages, and not the parent")
    return point


def _check_open(point: DecisionPoint, key: str, paths: Sequence[Path_]) -> None:
    for path in paths:
        stage = point.table.stages.get(path)
        there = not path or (path in point.stages and stage is not None and stage.error is None)
        if not there or len(path) >= point.table.depth:
            raise ValueError(f"{key}: {list(path)}: is no stage of the search that can be continued")
        if not point.untried(path):
            raise ValueError(f"{key}: {list(path)}: has no child left that was not tried")
