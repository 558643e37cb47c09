"""What strategies gain on other tasks, from finished replays: `python -m analysis.transfer --help`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from analysis.commands import publish, search_parser
from analysis.compare import REPLAY
from analysis.curves import with_method_names
from analysis.load import load
from analysis.tables import Tables
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.settings import path_argument
from llmzero.studies.figures import transfer_figure
from llmzero.studies.tables import transfer_table
from llmzero.studies.transfers import gain
from llmzero.tree.outcomes import read_summary

HELP = """\
How much better strategies end than the practitioner's configuration trained for the same compute, on every
task that they were replayed on: mean gain in test score, its standard error over seeds, and Student's paired
test.

A DIRECTORY holds replays, as launchers/replay.py and launchers/transfer.py leave them. Replays of the same
stages are of one strategy; its name is the folder above their seeds where there is one, such as
runs/transfer/<task>/<strategy>/seed-0.
"""
EXAMPLES = """\
examples:
  python -m analysis.transfer runs/transfer
  python -m analysis.transfer runs/replay-* --out transferred
"""


def transfer_matrix(tables: Tables) -> dict[str, Any]:
    """Return the content of `transfer.json`: the gain of each strategy on each task.

    Raises:
        UserError: there is no replay that has finished.
    """
    searches = with_method_names(tables.searches)
    replays = searches[searches["method"] == REPLAY]
    summaries = {search: read_summary(Path(search)) or {} for search in replays["search"]}
    finished = replays["search"].map(lambda search: summaries[search].get("state") == "finished").astype(bool)
    if not finished.any():
        raise UserError(
            "no finished replay among these searches; launchers/transfer.py and launchers/replay.py make them"
        )
    done = replays[finished]
    results: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for search, task in zip(done["search"], done["task"], strict=True):
        directory = Path(search)
        strategy = directory.parent.name if directory.name.startswith("seed-") else directory.name
        results[strategy, task].append(summaries[search])
    strategies, tasks = (list(dict.fromkeys(column)) for column in zip(*results, strict=True))
    return {
        "strategies": strategies,
        "tasks": tasks,
        "seeds": sorted(done["seed"].unique().tolist()),
        "unfinished": sorted(replays["search"][~finished]),
        "gains": {
            task: {strategy: gain(results.get((strategy, task), [])) for strategy in strategies}
            for task in tasks
        },
    }


def main() -> None:
    """Print the matrix, and write it with its heat-map where --out says."""
    parser = search_parser("transfer", HELP, EXAMPLES)
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="where transfer.json, transfer.md and the heat-map go",
    )
    arguments = parser.parse_args()
    report = transfer_matrix(load(arguments.directories))
    publish("transfer", report, transfer_table(report), arguments.out)
    if arguments.out:
        transfer_figure(arguments.out, report)


if __name__ == "__main__":
    run_command(main)
