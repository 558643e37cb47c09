"""Paths through trees as directions of change, and each parameter's shape: `python -m analysis.paths`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.commands import print_table, search_parser
from analysis.load import load_ended
from analysis.tables import Tables
from llmzero.cli import run_command
from llmzero.core.hparams import Group

HELP = """\
Print, as CSV, how each parameter moved along the best path and along all paths of each search. It is the file
trajectories.csv of analysis.dynamics.
"""
EXAMPLES = """\
examples:
  python -m analysis.paths runs/countdown
  python -m analysis.paths runs/study > trajectories.csv
"""

Signs = NDArray[np.int8]
Array = NDArray[np.float64]

SHAPES = ("constant", "single change", "monotone up", "monotone down", "oscillating")
GROUPS = list(get_args(Group))
MIN_CHANGES = 2  # of a parameter on a path; with fewer its movement has no direction that could turn
MARKS = {-1: "-", 0: ".", 1: "+"}


@dataclass(frozen=True)
class Counts:
    """How often each parameter changed on a path, how often upwards, and how often its direction turned.

    All arrays have the shape (..., parameters).
    """

    changes: Array
    ups: Array
    turns: Array

    @classmethod
    def of(cls, signs: Signs) -> Counts:
        """Count the directions of an array of shape (..., stages, parameters).

        A stage that leaves a parameter alone does not count for it: up, unchanged, down is one turn.
        """
        last = np.zeros_like(signs[..., 0, :])
        turns = np.zeros(last.shape)
        for stage in range(signs.shape[-2]):
            current = signs[..., stage, :]
            turns += current * last < 0
            last = np.where(current != 0, current, last)
        return cls((signs != 0).sum(axis=-2).astype(float), (signs > 0).sum(axis=-2).astype(float), turns)

    @property
    def testable(self) -> NDArray[np.bool_]:
        """Whether each parameter changed at least `MIN_CHANGES` times."""
        return np.asarray(self.changes >= MIN_CHANGES)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """The shape of each parameter, as an index into `SHAPES`."""
        conditions = [
            self.changes == 0,
            self.changes < MIN_CHANGES,
            self.ups == self.changes,
            self.ups == 0,
        ]
        return np.asarray(np.select(conditions, range(len(conditions)), len(conditions)))


@dataclass(frozen=True)
class SearchPath:
    """The changes along a path from the root of a search's tree.

    Attributes:
        search: the search.
        end: the last node of the path.
        signs: direction of change (-1, 0, 1) of each parameter at each stage, of shape (stages, parameters).
        start: position of each parameter before its first change, between 0 and 1; 0 where it never changes.
        values: how many values each parameter may take; NaN where any number within its bounds will do.
    """

    search: str
    end: str
    signs: Signs
    start: Array
    values: Array

    def select(self, columns: Sequence[int] | NDArray[np.int64]) -> SearchPath:
        """Return the path with some of the parameters alone."""
        return SearchPath(
            self.search, self.end, self.signs[:, columns], self.start[columns], self.values[columns]
        )

    @cached_property
    def counts(self) -> Counts:
        """The changes of each parameter."""
        return Counts.of(self.signs)


@dataclass(frozen=True)
class Paths:
    """The paths of a set of searches.

    Attributes:
        parameters: every parameter that some search changed, ordered by group.
        groups: the group of each of them.
        best: the path to the best stage of each search.
        leaves: of each search every path from the root to a stage without children.
    """

    parameters: list[str]
    groups: NDArray[np.str_]
    best: list[SearchPath] = field(default_factory=list)
    leaves: list[SearchPath] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Tables) -> Paths:
        """Return the paths of all searches in the tables."""
        changed = tables.changes.drop_duplicates("parameter").sort_values(
            "group", key=lambda group: group.map(GROUPS.index), kind="stable"
        )
        paths = cls(changed["parameter"].tolist(), changed["group"].to_numpy(str))
        trees = _trees(tables, {name: i for i, name in enumerate(paths.parameters)})
        best = tables.searches.set_index("search")["best_node"].dropna()
        for search, tree in trees.items():
            if search in best.index and (path := tree.path(search, best[search])):
                paths.best.append(path)
            paths.leaves.extend(path for end in tree.leaves if (path := tree.path(search, end)))
        return paths

    def columns(self, group: str) -> NDArray[np.int64]:
        """Return the indices of a group's parameters."""
        return np.flatnonzero(self.groups == group)

    def table(self) -> pd.DataFrame:
        """Return the content of `trajectories.csv`: a row for each parameter on each path."""
        rows = [
            {"paths": kind, "search": path.search, "end": path.end, **row}
            for kind in ("best", "leaves")
            for path in getattr(self, kind)
            for row in self._parameter_rows(path)
        ]
        columns = ("paths", "search", "end", "parameter", "group")
        return pd.DataFrame(rows, columns=[*columns, "shape", "changes", "ups", "turns", "directions"])

    def _parameter_rows(self, path: SearchPath) -> Iterator[dict[str, Any]]:
        counts, shapes = path.counts, path.counts.shapes
        for i, (name, group) in enumerate(zip(self.parameters, self.groups, strict=True)):
            yield {
                "parameter": name,
                "group": str(group),
                "shape": SHAPES[shapes[i]],
                "changes": int(counts.changes[i]),
                "ups": int(counts.ups[i]),
                "turns": int(counts.turns[i]),
                "directions": "".join(MARKS[int(sign)] for sign in path.signs[:, i]),
            }


