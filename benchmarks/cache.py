"""What benchmarks make once and keep: directories under `$LLMZERO_CACHE`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(name: str, build: Callable[[Path], object]) -> Path:
    """Return a directory of the cache; where it is not complete yet, `build` fills it."""
    cache = Path(os.environ.get("LLMZERO_CACHE", "~/.cache/llmzero")).expanduser()
    directory = cache / name
    if not (directory / "COMPLETE").exists():
        building = cache / f".{name}.{os.getpid()}"
        build(building)
        (building / "COMPLETE").touch()
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(building, directory)
    return directory
