"""What early stopping saved and what it cost: `python -m analysis.stopping --help`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.load import Row, Tables, load, parser_of, publish
from llmzero.cli import run_command
from llmzero.studies.statistics import interval, mean
from llmzero.studies.tables import markdown

NOTES = """\
Saved: of all searches together; in brackets a 95 % interval of the mean share of a search. Rate: exact 95 % interval of false kills among
audited stages, which are taken as independent. Lost: score by which audited stages passed the best of the time, in the mean over them.
"""
KEYS = ("task", "method", "proposer", "stopper")

HELP = """\
Say for each task, method, proposer and stopper what early stopping saved and how often it was wrong.

saved         device seconds that stopped stages would still have used at their own pace, as a share of all that would have been used
audited       stages found hopeless that ran on all the same (stopper.audit_fraction asks for them)
false kills   of the audited stages, those that passed the best score of the time of the decision
lost          by how much these passed it, in the mean over all audited stages
"""
EXAMPLES = """\
examples:
  python launchers/search.py experiment=simulated search.stage_steps=48 stopper.audit_fraction=0.5 search_dir=runs/audited
  python -m analysis.stopping runs/audited
  python -m analysis.stopping runs/study --out found
"""


def stopping(tables: Tables) -> list[Row]:
    """Return the numbers of each task, method, proposer and stopper; shares have 95 % intervals, over searches for what was saved."""
    lost = _lost(tables.stages)
    searches = tables.searches.assign(lost=tables.searches["search"].map(lost).fillna(0.0))
    return [
        {**dict(zip(KEYS, key, strict=True)), **_numbers(group)}
        for key, group in searches.groupby(list(KEYS), dropna=False, sort=False)
    ]


def _lost(stages: pd.DataFrame) -> pd.Series[float]:
    """Return of each search how much of score all its audited stages together had over the best of the time of their judgement."""
    audited = stages[(stages["stop"] == "audited") & stages["score"].notna()]
    above = (audited["score"] - audited["stop_incumbent"]).clip(lower=0.0)
    return above.groupby(audited["search"]).sum()


def _numbers(searches: pd.DataFrame) -> dict[str, Any]:
    spent, saved = searches["gpu_seconds"].to_numpy(float), searches["saved_gpu_seconds"].to_numpy(float)
    audited, killed = int(searches["audited"].sum()), int(searches["false_kills"].sum())
    planned = spent + saved
    shares = np.divide(saved, planned, out=np.zeros_like(saved), where=planned > 0)
    bounds = stats.binomtest(killed, audited).proportion_ci() if audited else None
    return {
        "searches": len(searches),
        "stages": int(searches["stages"].sum()),
        "stopped": int(searches["stopped"].sum()),
        "gpu_seconds": float(spent.mean()),
        "saved_gpu_seconds": float(saved.sum()),
        "saved_share": float(saved.sum() / planned.sum()) if planned.sum() else 0.0,
        "saved_share_of_a_search": asdict(interval(mean, [shares])),
        "audited": audited,
        "false_kills": killed,
        "false_kill_rate": {"value": killed / audited, "low": float(bounds.low), "high": float(bounds.high)}
        if bounds
        else None,
        "lost": float(searches["lost"].sum() / audited) if audited else None,
    }


def told(rows: list[Row]) -> str:
    """Return `stopping.md`."""
    head = [
        *KEYS,
        "searches",
        "stages",
        "stopped",
        "device s a search",
        "saved",
        "false kills",
        "rate",
        "lost",
    ]
    lines = [
        [
            *(str(row[key]) for key in KEYS),
            *(str(row[key]) for key in ("searches", "stages", "stopped")),
            f"{row['gpu_seconds']:.0f}",
            f"{row['saved_share']:.1%} [{row['saved_share_of_a_search']['low']:.1%}, {row['saved_share_of_a_search']['high']:.1%}]",
            f"{row['false_kills']}/{row['audited']}",
            f"{row['false_kill_rate']['low']:.0%} to {row['false_kill_rate']['high']:.0%}"
            if row["false_kill_rate"]
            else "-",
            "-" if row["lost"] is None else f"{row['lost']:.4f}",
        ]
        for row in rows
    ]
    return "\n".join(["# Early stopping\n", markdown(head, lines), NOTES])


def main() -> None:
    """Print the table, and write it where that is asked for."""
    parser = parser_of("stopping", HELP, EXAMPLES)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write stopping.json and stopping.md there")
    given = parser.parse_args()
    rows = stopping(load(given.directories))
    publish("stopping", rows, told(rows), given.out)


if __name__ == "__main__":
    run_command(main)
