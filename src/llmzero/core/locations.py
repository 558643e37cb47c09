"""Paths below a search directory: stated relative to each other, and none of them leads out.

So a search may be moved, copied, and taken from a stranger.
"""

from __future__ import annotations

import os
from pathlib import Path

from llmzero.core.errors import UserError

GROUPS = ("nodes", "test")  # of the stages of a search


def stored(path: Path | None, directory: Path) -> str | None:
    """Return a checkpoint's path as a file of a stage states it.

    It is relative to the stage's directory where the checkpoint is one of the same search, else absolute.

    Args:
        path: the checkpoint's directory; a relative one is taken to be relative to the stage's.
        directory: the stage's, `<search_dir>/<group>/<stage>`.
    """
    if path is None or not path.is_absolute():
        return None if path is None else str(path)
    path, directory = Path(os.path.normpath(path)), Path(os.path.abspath(directory))
    search, group = directory.parent.parent, directory.parent.name
    together = [directory, *(search / name for name in GROUPS if group in GROUPS)]
    return os.path.relpath(path, directory) if any(map(path.is_relative_to, together)) else str(path)


def located(text: str | None, directory: Path) -> Path | None:
    """Return the path that a file of a stage states.

    Earlier versions stated absolute paths. A copied search has such a checkpoint itself, and one that
    was moved has it nowhere else.

    Raises:
        ValueError: it is relative and leads out of the search.
    """
    if text is None:
        return None
    path = Path(text)
    if path.is_absolute():
        own = directory.parent.parent.joinpath(*path.parts[-4:])
        return own if path.parent.name == "checkpoints" and own.exists() else path
    inside = Path(os.path.normpath(directory / path))
    if not inside.is_relative_to(os.path.normpath(directory.parent.parent)):
        raise ValueError(f"{text} leads out of the search directory")
    return inside


def refuse_links_out(directory: Path, search: Path) -> None:
    """Refuse a directory below which a link leads out of the search, as what is written would lie there.

    Raises:
        UserError: there is such a link, or the directory is one.
    """
    root = search.resolve()
    if not directory.resolve().is_relative_to(root):
        raise UserError(f"{directory}: leads out of the search directory {search}, to {directory.resolve()}")
    for folder, subdirectories, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*subdirectories, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise UserError(
                    f"{path}: is a link to {path.resolve()}, out of the search directory {search}; "
                    "replace it by a copy of what it leads to, or delete it"
                )
