"""Copies of this package that queued jobs run, so that edits to the checkout do not reach them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import llmzero

PACKAGE = Path(llmzero.__file__).parent
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def snapshot(folder: Path) -> Path:
    """Return a directory with this package as it is now, for PYTHONPATH; equal code is copied once.

    Args:
        folder: where snapshots lie, each in a directory named by the hash of its content.
    """
    copy = folder / _digest()
    if not copy.exists():
        writing = folder / f".{copy.name}-{os.getpid()}"
        shutil.copytree(PACKAGE, writing / PACKAGE.name, ignore=IGNORED, dirs_exist_ok=True)
        if copy.exists():
            shutil.rmtree(writing)
        else:
            writing.rename(copy)
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
