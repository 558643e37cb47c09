from __future__ import annotations

from pathlib import Path

import pytest

from analysis.load import load
from analysis.tables import Tables
from tests.unit.analysis.searches import simulated_search

JUDGED = ["search.stage_steps=32", "stopper.min_step=4", "stopper.min_points=2"]
AUDITING = [*JUDGED, "stopper.audit_fraction=0.5"]


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two searches by rules, one of which audits stages, and one by the random agent."""
    folder = tmp_path_factory.mktemp("real")
    simulated_search(folder / "rules/seed-1", "seed=1", "runner.landscape=deceptive", *AUDITING)
    simulated_search(folder / "rules/seed-2", "seed=2")
    simulated_search(folder / "random/seed-1", "seed=1", "agent=random")
    return folder


@pytest.fixture(scope="session")
def tables(real: Path) -> Tables:
    return load([real])
