"""Paths of searches as directions of change, and what shape each parameter's trajectory has along them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.load import Tables
from llmzero.core.hparams import Group

Signs = NDArray[np.int8]
Array = NDArray[np.float64]

SHAPES = ("constant", "single change", "monotone up", "monotone down", "oscillating")
GROUPS = list(get_args(Group))
LEAST = 2  # changes of a parameter on a path, below which it cannot be told how it moves
MARKS = {-1: "-", 0: ".", 1: "+"}


@dataclass(frozen=True)
class Counts:
    """Of each parameter: how often it changed, how often upwards, and how often the direction turned. Shape (..., parameters)."""

    changes: Array
    ups: Array
    turns: Array

    @classmethod
    def of(cls, signs: Signs) -> Counts:
        """Count directions of shape (..., stages, parameters); stages that leave a parameter alone do not count for it."""
        last = np.zeros_like(signs[..., 0, :])
        turns = np.zeros(last.shape)
        for stage in range(signs.shape[-2]):
            now = signs[..., stage, :]
            turns += now * last < 0
            last = np.where(now != 0, now, last)
        return cls((signs != 0).sum(axis=-2).astype(float), (signs > 0).sum(axis=-2).astype(float), turns)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Whether there are changes enough to tell."""
        return np.asarray(self.changes >= LEAST)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """The index in `SHAPES`."""
        conditions = [self.changes == 0, self.changes < LEAST, self.ups == self.changes, self.ups == 0]
        return np.asarray(np.select(conditions, range(len(conditions)), len(conditions)))


@dataclass(frozen=True)
class Line:
    """A path from the root.

    Attributes:
        end: its last node.
        signs: direction of change of each parameter at each stage, of shape (stages, parameters).
        start: position of each parameter before its first change, 0 where it has none.
        values: how many values each parameter may take; NaN is any number.
    """

    search: str
    end: str
    signs: Signs
    start: Array
    values: Array

    def of(self, columns: Sequence[int] | NDArray[np.int64]) -> Line:
        """Return the path of some of the parameters."""
        return Line(self.search, self.end, self.signs[:, columns], self.start[columns], self.values[columns])

    @cached_property
    def counts(self) -> Counts:
        """The changes of each parameter."""
        return Counts.of(self.signs)


@dataclass(frozen=True)
class Paths:
    """The paths of searches.

    Attributes:
        parameters: all that some search changed, by group; `groups` are theirs.
        best: of each search the path to its best stage.
        leaves: of each search all paths from the root to a stage without children.
    """

    parameters: list[str]
    groups: NDArray[np.str_]
    best: list[Line] = field(default_factory=list)
    leaves: list[Line] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Tables) -> Paths:
        """Return the paths of all searches."""
        known = tables.changes.drop_duplicates("parameter").sort_values(
            "group", key=lambda group: group.map(GROUPS.index), kind="stable"
        )
        found = cls(known["parameter"].tolist(), known["group"].to_numpy(str))
        trees = _trees(tables, {name: i for i, name in enumerate(found.parameters)})
        best = tables.searches.set_index("search")["best_node"].dropna()
        for search, tree in trees.items():
            if search in best.index and (line := tree.line(search, best[search])):
                found.best.append(line)
            found.leaves.extend(line for end in tree.leaves if (line := tree.line(search, end)))
        return found

    def columns(self, group: str) -> NDArray[np.int64]:
        """Return where the parameters of a group stand."""
        return np.flatnonzero(self.groups == group)

    def table(self) -> pd.DataFrame:
        """Return a row for each parameter on each path."""
        rows = [
            row
            for kind in ("best", "leaves")
            for line in getattr(self, kind)
            for row in self._told(kind, line)
        ]
        return pd.DataFrame(
            rows,
            columns=[
                "paths",
                "search",
                "end",
                "parameter",
                "group",
                "shape",
                "changes",
                "ups",
                "turns",
                "directions",
            ],
        )

    def _told(self, kind: str, line: Line) -> Iterator[tuple[Any, ...]]:
        counts = line.counts
        told = zip(counts.shapes, counts.changes, counts.ups, counts.turns, line.signs.T, strict=True)
        for name, group, (shape, changes, ups, turns, signs) in zip(
            self.parameters, self.groups, told, strict=True
        ):
            marks = "".join(MARKS[int(sign)] for sign in signs)
            yield (
                kind,
                line.search,
                line.end,
                name,
                str(group),
                SHAPES[shape],
                int(changes),
                int(ups),
                int(turns),
                marks,
            )


def path_to(parents: Mapping[str, str | None], end: str) -> list[str]:
    """Return the nodes from the root, whose parent is None, to a node."""
    nodes = [end]
    while (parent := parents[nodes[0]]) is not None:
        nodes.insert(0, parent)
    return nodes


@dataclass
class _Tree:
    size: int
    parents: dict[str, str | None] = field(default_factory=dict)
    leaves: list[str] = field(default_factory=list)
    changes: dict[str, list[tuple[int, int, float, float]]] = field(default_factory=lambda: defaultdict(list))

    def line(self, search: str, end: str) -> Line | None:
        """Return the path to a node; None for the root, where nothing has changed."""
        nodes = path_to(self.parents, end)[1:]
        signs, start, values = (
            np.zeros((len(nodes), self.size), np.int8),
            np.zeros(self.size),
            np.full(self.size, np.nan),
        )
        for stage in reversed(
            range(len(nodes))
        ):  # so that the first change has the last word on where it started
            for column, direction, before, count in self.changes.get(nodes[stage], ()):
                signs[stage, column], start[column], values[column] = direction, before, count
        return Line(search, end, signs, start, values) if nodes else None


def _trees(tables: Tables, columns: Mapping[str, int]) -> dict[str, _Tree]:
    trees: dict[str, _Tree] = defaultdict(lambda: _Tree(len(columns)))
    stages = tables.stages
    for search, node, parent, leaf in zip(
        *(stages[name].tolist() for name in ("search", "node", "parent", "leaf")), strict=True
    ):
        trees[search].parents[node] = parent if isinstance(parent, str) else None
        if leaf:
            trees[search].leaves.append(node)
    told = (
        tables.changes[name].tolist()
        for name in ("search", "node", "parameter", "direction", "position_before", "values")
    )
    for search, node, parameter, direction, before, count in zip(*told, strict=True):
        trees[search].changes[node].append((columns[parameter], direction, before, count))
    return trees
