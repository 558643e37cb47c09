"""Simulated searches, commands and comparisons that the tests of the analysis share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from analysis.tables import Tables
from llmzero.cli import composed
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from tests.conftest import REPOSITORY


def simulated_search(directory: Path, *overrides: str) -> Path:
    """Run a search on the simulator, and return its directory."""
    overrides = ("experiment=simulated", f"search_dir={directory}", *overrides)
    Session.from_config(composed("search", SearchConfig, overrides)).run()
    return directory


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository."""
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, check=False)


def assert_same_tables(a: Tables, b: Tables, *names: str) -> None:
    for name in names:
        left, right = (getattr(tables, name).sort_index(axis=1) for tables in (a, b))
        pd.testing.assert_frame_equal(left, right, check_dtype=False)