def nodes_to(parents: Mapping[str, str | None], end: str) -> list[str]:
    """Return the nodes from the root, whose parent is None, to a node."""
    nodes = [end]
    while (parent := parents[nodes[0]]) is not None:
        nodes.insert(0, parent)
    return nodes


def path_of(stages: pd.DataFrame, end: str) -> list[str]:
    """Return the nodes from the base model to a node of a search; `stages` are the stages of that search."""
    parents = (parent if isinstance(parent, str) else None for parent in stages["parent"])
    return nodes_to(dict(zip(stages["node"], parents, strict=True)), end)


@dataclass
class _Tree:
    """A search's tree with each node's changes: column of the parameter, direction, old position, count."""

    size: int
    parents: dict[str, str | None] = field(default_factory=dict)
    leaves: list[str] = field(default_factory=list)
    changes: dict[str, list[tuple[int, int, float, float]]] = field(default_factory=lambda: defaultdict(list))

    def path(self, search: str, end: str) -> SearchPath | None:
        """Return the path to a node; None for the root, where nothing has changed."""
        nodes = nodes_to(self.parents, end)[1:]
        signs = np.zeros((len(nodes), self.size), np.int8)
        start, values = np.zeros(self.size), np.full(self.size, np.nan)
        for stage in reversed(range(len(nodes))):  # so that the first change sets where a parameter started
            for column, direction, before, count in self.changes.get(nodes[stage], ()):
                signs[stage, column], start[column], values[column] = direction, before, count
        return SearchPath(search, end, signs, start, values) if nodes else None


def _trees(tables: Tables, columns: Mapping[str, int]) -> dict[str, _Tree]:
    trees: dict[str, _Tree] = defaultdict(lambda: _Tree(len(columns)))
    for search, node, parent, leaf in _rows(tables.stages, "search", "node", "parent", "leaf"):
        trees[search].parents[node] = parent if isinstance(parent, str) else None
        if leaf:
            trees[search].leaves.append(node)
    names = ("search", "node", "parameter", "direction", "position_before", "values")
    for search, node, parameter, direction, before, count in _rows(tables.changes, *names):
        trees[search].changes[node].append((columns[parameter], direction, before, count))
    return trees


def _rows(table: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].tolist() for name in columns), strict=True)


def main() -> None:
    """Print the rows of the directories on the command line."""
    arguments = search_parser("paths", HELP, EXAMPLES).parse_args()
    print_table(Paths.of(load_ended(arguments.directories)).table())


if __name__ == "__main__":
    run_command(main)
