"""What early stopping saved and what it cost: `python -m analysis.stopping --help`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.commands import publish, search_parser
from analysis.load import load_ended
from analysis.tables import Row, Tables
from llmzero.cli import run_command
from llmzero.core.settings import path_argument
from llmzero.studies.statistics import mean_interval
from llmzero.studies.tables import markdown

NOTES = """\
Saved: of all searches together; in brackets a 95 % interval of the mean share of a search. Rate: exact 95 % \
interval of false kills among
audited stages, which are taken as independent. Lost: score by which audited stages passed the best of the \
time, in the mean over them.
"""
KEYS = ("task", "method", "proposer", "stopper")

HELP = """\
Say for each task, method, proposer and stopper what early stopping saved and how often it was wrong.

saved         device seconds that the steps which stopped stages did not take would have cost, at their own
              pace and without their start, as a share of all that would have been used
audited       stages found hopeless that ran on all the same (stopper.audit_fraction asks for them)
false kills   of the audited stages, those that passed the best score of the time of the decision; `clear`
              are those that did so by more than the standard error of their own score
lost          by how much these passed it, in the mean over all audited stages
"""
EXAMPLES = """\
examples:
  python launchers/search.py experiment=simulated stopper.audit_fraction=0.5 search_dir=runs/audited
  python -m analysis.stopping runs/audited
  python -m analysis.stopping runs/study --out results
"""


def stopping(tables: Tables) -> list[Row]:
    """Return the content of `stopping.json`: a row for each task, method, proposer and stopper."""
    stages = tables.stages
    audited = stages[(stages["stop"] == "audited") & stages["score"].notna()]
    # By how much audited stages passed the best score at the time of their decision, summed over each search.
    lost = (audited["score"] - audited["stop_incumbent"]).clip(lower=0.0).groupby(audited["search"]).sum()
    searches = tables.searches.assign(lost=tables.searches["search"].map(lost).fillna(0.0))
    return [
        {**dict(zip(KEYS, key, strict=True)), **_numbers(group)}
        for key, group in searches.groupby(list(KEYS), dropna=False, sort=False)
    ]


def _numbers(searches: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of a group of searches; the interval of the saved share is over searches."""
    spent, saved = searches["gpu_seconds"].to_numpy(float), searches["saved_gpu_seconds"].to_numpy(float)
    audited, false_kills = int(searches["audited"].sum()), int(searches["false_kills"].sum())
    planned = spent + saved
    shares = np.divide(saved, planned, out=np.zeros_like(saved), where=planned > 0)
    rate = None
    if audited:
        low, high = stats.binomtest(false_kills, audited).proportion_ci()
        rate = {"value": false_kills / audited, "low": float(low), "high": float(high)}
    return {
        "searches": len(searches),
        "stages": int(searches["stages"].sum()),
        "stopped": int(searches["stopped"].sum()),
        "gpu_seconds": float(spent.mean()),
        "saved_gpu_seconds": float(saved.sum()),
        "saved_share": float(saved.sum() / planned.sum()) if planned.sum() else 0.0,
        "saved_share_of_a_search": asdict(mean_interval([shares])),
        "audited": audited,
        "false_kills": false_kills,
        "clear_false_kills": int(searches["clear_false_kills"].sum()),
        "false_kill_rate": rate,
        "lost": float(searches["lost"].sum() / audited) if audited else None,
    }


def as_markdown(rows: list[Row]) -> str:
    """Return `stopping.md`."""
    counts = ("searches", "stages", "stopped")
    head = [*KEYS, *counts, "device s a search", "saved", "false kills", "clear", "rate", "lost"]
    lines = []
    for row in rows:
        share, rate = row["saved_share_of_a_search"], row["false_kill_rate"]
        lines.append(
            [
                *(str(row[key]) for key in (*KEYS, *counts)),
                f"{row['gpu_seconds']:.0f}",
                f"{row['saved_share']:.1%} [{share['low']:.1%}, {share['high']:.1%}]",
                f"{row['false_kills']}/{row['audited']}",
                str(row["clear_false_kills"]),
                f"{rate['low']:.0%} to {rate['high']:.0%}" if rate else "-",
                "-" if row["lost"] is None else f"{row['lost']:.4f}",
            ]
        )
    return "\n".join(["# Early stopping\n", markdown(head, lines), NOTES])


def main() -> None:
    """Print the table, and write it where --out says."""
    parser = search_parser("stopping", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="write stopping.json and stopping.md there"
    )
    arguments = parser.parse_args()
    rows = stopping(load_ended(arguments.directories))
    publish("stopping", rows, as_markdown(rows), arguments.out)


if __name__ == "__main__":
    run_command(main)
