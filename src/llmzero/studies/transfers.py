"""What a transfer says of each strategy on each task: `transfer.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmzero.search.confirm import difference
from llmzero.studies.study import Study

Summary = dict[str, Any]


def transferred_gains(study: Study) -> dict[str, Any]:
    """Return how much better each strategy ends on each task than the practitioner's configuration after as many steps."""
    return {
        "strategies": study.rows,
        "tasks": study.tasks,
        "seeds": list(study.seeds),
        "unfinished": [str(cell) for cell in study.unfinished],
        "gains": {
            task: {row: gain(_summaries(study, task, row)) for row in study.rows} for task in study.tasks
        },
    }


def _summaries(study: Study, task: str, row: str) -> list[Summary]:
    cells = [cell for cell in study.cells if (cell.pair.task, cell.pair.row) == (task, row)]
    return [summary for cell in cells if (summary := cell.summary()) is not None]


def gain(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return the mean gain over the seeds where both could be trained, its standard error, and Student's paired p-value."""
    tests = [summary["test"] for summary in summaries if summary["test"]["practitioner"] is not None]
    ours, theirs = ([test[part]["score"] for test in tests] for part in ("best", "practitioner"))
    if not tests:
        return {"runs": 0, "mean": None, "stderr": None, "p": None, "strategy": [], "practitioner": []}
    apart = np.array(ours) - np.array(theirs)
    stderr = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else None
    known = {
        "runs": len(apart),
        "mean": float(apart.mean()),
        "stderr": stderr,
        "p": difference(ours, theirs)["p_paired"],
    }
    return {**known, "strategy": ours, "practitioner": theirs}
