"""Directories under `$LLMZERO_CACHE` that benchmarks make once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path


def cached_directory(name: str, build: Callable[[Path], object]) -> Path:
    """Return a directory of the cache.

    Args:
        name: of the directory.
        build: creates and fills the directory that it is called with; called where the cache has none.
    """
    cache = Path(os.environ.get("LLMZERO_CACHE", "~/.cache/llmzero")).expanduser()
    directory = cache / name
    if not (directory / "COMPLETE").exists():
        building = cache / f".{name}.{os.getpid()}"
        with redirect_stdout(sys.stderr):  # standard output is for the results of benchmarks
            build(building)
        (building / "COMPLETE").touch()
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(building, directory)
    return directory
