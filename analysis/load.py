"""Searches as tables: `python -m analysis.load runs/a runs/b --out tables`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_json, read_jsonl, write_atomic, write_json
from llmzero.core.hparams import Catalogue, Parameter, catalogue_of
from llmzero.core.stage import StageDir
from llmzero.mirrors.results import stopping_record
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from llmzero.tree.upgrade import LLM_PARTS
from llmzero.tree.workspace import Workspace, read_config

Row = dict[str, Any]

# Columns that a table has even where no row fills them; `steps` has a column for every metric recorded besides.
COLUMNS = {
    "searches": (
        "search",
        "method",
        "agent",
        "proposer",
        "stopper",
        "task",
        "model",
        "seed",
        "state",
        "best_node",
        "best_score",
        "best_depth",
    ),
    "stages": (
        "search",
        "node",
        "parent",
        "depth",
        "state",
        "score",
        "gain",
        "agent",
        "diagnosis",
        "stop",
        "on_best_path",
    ),
    "steps": ("search", "node", "step", "global_step"),
    "validation": ("search", "node", "step", "global_step", "score", "stderr", "n", "seconds"),
    "changes": (
        *(
            "search",
            "node",
            "parent",
            "depth",
            "parameter",
            "group",
            "before",
            "after",
            "position_before",
            "position_after",
            "direction",
        ),
        *("values", "agent", "diagnosis", "expected_effect", "on_best_path"),
    ),
}

HELP = """\
Read searches and write them as tables, one Parquet file each:

  searches    one row a search: method, agent, proposer, task, seed, best stage, test scores, cost, what its early stopper did
  stages      one row a stage: parent, state, score, gain over its parent, diagnosis, what its agent expected, cost
  steps       one row a training step, with all metrics that were recorded
  validation  one row a validation
  changes     one row for each parameter that a stage changed: values, positions between lowest (0) and highest (1), direction

A DIRECTORY is a search, a study or any other folder that holds searches, or a folder of tables that this command wrote. Searches
that run still, or that were killed, are read as far as they got.
"""
EXAMPLES = """\
examples:
  python -m analysis.load runs/countdown --out tables
  python -m analysis.load runs/study runs/a runs/b --out tables
  python -c "import pandas; print(pandas.read_parquet('tables/stages.parquet').groupby('diagnosis').gain.describe())"
