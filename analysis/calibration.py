"""What agents expected of stages against what came, and which diagnoses and changes paid off."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from llmzero.core.stage import FINAL_STATES
from llmzero.studies.statistics import holm, mean_interval, wilcoxon
from llmzero.studies.tables import markdown

BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
EVENTS = {
    "probability": "the parent's best score",
    "probability_best": "the search's best score of its time",
}

HELP = """\
Compare what proposals expected of their stages with what came (agents that are language models say what they
expect), and tell which diagnoses and which changes paid off.

Stages near the base model gain most, whoever proposes them. So a gain counts as what it lies above the mean
gain of all stages of the same depth in the same task. Of a diagnosis, or of a parameter and its direction,
its stages are averaged within each search; a search counts as one. p is Wilcoxon's signed-rank test over
searches, corrected by Holm for the number of rows of its table. Several parameters change at a time, so a row
tells of company, not of cause.
"""
EXAMPLES = """\
examples:
  python -m analysis.calibration runs/study
  python -m analysis.calibration runs/a runs/b --out results
"""


def calibration(tables: Tables) -> dict[str, Any]:
    """Return the content of `calibration.json`."""
    stages = ended_stages(tables)
    columns = ["search", "node", "excess", "gain", "state"]
    changes = tables.changes.merge(stages[columns], on=["search", "node"])
    changes["label"] = changes["parameter"] + changes["direction"].map({-1: " down", 0: " aside", 1: " up"})
    diagnosed = stages.assign(label=stages["diagnosis"].str.split(", ")).explode("label")
    scored = stages[stages["score"].notna()]
    return {
        "stages": len(stages),
        "expected": {
            "score": _expected_scores(scored),
            "interval": _expected_intervals(scored),
            "probability": _probabilities(_stated(scored, "probability", scored["start_score"])),
            "probability_best": _probabilities(_stated(scored, "probability_best")),
            "metrics": _expected_directions(scored, tables.steps),
        },
        "diagnoses": gains_by_label(diagnosed[diagnosed["label"].fillna("") != ""]),
        "changes": gains_by_label(changes),
    }


def ended_stages(tables: Tables) -> pd.DataFrame:
    """Return the stages that were trained and have ended.

    Their column `excess` is their gain above the mean gain of the stages of the same depth in the same task.
    """
    trained, ended = tables.stages["parent"].notna(), tables.stages["state"].isin(FINAL_STATES)
    stages = tables.stages[trained & ended].merge(tables.searches[["search", "task"]], on="search")
    mean_gain = stages.groupby(["task", "depth"], dropna=False)["gain"].transform("mean")
    return stages.assign(excess=stages["gain"] - mean_gain)


# --- what paid off ---


def gains_by_label(stages: pd.DataFrame) -> list[Row]:
    """Return the gains of the stages of each `label`, the highest first."""
    rows = [_gain_row(str(label), part) for label, part in stages.groupby("label", sort=False)]
    corrected = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    rows = [{**row, "p_holm": next(corrected) if row["p"] is not None else None} for row in rows]
    return sorted(rows, key=lambda row: -np.inf if row["excess"] is None else row["excess"], reverse=True)


def _gain_row(label: str, stages: pd.DataFrame) -> Row:
    by_search = stages.groupby("search")["excess"].mean().dropna().to_numpy(float)
    n = len(by_search)
    return {
        "label": label,
        "stages": len(stages),
        "searches": n,
        "failed": int((stages["state"] == "failed").sum()),
        "gain": None if stages["gain"].isna().all() else float(stages["gain"].mean()),
        "excess": float(by_search.mean()) if n else None,
        "stderr": float(by_search.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "p": wilcoxon(by_search, np.zeros(n)) if n > 1 else None,
    }


# --- what was expected ---


def _expected_scores(stages: pd.DataFrame) -> dict[str, Any] | None:
    """Return how the scores that proposals stated compare with those that were reached; None without any."""
    stated = stages.assign(stated=stages["expected_score"].astype(float)).dropna(subset=["stated"])
    if stated.empty:
        return None
    errors = stated["score"] - stated["stated"]
    by_search = errors.groupby(stated["search"]).mean().to_numpy(float)
    start, score, expected = stated[["start_score", "score", "stated"]].to_numpy(float).T
    return {
        "stages": len(stated),
        "searches": len(by_search),
        "observed_less_expected": asdict(mean_interval([by_search])),
        "mean_absolute_error": float(errors.abs().mean()),
        "mean_absolute_error_of_no_change": float((stated["score"] - stated["start_score"]).abs().mean()),
        "correlation_of_gains": _rank_correlation(expected - start, score - start),
    }


def _rank_correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float | None:
    return float(stats.spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else None


def _expected_intervals(stages: pd.DataFrame) -> dict[str, Any] | None:
    """Return how many stated 80 % intervals held the score, and how wide they are; None without any."""
    ends = _columns(stages, "low", "high").assign(score=stages["score"]).dropna()
    if ends.empty:
        return None
    below, above = ends["score"] < ends["low"], ends["score"] > ends["high"]
    held = len(ends) - int(below.sum() + above.sum())
    low, high = stats.binomtest(held, len(ends)).proportion_ci()
    return {
        "stages": len(ends),
        "held": held,
        "share": {"value": held / len(ends), "low": float(low), "high": float(high)},
        "below": int(below.sum()),
        "above": int(above.sum()),
        "mean_width": float((ends["high"] - ends["low"]).mean()),
    }


def _columns(stages: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return what proposals expected; NaN where they did not say so, as those of earlier versions."""
    columns = stages.reindex(columns=[f"expected_{name}" for name in names]).astype(float)
    return columns.set_axis(list(names), axis="columns")


