"""Strategies x tasks, from replays that are there already: `python -m analysis.transfer --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.compare import REPLAY
from analysis.curves import named
from analysis.load import Tables, load, parser_of, publish
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.studies.figures import transfer_figure
from llmzero.studies.tables import transfer_table
from llmzero.studies.transfers import gain

HELP = """\
How much better strategies end than the practitioner's configuration trained for as many steps, on every task that they were replayed on:
mean gain in test score, its standard error over seeds, and Student's paired test.

A DIRECTORY holds replays, as launchers/replay.py and launchers/transfer.py leave them. Replays of the same stages are of one strategy;
its name is the folder above their seeds where there is one, such as runs/transfer/<task>/<strategy>/seed-0.
"""
EXAMPLES = """\
examples:
  python -m analysis.transfer runs/transfer
  python -m analysis.transfer runs/replay-* --out transferred
"""


def transferred(tables: Tables) -> dict[str, Any]:
    """Return the matrix of strategies and tasks.

    Raises:
        UserError: there is no replay that has finished.
    """
    searches = named(tables.searches)
    summaries = {search: read_json(Path(search) / "summary.json") or {} for search in searches["search"]}
    replays = searches[searches["method"] == REPLAY]
    finished = [summaries[search].get("state") == "finished" for search in replays["search"]]
    if not any(finished):
        raise UserError(
            "no finished replay among these searches; launchers/transfer.py and launchers/replay.py make them"
        )
    done = replays[finished].assign(
        strategy=[_strategy(Path(search)) for search in replays["search"][finished]]
    )
    strategies, tasks = (list(dict.fromkeys(done[column])) for column in ("strategy", "task"))
    return {
        "strategies": strategies,
        "tasks": tasks,
        "seeds": sorted(done["seed"].unique().tolist()),
        "unfinished": sorted(replays["search"][[not each for each in finished]]),
        "gains": {
            task: {name: gain(_of(done, summaries, task, name)) for name in strategies} for task in tasks
        },
    }


def _strategy(search: Path) -> str:
    """Return the name of the strategy that a replay is of."""
    return search.parent.name if search.name.startswith("seed-") else search.name


def _of(done: pd.DataFrame, summaries: dict[str, Any], task: str, strategy: str) -> list[dict[str, Any]]:
    return [
        summaries[search]
        for search in done["search"][(done["task"] == task) & (done["strategy"] == strategy)]
    ]


def main() -> None:
    """Print the matrix, and write it with its heat-map."""
    parser = parser_of("transfer", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where transfer.json, transfer.md and the heat-map go"
    )
    given = parser.parse_args()
    found = transferred(load(given.directories))
    publish("transfer", found, transfer_table(found), given.out)
    if given.out:
        transfer_figure(given.out, found)


if __name__ == "__main__":
    run_command(main)