"""


@dataclass(frozen=True)
class Tables:
    """Searches, however many. `search` names the search in all tables, `node` the stage in all but the first."""

    searches: pd.DataFrame
    stages: pd.DataFrame
    steps: pd.DataFrame
    validation: pd.DataFrame
    changes: pd.DataFrame

    def items(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the tables with their names."""
        return ((each.name, getattr(self, each.name)) for each in fields(self))

    def of(self, searches: Collection[str]) -> Tables:
        """Return the rows of some searches."""
        return Tables(**{name: table[table["search"].isin(searches)] for name, table in self.items()})

    def save(self, directory: Path) -> None:
        """Write each table into the directory, as Parquet."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, table in self.items():
            table.to_parquet(directory / f"{name}.parquet", index=False)


@dataclass(frozen=True)
class Rows:
    """Rows of the tables, as sources make them."""

    searches: list[Row] = field(default_factory=list)
    stages: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)

    def tables(self) -> Tables:
        """Return the tables of these rows."""
        return Tables(**{name: _frame(getattr(self, name), columns) for name, columns in COLUMNS.items()})


def load(directories: Iterable[Path | str]) -> Tables:
    """Return the tables of all searches in the directories, and of all tables saved there, each search once.

    Raises:
        UserError: a directory holds none, or a file cannot be read.
    """
    rows, parts = Rows(), []
    places: dict[Path, Path] = {}
    for place in (place for given in directories for place in places_in(Path(given))):
        places.setdefault(place.resolve(), place)
    for found in places.values():
        if (found / "searches.parquet").exists():
            parts.append(_saved(found))
        else:
            add_search(rows, found)
    return combined([rows.tables(), *parts] if rows.searches else parts)


def combined(parts: Iterable[Tables]) -> Tables:
    """Return the rows of all tables; of a search that is in several, those of the first."""
    kept: list[Tables] = []
    known: set[str] = set()
    for part in parts:
        fresh = set(part.searches["search"]) - known
        known |= fresh
        kept.append(part if len(fresh) == len(part.searches) else part.of(fresh))
    return Tables(
        **{name: pd.concat([getattr(part, name) for part in kept], ignore_index=True) for name in COLUMNS}
    )


def _frame(rows: list[Row], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def places_in(given: Path) -> Iterator[Path]:
    """Yield the searches and saved tables in a directory; what a search keeps in itself (test, confirm) is none."""
    if not given.is_dir():
        raise UserError(f"{given}: no such directory; give that of a search, or one that holds searches")
    count = 0
    for place, below, files in os.walk(given, followlinks=True):
        if {"tree.jsonl", "config.yaml"} <= set(files) or "searches.parquet" in files:
            below.clear()
            count += 1
            yield Path(place)
        below.sort()
    if not count:
        raise UserError(
            f"{given}: holds no search; each has a tree.jsonl and a config.yaml in its search_dir"
        )


def _saved(directory: Path) -> Tables:
    if missing := [name for name in COLUMNS if not (directory / f"{name}.parquet").exists()]:
        raise UserError(
            f"{directory}: {missing[0]}.parquet is missing; write the tables anew with python -m analysis.load"
        )
    return Tables(**{name: pd.read_parquet(directory / f"{name}.parquet") for name in COLUMNS})


# --- a search directory ---


def add_search(rows: Rows, directory: Path) -> None:
    """Add what a search directory holds.

    Raises:
        UserError: a file of it cannot be read, or contradicts another; the message names it.
    """
    workspace = Workspace(directory)
    config = _readable(workspace.config_file, read_config)
    _readable(workspace.tree_file, read_jsonl)  # the store takes a broken line for the end of the log
    store = EventStore(workspace.tree_file, repair=False)
    summary = _readable(workspace.summary_file, read_json) or {}
    add_tree(rows, str(directory), config, store.tree, catalogue(workspace.config_file, config))
    rows.searches[-1] |= {
        "state": "finished" if store.ended else "unfinished",
        **store.ledger.to_dict(),
        **{
            f"test_{name}": (_scores(summary, name) or {}).get("score")
            for name in ("base", "practitioner", "best")
        },
    }
    for node in store.tree:
        _add_training(rows, str(directory), node, StageDir(workspace.nodes / node.node_id))


def catalogue(path: Path, config: Mapping[str, Any]) -> Catalogue:
    """Return the catalogue of a search, from its configuration, which stands in `path`."""
    if not isinstance(config, Mapping) or not (config.get("hparams") or {}).get("parameters"):
        raise UserError(f"{path}: hparams.parameters: missing; this is not the config.yaml of a search")
    return catalogue_of({"model": None, "algorithm": None, **config})


def _readable(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); restore it or leave this search out"
        ) from error


def _scores(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (summary.get("test") or {}).get(name)
    return found


def _add_training(rows: Rows, search: str, node: Node, stage: StageDir) -> None:
    """Add a stage's training steps and validations; of one that runs still, or lost its files, those that there are."""
    key = {"search": search, "node": node.node_id}
    rows.steps.extend({**key, **row} for row in _readable(stage.metrics_file, read_jsonl))
    points = (
        [vars(point) for point in node.result.validation]
        if node.result
        else _readable(stage.validation_file, read_jsonl)
    )
    rows.validation.extend({**key, **point} for point in points)


# --- a tree, wherever it comes from ---


def add_tree(rows: Rows, search: str, config: Mapping[str, Any], tree: Tree, known: Catalogue) -> None:
    """Add a search, its stages and their changes; `known` is its catalogue."""
    best = tree.best()
    path = {node.node_id for node in tree.path(best.node_id)} if best else set()
    rows.searches.append(_search(search, config, tree))
    for node in tree:
        parent = tree[node.parent_id] if node.parent_id else None
        rows.stages.append({"search": search, **_stage(node, parent), "on_best_path": node.node_id in path})
        if parent:
            rows.changes.extend(
                {"search": search, **row, "on_best_path": node.node_id in path}
                for row in _changes(search, node, parent, known)
            )


def _search(search: str, config: Mapping[str, Any], tree: Tree) -> Row:
    best = tree.best()
    groups = ("search", "agent", "stopper", "task", "model", "runner")
    parts = {name: config.get(name) or {} for name in groups}
    if (
        parts["stopper"].get("_target_") in LLM_PARTS
    ):  # searches that differ in the model alone are told apart
        parts["stopper"] = {**parts["stopper"], "model": (config.get("llm") or {}).get("model")}
    return {
        "search": search,
        "method": parts["search"].get("name"),
        "agent": parts["agent"].get("name"),
        "proposer": _proposer(parts["search"].get("name"), parts["agent"].get("name"), tree),
        "stopper": _label(parts["stopper"], ("z", "model")),
        "task": _label(parts["task"], ("difficulty", "path")) or _label(parts["runner"], ("landscape",)),
        "model": _label(parts["model"], ("path",)),
        "seed": config.get("seed"),
        "base_score": tree.root.score if len(tree) else None,
        "best_node": best.node_id if best else None,
        "best_score": best.score if best else None,
        "best_depth": best.depth if best else None,
        **stopping_record(tree),
    }


