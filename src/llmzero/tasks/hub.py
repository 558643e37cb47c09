"""Published data sets: from the hub, or from a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks.base import Example
from llmzero.tasks.packages import require
from llmzero.tasks.splits import split_of


def splits(task: str, path: str, subset: str | None = None) -> Any:
    """Return the rows of a data set by the name of its split, as `datasets` loads them.

    Args:
        task: the option that needs it, for messages.
        path: its name on the hub, a directory, or a file of JSON lines, which is its test split.
        subset: a configuration of it; None is its only one.

    Raises:
        UserError: `datasets` is not installed, or the data set cannot be loaded or names files of others.
    """
    require("datasets", f"task={task} task.source=...")
    from datasets import load_dataset, load_dataset_builder

    try:
        if Path(path).is_file():
            return load_dataset("json", data_files={"test": path})
        _check_files(path, load_dataset_builder(path, subset).config.data_files or {})
        return load_dataset(path, subset)
    except UserError:
        raise
    except Exception as error:  # of the hub, the network, the files
        raise UserError(
            f"task={task}: the data set {path} cannot be loaded ({_reason(error)}); "
            "give a copy of it as task.path=DIRECTORY"
        ) from error


def _reason(error: Exception) -> str:
    """Return what went wrong: the cause, where an error only says that something did."""
    cause = error.__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:500]


def _check_files(path: str, files: Mapping[str, Iterable[str]]) -> None:
    """Check that a data set is made of its own files; its README may name any of this machine.

    Raises:
        UserError: it is not.
    """
    home = Path(path).resolve()
    for file in (file for part in files.values() for file in part):
        own = Path(file).resolve().is_relative_to(home) if home.is_dir() else file.startswith("hf://")
        if not own:
            raise UserError(
                f"task.path={path}: the data set names {file}, which is not its own; remove that from its "
                "README.md, or copy the file into it"
            )


def columns(task: str, path: str, row: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that a row has the columns that a task reads.

    Raises:
        UserError: it lacks one.
    """
    if missing := next((name for name in names if name not in row), None):
        raise UserError(f"task={task}: a row of {path} has no field {missing!r}; it has {', '.join(row)}")


def divided(rows: Iterable[tuple[bool, Example]]) -> dict[str, list[Example]]:
    """Return our splits of a published data set, in its order.

    Its test split is our `test`. Its training split is divided into `train` and `val` by the hash of the
    problem.

    Args:
        rows: whether a problem is of the data set's test split, and the problem.
    """
    splits: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    for tests, example in rows:
        name = "test" if tests else "val" if split_of(example.id) == "val" else "train"
        splits[name].append(example)
    return splits
