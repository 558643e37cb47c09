"""Baselines through the launcher: a search that is continued decides as one that was never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Run, read_lines

SIMULATED = ["experiment=simulated", "search.max_depth=3", "stopper=none"]


def decisions(search: Path) -> list[tuple[Any, ...]]:
    """Return what was decided on, in order: the same for the same search."""
    created = [event for event in read_lines(search / "tree.jsonl") if event["event"] == "created"]
    return [
        (
            event["node_id"],
            event["parent_id"],
            event["hparams"],
            event["proposal"]["rationale"],
            event["memo"],
        )
        for event in created
    ]


@pytest.mark.parametrize("method", ["tpe", "asha"])
def test_a_search_that_goes_on_after_a_restart_decides_as_an_uninterrupted_one(
    run_here: Run, tmp_path: Path, method: str
) -> None:
    """Five stages and then seven more in another process, against twelve at once."""
    overrides = [*SIMULATED, f"search={method}", "search.workers=1"]
    for stages in (5, 12):
        run_here("search", *overrides, f"budget.stages={stages}", f"search_dir={tmp_path}/parts")
    run_here("search", *overrides, "budget.stages=12", f"search_dir={tmp_path}/whole")
    assert len(decisions(tmp_path / "whole")) == 13
    assert decisions(tmp_path / "parts") == decisions(tmp_path / "whole")
