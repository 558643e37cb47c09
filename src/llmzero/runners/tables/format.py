"""The format of a table: a complete tree of real stages, as JSON lines in an xz file.

The first line is the header: what made the tree. Each line after it is a stage. Nothing in a table names code
or a path. docs/tables.md explains the fields.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.files import parsed, read_bytes, reading, write_atomic
from llmzero.core.hparams import Catalogue, HParams
from llmzero.core.length import Length
from llmzero.core.parts import about
from llmzero.core.shapes import NOTHING, NUMBER, NUMBER_OR_NOTHING, SCALAR, Shape, require

TABLES = Path(__file__).resolve().parents[4] / "benchmarks" / "tables"
SUFFIX = ".jsonl.xz"
FORMAT, VERSION = "llmzero-table", 1
MAX_TEXT = 64 * 1024**2  # bytes of a table once it is unpacked
MAX_HEADER = 1024**2  # and of its first line
MAX_MEMORY = 128 * 1024**2  # bytes that unpacking may take
MAX_STAGES = 100_000
MAX_DEPTH = 16
MAX_AMOUNT = 1e30  # of FLOPs or seconds
SHARES = ("score", "stderr", "test", "test_stderr")
REMEDY = "copy the file anew from where it comes"

Path_ = tuple[int, ...]  # from the root, of each stage the number of its configuration

SCORED: dict[str, Shape] = dict.fromkeys(("score", "stderr", "test", "test_stderr", "seconds"), NUMBER)
POINT: Shape = {**SCORED, "step": int, "flops": NUMBER}
ROLLOUT: Shape = {"step": int, "prompt": str, "completion": str, "reward": NUMBER}
HEADER: Shape = {
    "format": str,
    "version": int,
    "name": str,
    "seed": int,
    "depth": int,
    "stage": {"steps": (int, NOTHING), "flops": NUMBER_OR_NOTHING},
    "parameters": {str: dict},
    "fixed": {str: SCALAR},
    "base": SCORED,
    "val_n": int,
    "test_n": int,
    "task": {str: (SCALAR, dict, list)},
    "trainer": {"validation_max_tokens": int},
    "licence": str,
}
STAGE: Shape = {
    "path": [int],
    "points": [POINT],
    "metrics": {str: [NUMBER_OR_NOTHING]},
    "rollouts?": [ROLLOUT],
    "error?": (str, NOTHING),
}


@dataclass(frozen=True)
class Point:
    """A validation within a stage, with what its checkpoint scores on the test split.

    Attributes:
        step: of the stage.
        score, stderr: validation score and its standard error; `test`, `test_stderr` likewise.
        flops, seconds: that the stage had used by then, its validations counted in the seconds alone.
    """

    step: int
    score: float
    stderr: float
    test: float
    test_stderr: float
    flops: float
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A stage of the tree, resumed from the end of its parent's.

    Attributes:
        path: from the root, of each stage the number of its configuration.
        points: validations, in order; the last is at its end. None where it failed.
        metrics: values of every step, by name.
        rollouts: a few scored completions.
        error: how it failed; its children are not in the tree.
    """

    path: Path_
    points: tuple[Point, ...]
    metrics: Mapping[str, Sequence[float | None]]
    rollouts: Sequence[Mapping[str, Any]]
    error: str | None

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Stage:
        """Read a line of a table.

        Raises:
            ValueError: it is something else.
        """
        require(record, STAGE)
        error, points = record.get("error"), tuple(Point(**point) for point in record["points"])
        if not points and error is None:
            raise ValueError("points: there are none, and no error")
        steps = [0, *(point.step for point in points)]
        if steps != sorted(set(steps)):
            raise ValueError("points: their steps must rise from 1 on")
        if others := [name for name, values in record["metrics"].items() if len(values) != steps[-1]]:
            raise ValueError(f"metrics.{others[0]}: must have a value for each of {steps[-1]} steps")
        if own := record["metrics"].keys() & {"step", "global_step", "step_seconds", "flops", "gpu_seconds"}:
            raise ValueError(f"metrics.{min(own)}: readers make it of the points; leave it out")
        for number, point in enumerate(points):
            _check_amounts(vars(point), f"points[{number}]")
        if points and "step_flops" not in record["metrics"]:
            raise ValueError("metrics.step_flops: missing")
        for name in ("flops", "seconds"):
            amounts = [getattr(point, name) for point in points]
            if amounts != sorted(amounts):
                raise ValueError(f"points: their {name} must not fall")
        return cls(tuple(record["path"]), points, record["metrics"], record.get("rollouts", ()), error)


