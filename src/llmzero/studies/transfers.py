"""The numbers of a transfer, by task and strategy: `transfer.json`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from llmzero.search.confirm import difference
from llmzero.search.final_test import FAILED
from llmzero.studies.study import Study

Summary = dict[str, Any]


def transferred_gains(study: Study) -> dict[str, Any]:
    """Return the content of `transfer.json`: gains over the practitioner's configuration at equal compute."""
    summaries: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    for cell in study.cells:
        if (summary := cell.summary()) is not None:
            summaries[cell.pair.task, cell.pair.row].append(summary)
    return {
        "strategies": study.rows,
        "tasks": study.tasks,
        "seeds": list(study.seeds),
        "unfinished": [str(cell) for cell in study.unfinished],
        FAILED: study.failed,
        "gains": {task: {row: gain(summaries[task, row]) for row in study.rows} for task in study.tasks},
    }


def gain(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return mean and standard error of the gain where both were trained, and Student's paired p-value.

    `failed` counts the seeds on which the practitioner's training failed: they are left out.
    """
    failed = sum("practitioner" in summary["test"].get(FAILED, {}) for summary in summaries)
    tests = [summary["test"] for summary in summaries if summary["test"]["practitioner"] is not None]
    ours, theirs = ([test[part]["score"] for test in tests] for part in ("best", "practitioner"))
    if not tests:
        nothing: dict[str, Any] = dict.fromkeys(("mean", "stderr", "p"))
        return {"runs": 0, **nothing, "strategy": [], "practitioner": [], FAILED: failed}
    apart = np.array(ours) - np.array(theirs)
    return {
        "runs": len(apart),
        "mean": float(apart.mean()),
        "stderr": float(stats.sem(apart)) if len(apart) > 1 else None,
        "p": difference(ours, theirs)["p_paired"],
        "strategy": ours,
        "practitioner": theirs,
        FAILED: failed,
    }
