"""Published data sets: from the hub, or from a copy."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks.base import Example, split_of


def require(package: str, key: str) -> None:
    """Raise `UserError` where an optional package is not installed; `key` is what needs it."""
    if find_spec(package) is None:
        name = package.replace("_", "-")
        raise UserError(f"{key}: needs the package {name}: pip install 'llmzero[tasks]'")


def divided(train: Iterable[Example], test: Iterable[Example]) -> dict[str, list[Example]]:
    """Return the splits of a published data set, in its order and each problem once: its own test split, and its training split, without what the
    test holds, divided into `train` and `val` by the hash of the problem.
    """
    tested = {example.id: example for example in test}
    taught = {example.id: example for example in train if example.id not in tested}
    val = [example for example in taught.values() if split_of(example.id) == "val"]
    rest = [example for example in taught.values() if split_of(example.id) != "val"]
    return {"train": rest, "val": val, "test": list(tested.values())}


def splits(task: str, path: str, subset: str | None = None) -> Any:
    """Return the splits of a data set by name, as `datasets` loads them.

    Args:
        task: that wants it, for messages.
        path: its name on the hub, a directory, or a file of JSON lines, which is its test split.
        subset: a configuration of it; None is its only one.

    Raises:
        UserError: `datasets` is not installed, or the data set cannot be had.
    """
    require("datasets", f"task={task} task.source=...")
    from datasets import load_dataset

    try:
        if Path(path).is_file():
            return load_dataset("json", data_files={"test": path})
        return load_dataset(path, subset)
    except Exception as error:  # of the hub, the network, the files
        raise UserError(
            f"task={task}: the data set {path} cannot be loaded ({error}); give a copy of it as task.path=DIRECTORY"
        ) from error