@dataclass(frozen=True)
class Table:
    """A complete tree of real stages.

    Attributes:
        file: where it was read from.
        header: what made it.
        catalogue: the parameters that differ between stages, each with choices.
        stages: by path.
    """

    file: Path
    header: Mapping[str, Any]
    catalogue: Catalogue
    stages: Mapping[Path_, Stage]

    @property
    def depth(self) -> int:
        """Stages of the longest paths."""
        return int(self.header["depth"])

    @property
    def length(self) -> Length:
        """Of every stage."""
        return Length(**self.header["stage"])

    @cached_property
    def configurations(self) -> list[HParams]:
        """All configurations in the order of their numbers: the last parameter changes fastest."""
        return configurations_of(self.catalogue)

    @cached_property
    def base(self) -> Point:
        """The base model's validation."""
        return Point(step=0, flops=0.0, **self.header["base"])

    def point(self, path: Path_, points: int) -> Point:
        """Return the validation of a number, from 1 on, of a stage; of the empty path the base model's."""
        return self.stages[path].points[points - 1] if path else self.base

    def number(self, hparams: HParams) -> int | None:
        """Return the number of a configuration; None where the tree has none of it."""
        wanted = {name: hparams.get(name) for name in self.catalogue}
        return next((i for i, each in enumerate(self.configurations) if each == wanted), None)


def configurations_of(catalogue: Catalogue) -> list[HParams]:
    """Return all configurations of a catalogue whose parameters all have choices."""
    names = list(catalogue)
    every = product(*(catalogue[name].choices or () for name in names))
    return [dict(zip(names, values, strict=True)) for values in every]


def paths_of(configurations: int, depth: int) -> Iterator[Path_]:
    """Yield all paths of a complete tree, each before those that continue it."""

    def below(path: Path_) -> Iterator[Path_]:
        if path:
            yield path
        if len(path) < depth:
            for number in range(configurations):
                yield from below((*path, number))

    return below(())


def read_table(file: Path) -> Table:
    """Read a table and check all of it.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is no table, or none that this version knows.
    """
    first, *lines = _unpacked(file).splitlines()
    number = 1
    stages: dict[Path_, Stage] = {}
    with reading(file, REMEDY, line=lambda: number):
        header = _header(parsed(first))
        catalogue = _catalogue(header["parameters"])
        for line in lines:
            number += 1
            stage = Stage.from_record(parsed(line))
            if stage.path in stages:
                raise ValueError(f"path={list(stage.path)}: is there twice")
            stages[stage.path] = stage
        _check_complete(stages, catalogue.size or 0, header["depth"])
    return Table(file, header, catalogue, stages)


def read_header(file: Path) -> dict[str, Any]:
    """Read the header of a table alone.

    Raises:
        FileNotFoundError, DamagedFileError: as `read_table`.
    """
    text = _unpacked(file, MAX_HEADER)
    with reading(file, REMEDY, line=lambda: 1):
        return _header(parsed(text.partition(b"\n")[0]))


