"""Whether agents know what they do: what they expected against what came, and which diagnoses and changes paid off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.load import Row, Tables, load, parser_of, publish
from llmzero.cli import run_command
from llmzero.studies.statistics import holm, interval, mean, wilcoxon
from llmzero.studies.tables import markdown

BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

HELP = """\
Compare what proposals expected of their stages with what came (agents that are language models say what they expect), and tell which
diagnoses and which changes paid off.

Stages near the base model gain most, whoever proposes them. So a gain counts as what it lies above the mean gain of all stages of the
same depth in the same task. Of a diagnosis, or of a parameter and its direction, its stages are averaged within each search; a search
counts as one. p is Wilcoxon's signed-rank test over searches, corrected by Holm for the number of rows of its table. Several parameters
change at a time, so a row tells of company, not of cause.
"""
EXAMPLES = """\
examples:
  python -m analysis.calibration runs/study
  python -m analysis.calibration runs/a runs/b --out found
"""


def calibration(tables: Tables) -> dict[str, Any]:
    """Return what `calibration.json` holds."""
    stages = ended_stages(tables)
    changes = tables.changes.merge(
        stages[["search", "node", "excess", "gain", "state"]], on=["search", "node"]
    )
    changes["label"] = changes["parameter"] + changes["direction"].map({-1: " down", 0: " aside", 1: " up"})
    diagnosed = stages.assign(label=stages["diagnosis"].str.split(", ")).explode("label")
    return {
        "stages": len(stages),
        "expected": expected(stages, tables.steps),
        "diagnoses": paid_off(diagnosed[diagnosed["label"].fillna("") != ""]),
        "changes": paid_off(changes),
    }


def ended_stages(tables: Tables) -> pd.DataFrame:
    """Return the stages that were trained and have ended, with `excess`: their gain above the mean of those as deep in the same task."""
    stages = tables.stages[
        tables.stages["parent"].notna() & tables.stages["state"].isin(("completed", "stopped", "failed"))
    ]
    stages = stages.merge(tables.searches[["search", "task"]], on="search")
    usual = stages.groupby(["task", "depth"], dropna=False)["gain"].transform("mean")
    return stages.assign(excess=stages["gain"] - usual)


# --- what paid off ---


def paid_off(stages: pd.DataFrame) -> list[Row]:
    """Return the gains of the stages of each `label`, the best first."""
    rows = [_gain(str(label), part) for label, part in stages.groupby("label", sort=False)]
    corrected = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    rows = [{**row, "p_holm": next(corrected) if row["p"] is not None else None} for row in rows]
    return sorted(rows, key=lambda row: -np.inf if row["excess"] is None else row["excess"], reverse=True)


def _gain(label: str, stages: pd.DataFrame) -> Row:
    of_searches = stages.groupby("search")["excess"].mean().dropna().to_numpy(float)
    n = len(of_searches)
    return {
        "label": label,
        "stages": len(stages),
        "searches": n,
        "failed": int((stages["state"] == "failed").sum()),
        "gain": None if stages["gain"].isna().all() else float(stages["gain"].mean()),
        "excess": float(of_searches.mean()) if n else None,
        "stderr": float(of_searches.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "p": wilcoxon(of_searches, np.zeros(n)) if n > 1 else None,
    }


# --- what was expected ---


def expected(stages: pd.DataFrame, steps: pd.DataFrame) -> dict[str, Any]:
    """Return how scores, probabilities and directions of metrics that proposals stated compare with what came."""
    scored = stages[stages["score"].notna()]
    return {
        "score": _scores(scored),
        "probability": _probabilities(scored),
        "metrics": _metrics(scored, steps),
    }


def _scores(stages: pd.DataFrame) -> dict[str, Any] | None:
    told = stages.assign(stated=stages["expected_score"].astype(float)).dropna(subset=["stated"])
    if told.empty:
        return None
    errors = (told["score"] - told["stated"]).groupby(told["search"]).mean().to_numpy(float)
    rises = told[["start_score", "score", "stated"]].to_numpy(float)
    return {
        "stages": len(told),
        "searches": len(errors),
        "observed_less_expected": asdict(interval(mean, [errors])),
        "mean_absolute_error": float((told["score"] - told["stated"]).abs().mean()),
        "mean_absolute_error_of_no_change": float((told["score"] - told["start_score"]).abs().mean()),
        "correlation_of_gains": _correlation(rises[:, 2] - rises[:, 0], rises[:, 1] - rises[:, 0]),
    }


def _correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float | None:
    return float(stats.spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else None


def _probabilities(stages: pd.DataFrame) -> dict[str, Any] | None:
    """Return the Brier score of the stated probabilities of a gain, and how often there was one by what had been stated."""
    told = stages.assign(stated=stages["expected_probability"].astype(float)).dropna(
        subset=["stated", "gain"]
    )
    if told.empty:
        return None
    gained, stated = (told["gain"] > 0).to_numpy(float), told["stated"].to_numpy(float)
    places = np.minimum(np.searchsorted(BINS, stated, side="right") - 1, len(BINS) - 2)
    reliability = [
        {
            "from": BINS[i],
            "to": BINS[i + 1],
            "stages": int(there.sum()),
            "stated": float(stated[there].mean()),
            "gained": float(gained[there].mean()),
        }
        for i in range(len(BINS) - 1)
        if (there := places == i).any()
    ]
    rate = gained.mean()
    return {
        "stages": len(told),
        "brier": float(np.mean((stated - gained) ** 2)),
        "brier_of_the_base_rate": float(rate * (1 - rate)),
        "reliability": reliability,
    }


def _metrics(stages: pd.DataFrame, steps: pd.DataFrame) -> list[Row]:
    """Return of each metric how often it went as expected: its mean over the last third of the stage against that of its parent."""
    told = [
        (row.search, row.node, row.parent, json.loads(row.expected_metrics)) for row in stages.itertuples()
    ]
    told = [each for each in told if each[3]]
    concerned = {(search, node) for search, *nodes, _ in told for node in nodes}
    traces = {key: part for key, part in steps.groupby(["search", "node"]) if key in concerned}
    late = {key: part.iloc[-max(1, len(part) // 3) :].mean(numeric_only=True) for key, part in traces.items()}
    hits = pd.DataFrame(_hits(told, late), columns=["metric", "hit"])
    return [
        {"metric": metric, "stages": len(part), "as_expected": float(part.mean())}
        for metric, part in hits.groupby("metric")["hit"]
    ]


def _hits(
    told: list[tuple[str, str, str, dict[str, str]]], late: dict[Any, pd.Series[float]]
) -> Iterator[tuple[str, bool]]:
    for search, node, parent, directions in told:
        for metric, way in directions.items():
            before, after = (
                late.get((search, each), pd.Series(dtype=float)).get(metric) for each in (parent, node)
            )
            if pd.notna(before) and pd.notna(after):
                yield metric, (after > before) == (way == "up")


# --- for people ---


def told(found: dict[str, Any]) -> str:
    """Return `calibration.md`."""
    parts = [
        f"# Calibration\n\n{found['stages']} stages that have ended.\n",
        "## What was expected\n",
        *_expected(found["expected"]),
    ]
    for key, words in (("diagnoses", "diagnosis"), ("changes", "change")):
        rows = [
            [
                row["label"],
                *(str(row[key]) for key in ("stages", "searches", "failed")),
                *(_signed(row[key]) for key in ("gain", "excess")),
            ]
            + [_plain(row[key]) for key in ("stderr", "p", "p_holm")]
            for row in found[key]
        ]
        parts += [
            f"## Gain by {words}\n",
            markdown([words, "stages", "searches", "failed", "gain", "above depth", "SE", "p", "Holm"], rows),
        ]
    return "\n".join(parts)


def _expected(found: dict[str, Any]) -> Iterator[str]:
    if not any(found.values()):
        yield "No proposal said what it expected.\n"
    if of := found["score"]:
        bias = of["observed_less_expected"]
        yield f"Score: {of['stages']} stages of {of['searches']} searches.\n"
        yield f"- observed less expected: {bias['value']:+.3f} [{bias['low']:+.3f}, {bias['high']:+.3f}]"
        yield f"- mean absolute error: {of['mean_absolute_error']:.3f}; of expecting no change: {of['mean_absolute_error_of_no_change']:.3f}"
        yield f"- rank correlation of expected and observed gains: {_plain(of['correlation_of_gains'])}\n"
    if of := found["probability"]:
        yield f"Probability of a gain: {of['stages']} stages.\n"
        yield f"- Brier score: {of['brier']:.3f}; of the base rate: {of['brier_of_the_base_rate']:.3f}\n"
        rows = [
            [f"{r['from']} to {r['to']}", str(r["stages"]), f"{r['stated']:.2f}", f"{r['gained']:.2f}"]
            for r in of["reliability"]
        ]
        yield markdown(["stated", "stages", "mean stated", "share that gained"], rows)
    if of := found["metrics"]:
        yield markdown(
            ["metric", "stages", "went as expected"],
            [[r["metric"], str(r["stages"]), f"{r['as_expected']:.0%}"] for r in of],
        )


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def main() -> None:
    """Print the tables, and write them where that is asked for."""
    parser = parser_of("calibration", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write calibration.json and calibration.md there"
    )
    given = parser.parse_args()
    found = calibration(load(given.directories))
    publish("calibration", found, told(found), given.out)


if __name__ == "__main__":
    run_command(main)
