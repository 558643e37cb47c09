#!/usr/bin/env python
"""Says what is to be had in a table: the test scores of fixed strategies at the compute of a whole path.

Usage: python -m benchmarks.table_baselines benchmarks/tables/NAME-*.jsonl.xz   (prints a table in Markdown)

Strategies are chosen by their validation score at the end of the path; a search takes the best checkpoint.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from llmzero.cli import run_command
from llmzero.runners.tables.format import Path_, Point, Table, read_table, table_file

Choice = Callable[[Table], Point]


def main() -> None:
    """Print a row for each strategy, with its mean over the tables and its standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", help="files, or names with their seed, as metro-0")
    tables = [read_table(table_file(name, 0)) for name in parser.parse_args().tables]
    kinds: dict[str, Choice] = {
        "base model": lambda table: table.base,
        "practitioner's configuration": lambda table: _end(table, _constant(table, _practitioner(table))),
        "random path (mean of all)": _mean_of_all,
        "best constant": lambda table: _best(
            table, [_constant(table, n) for n in range(len(table.configurations))]
        ),
        "best path": lambda table: _best(table, [path for path in table.stages if len(path) == table.depth]),
    }
    print("| strategy | test score | " + " | ".join(table.file.name.split(".")[0] for table in tables) + " |")
    print("| --- | --- |" + " --- |" * len(tables))
    for kind, choose in kinds.items():
        tests = [choose(table).test for table in tables]
        error = f" ± {stdev(tests) / math.sqrt(len(tests)):.3f}" if len(tests) > 1 else ""
        print(f"| {kind} | {fmean(tests):.3f}{error} | " + " | ".join(f"{test:.3f}" for test in tests) + " |")
    for table in tables:
        best = max(
            (path for path in table.stages if len(path) == table.depth), key=lambda path: _score(table, path)
        )
        names = [
            ", ".join(f"{name}={value}" for name, value in table.configurations[n].items()) for n in best
        ]
        print(f"\nBest path of {table.file.name.split('.')[0]}: " + "; ".join(names))


def _practitioner(table: Table) -> int:
    number = table.number(table.catalogue.defaults())
    assert number is not None, "defaults are choices"
    return number


def _constant(table: Table, number: int) -> Path_:
    return (number,) * table.depth


def _end(table: Table, path: Path_) -> Point:
    """Return the last validation on a path, of one that failed the last before."""
    while path and (path not in table.stages or not table.stages[path].points):
        path = path[:-1]
    return table.stages[path].points[-1] if path else table.base


def _score(table: Table, path: Path_) -> float:
    return _end(table, path).score


def _best(table: Table, paths: Sequence[Path_]) -> Point:
    return _end(table, max(paths, key=lambda path: _score(table, path)))


def _mean_of_all(table: Table) -> Point:
    ends = [_end(table, path) for path in table.stages if len(path) == table.depth]
    mean = fmean(end.test for end in ends)
    return Point(0, fmean(end.score for end in ends), 0.0, mean, 0.0, 0.0, 0.0)


if __name__ == "__main__":
    run_command(main)