def _proposer(method: str | None, agent: str | None, tree: Tree) -> str | None:
    """Return who chose the changes: the agent, or the method where it asks none, as it then signs its proposals itself."""
    return method if any(node.proposal.get("agent") == method for node in tree.stages()) else agent


def _label(part: Mapping[str, Any], settings: tuple[str, ...]) -> str | None:
    """Return what a part of the configuration is: the name of its class, and what tells apart those of the same class."""
    if part.get("_target_") is None:
        return None
    told = [
        value if isinstance(value := part[key], str) else f"{key}={value}"
        for key in settings
        if part.get(key) is not None
    ]
    return " ".join([str(part["_target_"]).rsplit(".", 1)[-1], *told])


def _stage(node: Node, parent: Node | None) -> Row:
    result, proposal, stop = node.result, node.proposal, node.stop or {}
    expected = proposal.get("expected") or {}
    start = parent.score if parent else None
    return {
        "node": node.node_id,
        "parent": node.parent_id,
        "depth": node.depth,
        "state": node.state,
        "steps": node.steps,
        "score": node.score,
        "start_score": start,
        "gain": None if node.score is None or start is None else node.score - start,
        "best_step": result.best_step if result else None,
        "seconds": result.seconds if result else None,
        "gpu_seconds": result.gpu_seconds if result else None,
        "cause": (result.cause or {}).get("kind") if result else None,
        "finished_order": node.finished_order,
        "leaf": not node.children,
        "agent": proposal.get("agent"),
        "diagnosis": ", ".join(proposal.get("diagnosis") or ()),
        "rationale": proposal.get("rationale"),
        **{f"expected_{key}": expected.get(key) for key in ("score", "probability", "effect")},
        "expected_metrics": json.dumps(expected.get("metrics") or {}),
        **{key: proposal.get(key, 0) for key in ("calls", "tokens", "dollars")},
        "stop": stop.get("event"),
        "stop_step": stop.get("step"),
        "stop_incumbent": stop.get("incumbent"),
        "hparams": json.dumps(node.hparams),
    }


def _changes(search: str, node: Node, parent: Node, known: Catalogue) -> Iterator[Row]:
    expected = (node.proposal.get("expected") or {}).get("effect")
    for parameter in known.values():
        before, after = (n.hparams.get(parameter.name) for n in (parent, node))
        if before is None or after is None or before == after:
            continue
        low, high = (_position(search, n, parameter) for n in (parent, node))
        yield {
            "node": node.node_id,
            "parent": parent.node_id,
            "depth": node.depth,
            "parameter": parameter.name,
            "group": parameter.group,
            "before": str(before),
            "after": str(after),
            "position_before": low,
            "position_after": high,
            "direction": int(np.sign(high - low)),
            "values": parameter.count,
            "agent": node.proposal.get("agent"),
            "diagnosis": ", ".join(node.proposal.get("diagnosis") or ()),
            "expected_effect": expected,
        }


def _position(search: str, node: Node, parameter: Parameter) -> float:
    value = node.hparams[parameter.name]
    if parameter.choices is not None and value not in parameter.choices:
        raise UserError(
            f"{search}: stage {node.node_id}: {parameter.problem(value)}, says its config.yaml; restore that or leave this search out"
        )
    return parameter.position(value)


# --- the command ---


def command(module: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a module's command, whose `--help` keeps the lines of description and examples."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        f"python -m analysis.{module}", description=description, epilog=examples, formatter_class=form
    )


def parser_of(module: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a command that takes directories of searches."""
    parser = command(module, description, examples)
    parser.add_argument(
        "directories",
        nargs="+",
        type=Path,
        metavar="DIRECTORY",
        help="a search, a folder of searches, or a folder of tables",
    )
    return parser


def publish(name: str, document: Any, text: str, directory: Path | None) -> None:
    """Print what a command has found, and write it into a directory, if there is one: `name.json` and `name.md`."""
    print(text)
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / f"{name}.json", document)
        write_atomic(directory / f"{name}.md", text)


def main() -> None:
    """Write the tables of the directories given."""
    parser = parser_of("load", HELP, EXAMPLES)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the Parquet files go")
    given = parser.parse_args()
    tables = load(given.directories)
    tables.save(given.out)
    for name, table in tables.items():
        print(f"{given.out / name}.parquet: {len(table)} rows, {len(table.columns)} columns")


if __name__ == "__main__":
    run_command(main)