def _stated(stages: pd.DataFrame, name: str, passed: pd.Series | None = None) -> pd.DataFrame:
    """Return the stated probabilities that the score passes another, and whether it did so, in two columns.

    `passed` is the other score; None is the search's best of the time of the proposal.
    """
    said = _columns(stages, name, "incumbent")
    other = said["incumbent"] if passed is None else passed
    both = pd.DataFrame({"stated": said[name], "score": stages["score"], "other": other}).dropna()
    return both.assign(came=both["score"] > both["other"])


def _probabilities(stages: pd.DataFrame) -> dict[str, Any] | None:
    """Return the Brier score of stated probabilities of an event, and how often it came in each bin."""
    if stages.empty:
        return None
    came, stated = stages["came"].to_numpy(float), stages["stated"].to_numpy(float)
    bins = np.minimum(np.searchsorted(BINS, stated, side="right") - 1, len(BINS) - 2)
    reliability = [
        {
            "from": BINS[i],
            "to": BINS[i + 1],
            "stages": int(inside.sum()),
            "stated": float(stated[inside].mean()),
            "came": float(came[inside].mean()),
        }
        for i in range(len(BINS) - 1)
        if (inside := bins == i).any()
    ]
    rate = came.mean()
    return {
        "stages": len(stages),
        "brier": float(np.mean((stated - came) ** 2)),
        "brier_of_the_base_rate": float(rate * (1 - rate)),
        "reliability": reliability,
    }


