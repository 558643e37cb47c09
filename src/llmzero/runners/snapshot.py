"""Copies of this package that queued jobs run, so that edits to the checkout do not reach them."""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import llmzero

PACKAGE = Path(llmzero.__file__).parent
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def snapshot(folder: Path) -> Path:
    """Return a directory with this package as it is now, for PYTHONPATH; equal code is copied once a process.

    What another process left in the folder is not used, as nobody knows who has changed it since.

    Args:
        folder: where snapshots lie, each in a directory whose name begins with the hash of its content.
    """
    return _copied(folder, _digest())


@cache
def _copied(folder: Path, digest: str) -> Path:
    folder.mkdir(exist_ok=True)
    copy = Path(mkdtemp(prefix=f"{digest}-", dir=folder))
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=IGNORED)
    return copy


def _digest() -> str:
    """Return a hash of all files of the package."""
    total = hashlib.sha1()
    for file in sorted(
        file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ):
        total.update(str(file.relative_to(PACKAGE)).encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:12]