def write_table(file: Path, header: Mapping[str, Any], stages: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; the same content gives the same bytes."""
    text = "".join(
        json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n" for record in (header, *stages)
    )
    write_atomic(file, lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def table_file(name: str, seed: int) -> Path:
    """Return the file that `table=NAME` means.

    A name is that of a tree in `benchmarks/tables`, with its seed or without; or the path of a file.

    Raises:
        UserError: there is none.
    """
    if name.endswith(SUFFIX):
        if os.path.isfile(name):  # which is false, too, for what can be no path
            return Path(name)
        raise UserError(
            f"table={name:.100}: there is no such file; give another, or a name: {known_tables()}"
        )
    for each in (name, f"{name}-{seed}"):
        if "/" not in each and os.path.isfile(TABLES / f"{each}{SUFFIX}"):
            return TABLES / f"{each}{SUFFIX}"
    recipes = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml"))) or "none"
    raise UserError(
        f"table={name:.100}: there is none of seed {seed}; known: {known_tables()}. Choose one, or make it: "
        f"python -m benchmarks.make_table RECIPE --seed {seed}, with a recipe of {recipes}"
    )


def settings_of_table(name: str | None, seed: int, key: str) -> Any:
    """Return what a configuration takes from a table's header.

    Args:
        name: of the table.
        seed: of the search.
        key: `hparams`, `task` in words, `about` (what a task of ours says of itself), `depth`, `steps`,
            `flops`, or one of its trainer's settings.

    Raises:
        UserError: no table is named, or there is none of that name.
    """
    if name is None:
        raise UserError(f"table: needs a value with runner=table; known: {known_tables()}")
    header = read_header(table_file(name, seed))
    if key == "hparams":
        return {"parameters": header["parameters"]}
    if key == "task":  # in words: nothing in a table names code
        kind = str(header["task"].get("_target_", header["name"])).rsplit(".", 1)[-1]
        values = {name: value for name, value in header["task"].items() if name != "_target_"}
        return " ".join([kind, *(f"{name}={value}" for name, value in values.items() if value is not None)])
    if key == "about":
        ours = str(header["task"].get("_target_")).startswith("llmzero.tasks.")
        return about(header["task"]) if ours else ""
    return {**header["trainer"], **header["stage"], "depth": header["depth"]}[key]


def known_tables() -> str:
    """Return the names of all tables in `benchmarks/tables`, for messages."""
    return ", ".join(sorted(file.name.removesuffix(SUFFIX) for file in TABLES.glob(f"*{SUFFIX}"))) or "none"


def _unpacked(file: Path, begin: int | None = None) -> bytes:
    """Return the text of a table, or that many bytes of its beginning."""
    data = read_bytes(file, REMEDY)
    with reading(file, REMEDY):
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)
        try:
            text = unpacker.decompress(data, begin or MAX_TEXT)
        except lzma.LZMAError as error:
            raise ValueError(f"is no xz file, or a damaged one: {error}") from error
        if begin is not None and b"\n" in text:
            return text
        if not unpacker.eof:
            raise ValueError(f"ends too early, or unpacks to more than {begin or MAX_TEXT} bytes")
        if unpacker.unused_data:
            raise ValueError("has something behind its end")
        if not text.endswith(b"\n"):
            raise ValueError("its last line is not finished")
        return text


def _header(header: dict[str, Any]) -> dict[str, Any]:
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"format={header.get('format')!r:.40}, version={header.get('version')!r:.40}: "
            f"must be {FORMAT!r}, version {VERSION}"
        )
    require(header, HEADER)
    if not 1 <= header["depth"] <= MAX_DEPTH:
        raise ValueError(f"depth={header['depth']}: must be from 1 to {MAX_DEPTH}")
    given = [length for length in header["stage"].values() if length is not None]
    if len(given) != 1 or given[0] <= 0:
        raise ValueError("stage: exactly one of steps and flops must be given, above 0")
    _check_amounts({"length": given[0]}, "stage")
    _check_amounts(header["base"], "base")
    if header["val_n"] < 1 or header["test_n"] < 1:
        raise ValueError("val_n, test_n: must be at least 1")
    return header


def _check_amounts(scored: Mapping[str, float], where: str) -> None:
    """Check that shares are some, and that sums of the others stay finite."""
    for name, value in scored.items():
        most = 1 if name in SHARES else MAX_AMOUNT
        if not 0 <= value <= most:
            raise ValueError(f"{where}.{name}={value!s:.40}: must be from 0 to {most:g}")


def _catalogue(parameters: Mapping[str, Mapping[str, Any]]) -> Catalogue:
    try:
        catalogue = Catalogue.from_config(parameters)
    except UserError as error:
        raise ValueError(f"parameters: {error}") from error
    if not catalogue or any(parameter.choices is None for parameter in catalogue.values()):
        raise ValueError("parameters: needs at least one, and each needs choices")
    return catalogue


def _check_complete(stages: Mapping[Path_, Stage], configurations: int, depth: int) -> None:
    """Check that every path is there but those below failed stages."""
    if sum(configurations**level for level in range(1, depth + 1)) > MAX_STAGES:
        raise ValueError(f"a tree may have {MAX_STAGES} stages at most")
    failed = {path for path, stage in stages.items() if stage.error is not None}
    due = {
        path
        for path in paths_of(configurations, depth)
        if not any(path[:length] in failed for length in range(1, len(path)))
    }
    if due != stages.keys():
        odd = min(due ^ stages.keys())
        raise ValueError(f"path={list(odd)}: {'is missing' if odd in due else 'is none of this tree'}")
