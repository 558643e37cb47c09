"""The tables that analyses work on: searches, stages, training steps, validations, hyperparameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.text import visible, visible_line

Row = dict[str, Any]
ANEW = "write the tables anew with python -m analysis.load"

# Columns of a table that has no rows; `steps` has a further column for every metric that was recorded.
COLUMNS = {
    "searches": (
        *("search", "method", "agent", "proposer", "stopper", "task", "model", "seed"),
        *("state", "best_node", "best_score", "best_depth"),
    ),
    "stages": (
        *("search", "node", "parent", "depth", "state", "score", "gain"),
        *("agent", "diagnosis", "stop", "on_best_path"),
    ),
    "steps": ("search", "node", "step", "global_step"),
    "validation": ("search", "node", "step", "global_step", "score", "stderr", "n", "seconds"),
    "changes": (
        *("search", "node", "parent", "depth", "parameter", "group", "before", "after"),
        *("position_before", "position_after", "direction", "values"),
        *("agent", "diagnosis", "expected_effect", "on_best_path"),
    ),
}


@dataclass(frozen=True)
class Tables:
    """The tables of any number of searches.

    The column `search` names the search in every table, `node` the stage in every table but the first.
    """

    searches: pd.DataFrame
    stages: pd.DataFrame
    steps: pd.DataFrame
    validation: pd.DataFrame
    changes: pd.DataFrame

    def items(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield each table with its name."""
        return ((each.name, getattr(self, each.name)) for each in fields(self))

    def of(self, searches: Collection[str]) -> Tables:
        """Return the rows of these searches alone."""
        return Tables(**{name: table[table["search"].isin(searches)] for name, table in self.items()})

    def save(self, directory: Path) -> None:
        """Write each table into the directory as Parquet, which is created where it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, table in self.items():
            file = directory / f"{name}.parquet"
            table.to_parquet(file, index=False, engine="pyarrow", write_page_checksum=True)

    @classmethod
    def read(cls, directory: Path) -> Tables:
        """Return the tables that `save` wrote.

        Raises:
            UserError: one of the files is missing.
            DamagedFileError: one is something else.
        """
        if missing := [name for name in COLUMNS if not (directory / f"{name}.parquet").exists()]:
            raise UserError(f"{directory}: {missing[0]}.parquet is missing; {ANEW}")
        return cls(**{name: _read(directory / f"{name}.parquet", COLUMNS[name]) for name in COLUMNS})

    @classmethod
    def concatenated(cls, parts: Iterable[Tables]) -> Tables:
        """Return the rows of all parts; a search that several parts hold is taken from the first of them."""
        chosen: list[Tables] = []
        names: set[str] = set()
        for part in parts:
            fresh = set(part.searches["search"]) - names
            names |= fresh
            chosen.append(part if len(fresh) == len(part.searches) else part.of(fresh))
        return cls(
            **{
                name: pd.concat([getattr(part, name) for part in chosen], ignore_index=True)
                for name in COLUMNS
            }
        )


def copies(tables: Tables, *others: Tables) -> set[str]:
    """Return the searches that are copies of an earlier one, or of one of other tables, whatever their names.

    Copies have the same seed, and in every stage the same score and changes. Where all searches have the same
    stages, whatever their seeds, all but the first are copies: they say nothing about how searches vary.
    """
    seen = {contents for other in others for contents in _contents(other).values()}
    contents = _contents(tables)
    alike = len({stages for _, stages in contents.values()}) == 1
    found = set()
    for number, (search, each) in enumerate(contents.items()):
        if each in seen or (alike and number):
            found.add(search)
        seen.add(each)
    return found


def _contents(tables: Tables) -> dict[str, tuple[str, tuple[tuple[str, ...], ...]]]:
    """Return the seed of each search, and its stages with what they changed, in words."""
    columns = {"stages": ("node", "parent", "score"), "changes": ("node", "parameter", "after")}
    stages: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name, used in columns.items():
        table = getattr(tables, name)
        for search, *row in zip(table["search"], *(table[each].astype(str) for each in used), strict=True):
            stages[search].append((name, *row))
    seeds = dict(zip(tables.searches["search"], tables.searches["seed"].astype(str), strict=True))
    return {search: (seeds.get(search, ""), tuple(rows)) for search, rows in stages.items()}


@dataclass(frozen=True)
class Rows:
    """Rows that become tables, one list for each table."""

    searches: list[Row] = field(default_factory=list)
    stages: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)

    def tables(self) -> Tables:
        """Return the tables of these rows."""
        frames = {}
        for name, columns in COLUMNS.items():
            rows = getattr(self, name)
            frames[name] = shown(pd.DataFrame(rows)) if rows else pd.DataFrame(columns=list(columns))
        return Tables(**frames)


def _read(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not file.is_file():
        raise DamagedFileError(file, "it is no regular file", ANEW)
    try:
        table = pd.read_parquet(file, engine="pyarrow", page_checksum_verification=True)
    except (OSError, ValueError) as error:  # what pyarrow raises is one of them
        raise DamagedFileError(file, error, ANEW) from error
    if missing := [name for name in columns if name not in table]:
        raise DamagedFileError(file, f"the column {missing[0]} is missing", ANEW)
    return shown(table)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose words are safe to show: on one line, but for rationales, and without escapes.

    Names of searches stay as they are: they are paths.
    """
    words = table.select_dtypes(["object", "string"]).columns.drop("search", errors="ignore")
    return table.assign(**{name: table[name].map(_shown(name)) for name in words})


def _shown(name: str) -> Callable[[Any], Any]:
    write = visible if name == "rationale" else visible_line
    return lambda value: write(value) if isinstance(value, str) else value
