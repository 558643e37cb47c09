#!/usr/bin/env python
"""Takes decision points from searches on tables, for `launchers/bench_agent.py` (docs/bench.md).

Usage: python -m benchmarks.make_points [NAME ...] [--tables FOLDER] [--points FOLDER]

Searches by several methods and agents are run on the table of every task. Of the moments at which a stage was
to be proposed, those count at which the choice mattered: the best alternative by validation beats the mean of
the others on test, in its own score or in what follows, by twice the standard error. Of these some are drawn,
evenly over depths, lengths of history and searches, whatever any agent would do there. The same command
writes the same files, benchmarks/points/NAME.jsonl. It trains nothing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from llmzero.cli import composed, run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_jsonl, write_jsonl
from llmzero.core.settings import path_argument
from llmzero.evidence.evidence import Choice
from llmzero.evidence.proposal import Proposal
from llmzero.runners.table import TableRunner, TableRunnerSettings
from llmzero.runners.tables.format import SUFFIX, TABLES, Path_, Table, read_table
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.studies.bench.outcomes import Alternatives, Outcomes
from llmzero.studies.bench.points import ENDING, POINTS, read_points
from llmzero.studies.bench.staged import grown
from llmzero.tree.store import EventStore

TASKS = {  # the table of each file of points
    "metro": "metro-0",
    "tower": "tower-0",
    "countdown": "countdown_small-0",
    "math": "math_small-0",
}
SEARCHES = {
    "llmzero by rules": ["search=llmzero", "agent=rules"],
    "llmzero by chance": ["search=llmzero", "agent=random"],
    "paper by rules": ["search=paper", "agent=rules"],
    "greedy by rules": ["search=greedy", "agent=rules"],
    "greedy by chance": ["search=greedy", "agent=random"],
    "pbt": ["search=pbt"],
    "random": ["search=random"],
}
SEEDS = (1, 2, 3)
BUDGET = 16  # stages of a search
COUNT = 30  # points of a task
HISTORY = 6  # stages: bounds of early, middle and late points are at so many and twice as many


def main() -> None:
    """Make the points of all tasks, or of some."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of tasks: {', '.join(TASKS)}; all by default")
    parser.add_argument("--tables", type=path_argument, default=TABLES, help="where the tables lie")
    parser.add_argument("--points", type=path_argument, default=POINTS, help="where the points go")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in TASKS]:
        raise UserError(f"{unknown[0]}: is none of {', '.join(TASKS)}")
    options.points.mkdir(parents=True, exist_ok=True)
    for name in options.names or TASKS:
        file = options.tables / f"{TASKS[name]}{SUFFIX}"
        if not file.is_file():
            recipe = TASKS[name].partition("-")[0]
            raise UserError(
                f"{file}: there is none; make it: python -m benchmarks.make_table {recipe} --seed 0"
            )
        table = read_table(file)
        runner = TableRunner(TableRunnerSettings(str(table.file)))
        found = [
            record
            for source, search in SEARCHES.items()
            for record in _of_searches(table, runner, source, search)
        ]
        places = {json.dumps([each["stages"], each["parent"]]): each for each in found}
        file, outcomes = options.points / f"{name}{ENDING}", Outcomes(table)
        write_jsonl(file, places.values())
        every = read_points(file, options.tables)
        matter = [
            record
            for record, point in zip(places.values(), every, strict=True)
            if Alternatives(point, outcomes).matters()
        ]
        write_jsonl(file, drawn(matter, random.Random(name)))
        kept, searches = len(read_points(file, options.tables)), len(SEARCHES) * len(SEEDS)
        print(f"{file}: {kept} points; in {searches} searches there were {len(every)},", end=" ")
        print(f"at {len(matter) / len(every):.0%} of which the choice mattered")


def _of_searches(
    table: Table, runner: TableRunner, source: str, overrides: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield all decision points of searches on a table, one for each of the seeds."""
    on_table = ["runner=table", f"table='{table.file}'", "stopper=none", "search.workers=1"]
    every = [*on_table, *overrides, f"budget.stages={BUDGET}", "search_dir=unset"]
    config = composed("search", SearchConfig, every)
    for seed in SEEDS:
        with TemporaryDirectory() as directory:
            session = Session.from_config(replace(config, seed=seed, search_dir=directory), runner=runner)
            context = getattr(session.method, "context", None)
            if context is not None:  # as a language model is asked: parent and others are told
                session.method.context = replace(context, thinks=True)  # type: ignore[attr-defined]
            grown(session, session.method, budget=session.config.budget, think=_think(session))
            events = read_jsonl(session.workspace.tree_file)
        asks = any(event["event"] == "proposing" for event in events)
        for record in _points(events, table, "proposing" if asks else "created"):
            yield {
                "table": table.file.name.removesuffix(SUFFIX),
                "source": f"{source}, seed {seed}",
                **record,
            }


def _think(session: Session) -> Callable[..., Callable[[], Proposal]]:
    def think(known: EventStore, node_id: str, until: int | None, choice: Choice) -> Callable[[], Proposal]:
        left = known.ledger.left(session.config.budget)
        evidence = session.evidence.for_proposal(known.tree, node_id, left, choice=choice, until=until)
        return partial(session.proposer.propose, evidence)

    return think


def _points(events: Sequence[dict[str, Any]], table: Table, decision: str) -> Iterator[dict[str, Any]]:
    """Yield the points of a search, at which the children of the parent were not all made."""
    paths: dict[str, Path_] = {}
    for event in events:
        name = event["event"]
        if name == decision and paths:
            parent = paths[event["parent_id"]]
            others = [paths[each] for each in event.get("others", ())]
            made = [path for path in paths.values() if path]
            left = len(table.configurations) - sum(path[:-1] == parent for path in made)
            if len(set(made)) == len(made) and 2 * left >= len(table.configurations):
                yield {
                    "budget": BUDGET,
                    "why": event.get("why", ""),
                    "stages": made,
                    "parent": parent,
                    "others": [other for other in others if _continues(other, made, table)],
                }
        if name == "created":
            number = table.number(event["hparams"])
            root = event["parent_id"] is None
            paths[event["node_id"]] = () if root else (*paths[event["parent_id"]], number or 0)


def _continues(path: Path_, made: Sequence[Path_], table: Table) -> bool:
    """Whether a child of a stage is left."""
    return len(path) < table.depth and sum(each[:-1] == path for each in made) < len(table.configurations)


def drawn(found: Sequence[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Return points evenly spread over depths, lengths of history and searches."""
    left, chosen = list(found), list[dict[str, Any]]()
    rng.shuffle(left)
    counts: Counter[Any] = Counter()
    while left and len(chosen) < COUNT:
        record = min(left, key=lambda each: sum(counts[stratum] for stratum in _strata(each)))
        left.remove(record)
        chosen.append(record)
        counts.update(_strata(record))
    return sorted(chosen, key=lambda record: (len(record["parent"]), len(record["stages"]), record["source"]))


def _strata(record: dict[str, Any]) -> list[tuple[str, Any]]:
    stages = len(record["stages"])
    return [
        ("depth", len(record["parent"])),
        ("history", min(2, stages // HISTORY)),
        ("search", record["source"].rpartition(",")[0]),
    ]


if __name__ == "__main__":
    run_command(main)
