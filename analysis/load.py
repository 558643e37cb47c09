"""Reads search directories as tables: `python -m analysis.load runs/a runs/b --out tables`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.commands import search_parser
from analysis.tables import Rows, Tables
from analysis.tree_rows import add_tree
from llmzero.cli import run_command
from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import RESTORE
from llmzero.core.hparams import Catalogue, catalogue_of
from llmzero.core.settings import path_argument
from llmzero.core.stage import StageDir
from llmzero.mirrors.views import COMPARED
from llmzero.tree.outcomes import read_summary
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT
from llmzero.tree.workspace import Workspace, read_search_config

HELP = """\
Read searches and write them as tables, one Parquet file each:

  searches    one row a search: method, agent, proposer, task, seed, best stage, test scores, cost, what its
              early stopper did
  stages      one row a stage: parent, state, score, gain over its parent, diagnosis, what its agent expected,
              cost
  steps       one row a training step, with all metrics that were recorded
  validation  one row a validation
  changes     one row for each parameter that a stage changed: values, positions from lowest (0) to highest
              (1), direction

A DIRECTORY is a search, a study or any other folder that holds searches, or a folder of tables that this
command wrote. Searches that run still, or that were killed, are read as far as they got.
"""
EXAMPLES = """\
examples:
  python -m analysis.load runs/countdown --out tables
  python -m analysis.load runs/study runs/a runs/b --out tables
  python -c "import pandas; print(pandas.read_parquet('tables/stages.parquet').groupby('agent').gain.mean())"
"""


def load(directories: Iterable[Path | str]) -> Tables:
    """Return the tables of all searches and saved tables in the directories; each search counts once.

    Raises:
        UserError: a directory holds no search and no tables, or a file cannot be read.
    """
    sources: dict[Path, Path] = {}  # the path under which a directory was first reached, by its real path
    for directory in directories:
        for source in find_searches(Path(directory)):
            sources.setdefault(source.resolve(), source)
    rows, saved = Rows(), []
    for source in sources.values():
        if (source / "searches.parquet").exists():
            saved.append(Tables.read(source))
        else:
            _add_search(rows, source)
    return Tables.concatenated([rows.tables(), *saved] if rows.searches else saved)


def load_ended(directories: Iterable[Path | str]) -> Tables:
    """Return what `load` does, for analyses of stages that have ended.

    Raises:
        UserError: as `load`, or none has been trained to its end yet.
    """
    directories = list(directories)
    tables = load(directories)
    trained = tables.stages.reindex(columns=["parent", "finished_order"]).notna().all(axis=1)
    if not trained.any():
        names = ", ".join(map(str, directories))
        raise UserError(f"{names}: no stage has been trained to its end yet; wait until one has")
    return tables


def find_searches(directory: Path) -> Iterator[Path]:
    """Yield the search directories and the folders of saved tables at and below a directory.

    Directories inside a search (its final test, its confirmation) are searches too and are passed over.

    Raises:
        UserError: the directory does not exist, or holds none of them.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give that of a search, or one that holds searches")
    count = 0
    for path, subdirectories, files in os.walk(directory, followlinks=True):
        names = {*files, *subdirectories}  # a directory in place of a file is damage, and read as such
        if {"tree.jsonl", "config.yaml"} <= names or "searches.parquet" in names:
            subdirectories.clear()
            count += 1
            yield Path(path)
        subdirectories.sort()
    if not count:
        raise UserError(
            f"{directory}: holds no search; each has a tree.jsonl and a config.yaml in its search_dir"
        )


def _add_search(rows: Rows, directory: Path) -> None:
    """Add the rows of a search directory.

    Raises:
        UserError: a file of it cannot be read, or contradicts another; the message names it.
    """
    workspace = Workspace(directory)
    config = read_search_config(workspace.config_file)
    store = EventStore(workspace.tree_file, repair=False)
    test = (read_summary(directory) or {}).get("test") or {}
    stages = {node.node_id: StageDir(workspace.nodes / node.node_id) for node in store.tree}
    add_tree(
        rows,
        str(directory),
        config,
        store.tree,
        _catalogue(workspace.config_file, config),
        {node_id: stage.metrics() for node_id, stage in stages.items()},
        state="finished" if store.ended else "unfinished",
        validation_max_tokens=stages[ROOT].validation_limit() if ROOT in stages else None,
        **store.ledger.to_dict(),
        **{f"test_{name}": (test.get(name) or {}).get("score") for name in COMPARED},
    )
    for node in store.tree:
        key = {"search": str(directory), "node": node.node_id}
        if node.result:
            rows.validation.extend({**key, **vars(point)} for point in node.result.validation)
        else:  # the stage runs still
            rows.validation.extend({**key, **vars(point)} for point in stages[node.node_id].validation())


def _catalogue(path: Path, config: Mapping[str, Any]) -> Catalogue:
    """Return the hyperparameters of a search from its configuration, which was read from `path`."""
    if not isinstance(config, Mapping) or not (config.get("hparams") or {}).get("parameters"):
        raise UserError(f"{path}: hparams.parameters: missing; this is not the config.yaml of a search")
    try:
        return catalogue_of({"model": None, "algorithm": None, **config})
    except UserError as error:
        raise DamagedFileError(path, error, RESTORE) from error


def main() -> None:
    """Write the tables of the directories on the command line."""
    parser = search_parser("load", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR", help="where the Parquet files go"
    )
    arguments = parser.parse_args()
    tables = load_ended(arguments.directories)
    tables.save(arguments.out)
    for name, table in tables.items():
        print(f"{arguments.out / name}.parquet: {len(table)} rows, {len(table.columns)} columns")


if __name__ == "__main__":
    run_command(main)