def _expected_directions(stages: pd.DataFrame, steps: pd.DataFrame) -> list[Row]:
    """Return of each metric how often it went in the direction that proposals stated.

    Compared is its mean over the last third of the stage with that over the last third of its parent.
    """
    stated = [
        (row.search, row.node, row.parent, directions)
        for row in stages.itertuples()
        if (directions := json.loads(row.expected_metrics))
    ]
    needed = {(search, node) for search, *nodes, _ in stated for node in nodes}
    last_third = {
        key: part.iloc[-max(1, len(part) // 3) :].mean(numeric_only=True)
        for key, part in steps.groupby(["search", "node"])
        if key in needed
    }
    no_steps = pd.Series(dtype=float)
    hits: list[tuple[str, bool]] = []
    for search, node, parent, directions in stated:
        for metric, direction in directions.items():
            before, after = (last_third.get((search, each), no_steps).get(metric) for each in (parent, node))
            if pd.notna(before) and pd.notna(after):
                hits.append((metric, (after > before) == (direction == "up")))
    by_metric = pd.DataFrame(hits, columns=["metric", "hit"]).groupby("metric")["hit"]
    return [
        {"metric": metric, "stages": len(part), "as_expected": float(part.mean())}
        for metric, part in by_metric
    ]


# --- for people ---


def as_markdown(report: dict[str, Any]) -> str:
    """Return `calibration.md`."""
    parts = [
        f"# Calibration\n\n{report['stages']} stages that have ended.\n",
        "## What was expected\n",
        *_expectations(report["expected"]),
    ]
    for key, title in (("diagnoses", "diagnosis"), ("changes", "change")):
        rows = [
            [
                row["label"],
                *(str(row[column]) for column in ("stages", "searches", "failed")),
                *("-" if row[column] is None else f"{row[column]:+.3f}" for column in ("gain", "excess")),
                *(_number(row[column]) for column in ("stderr", "p", "p_holm")),
            ]
            for row in report[key]
        ]
        head = [title, "stages", "searches", "failed", "gain", "above depth", "SE", "p", "Holm"]
        parts += [f"## Gain by {title}\n", markdown(head, rows)]
    return "\n".join(parts)


def _expectations(expected: dict[str, Any]) -> Iterator[str]:
    if not any(expected.values()):
        yield "No proposal said what it expected.\n"
    if score := expected["score"]:
        bias, error = score["observed_less_expected"], score["mean_absolute_error"]
        yield f"Score: {score['stages']} stages of {score['searches']} searches.\n"
        yield f"- observed less expected: {bias['value']:+.3f} [{bias['low']:+.3f}, {bias['high']:+.3f}]"
        yield (
            f"- mean absolute error: {error:.3f}; "
            f"of expecting no change: {score['mean_absolute_error_of_no_change']:.3f}"
        )
        yield f"- rank correlation of expected and observed gains: {_number(score['correlation_of_gains'])}\n"
    if interval := expected["interval"]:
        share, n = interval["share"], interval["stages"]
        yield f"80 % intervals of the score: {n} stages.\n"
        yield (
            f"- held the score: {interval['held']} of {n}, {share['value']:.0%} "
            f"[{share['low']:.0%}, {share['high']:.0%}]"
        )
        yield f"- score below: {interval['below']}; above: {interval['above']}"
        yield f"- mean width: {interval['mean_width']:.3f}\n"
    for key, event in EVENTS.items():
        if probability := expected[key]:
            brier, base = probability["brier"], probability["brier_of_the_base_rate"]
            yield f"Probability of passing {event}: {probability['stages']} stages.\n"
            yield f"- Brier score: {brier:.3f}; of the base rate: {base:.3f}\n"
            rows = [
                [f"{r['from']} to {r['to']}", str(r["stages"]), f"{r['stated']:.2f}", f"{r['came']:.2f}"]
                for r in probability["reliability"]
            ]
            yield markdown(["stated", "stages", "mean stated", "share that passed"], rows)
    if metrics := expected["metrics"]:
        rows = [[r["metric"], str(r["stages"]), f"{r['as_expected']:.0%}"] for r in metrics]
        yield markdown(["metric", "stages", "went as expected"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def main() -> None:
    """Print the tables, and write them where --out says."""
    parser = search_parser("calibration", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="write calibration.json and calibration.md there"
    )
    arguments = parser.parse_args()
    report = calibration(load_ended(arguments.directories))
    publish("calibration", report, as_markdown(report), arguments.out)


if __name__ == "__main__":
    run_command(main)
