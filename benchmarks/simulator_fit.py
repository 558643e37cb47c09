#!/usr/bin/env python
"""Fits the simulator's landscape `nano` to real training of the nano model, and shows how well it does.

Usage: PYTHONPATH=. python benchmarks/simulator_fit.py
It measures for 25 minutes of one core, once, and fits for 5.
Writes benchmarks/results/simulator_fit.json and docs/images/simulator_fit.png.

All free constants are fitted at once to validation scores, divergence and entropy of the paths in `FITTED`;
those in `HELD_OUT` are for judging the fit. Device seconds are fitted afterwards.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import matplotlib.pyplot as plt
from scipy.stats import spearmanr

from benchmarks.simulator_fitting import FREE, Curves, fit_costs, fit_landscape, log_ratios, simulate
from benchmarks.simulator_measurements import (
    EVERY,
    FITTED,
    HELD_OUT,
    SEEDS,
    STAGES,
    STEPS,
    Paths,
    Stage,
    measure,
)
from llmzero.core.hparams import HParams
from llmzero.runners.simulation.costs import step_seconds
from llmzero.runners.simulation.drive import drive_of
from llmzero.runners.simulation.landscape import LANDSCAPES, Landscape

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results" / "simulator_fit.json"
FIGURE = BENCHMARKS.parent / "docs" / "images" / "simulator_fit.png"


def main() -> None:
    """Measure, fit, report and draw."""
    paths, base = measure()
    reference = paths["practitioner"][0].hparams
    length = (
        fmean(row["completion_length_mean"] for row in paths["practitioner"][0].metrics[:2])
        / reference["max_completion_length"]
    )
    start = replace(
        LANDSCAPES["nano"],
        length=round(length, 3),
        entropy=round(paths["practitioner"][0].metrics[0]["entropy"], 3),
    )
    began = time.monotonic()
    land = fit_landscape(start, base, {name: paths[name] for name in FITTED}, reference)
    land = replace(land, costs=fit_costs(land, paths, reference))
    report = {"fit_seconds": round(time.monotonic() - began), **report_of(land, base, paths, reference)}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    draw(report)
    print(json.dumps({key: report[key] for key in ("constants", "costs", "errors")}, indent=2))


def report_of(land: Landscape, base: float, paths: Paths, reference: HParams) -> dict[str, Any]:
    """Return the constants, the curves, and the errors of the paths that were fitted and held out."""
    curves = {name: simulate(land, path, reference) for name, path in paths.items()}
    rows = {name: _row(name, path, curves[name]) for name, path in paths.items()}
    groups = {
        "fitted": list(FITTED),
        "held_out": list(HELD_OUT),
        "held_out_of_seed_0": [name for name in HELD_OUT if name not in SEEDS],
    }
    constants = {name: getattr(land, name) for name in (*FREE, "craft", "length", "entropy")}
    errors: dict[str, Any] = {
        group: _summary([rows[name] for name in names]) for group, names in groups.items()
    }
    errors["seconds_factor"] = round(
        math.exp(median(abs(ratio) for ratio in _second_ratios(land, paths, reference))), 3
    )
    return {
        "base_score": base,
        "constants": constants,
        "costs": asdict(land.costs),
        "errors": errors,
        "paths": rows,
    }


def _row(name: str, path: list[Stage], curves: Curves) -> dict[str, Any]:
    real = {
        key: [round(value, 4) for stage in path for value in stage.column(key)] for key in ("kl", "entropy")
    }
    real["score"] = [row["score"] for stage in path for row in stage.validation]
    mine = {"kl": curves.kl, "entropy": curves.entropy, "score": curves.scores}
    row: dict[str, Any] = {
        "held_out": name in HELD_OUT,
        "real": real,
        "simulated": {k: [round(x, 4) for x in v] for k, v in mine.items()},
    }
    row["stderr"] = round(fmean(point["stderr"] for stage in path for point in stage.validation), 4)
    row["rmse"] = round(
        math.sqrt(fmean((a - b) ** 2 for a, b in zip(curves.scores, real["score"], strict=True))), 4
    )
    row["final"] = {
        "real": round(fmean(real["score"][-EVERY:]), 4),
        "simulated": round(fmean(curves.scores[-EVERY:]), 4),
    }
    return row


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return errors over paths: of scores, the last stage's mean score and its rank, divergence, entropy."""
    real, mine = ([row["final"][side] for row in rows] for side in ("real", "simulated"))
    factors: dict[str, float] = {}
    for name in ("kl", "entropy"):
        ratios = [abs(r) for row in rows for r in log_ratios(row["simulated"][name], row["real"][name], 0.01)]
        factors |= {f"{name}_factor": round(math.exp(median(ratios)), 3)}
    return {
        "paths": len(rows),
        "score_rmse": round(math.sqrt(fmean(row["rmse"] ** 2 for row in rows)), 4),
        "score_stderr_of_a_validation": round(fmean(row["stderr"] for row in rows), 4),
        "final_rmse": round(math.sqrt(fmean((a - b) ** 2 for a, b in zip(real, mine, strict=True))), 4),
        "final_rank_correlation": round(float(spearmanr(real, mine)[0]), 3),
        **factors,
    }


def _second_ratios(land: Landscape, paths: Paths, reference: HParams) -> list[float]:
    ratios, base = [], land.length * reference["max_completion_length"]
    for stage in (stage for path in paths.values() for stage in path):
        length = fmean(row["completion_length_mean"] for row in stage.metrics) / base
        cost = step_seconds(land.costs, drive_of(stage.hparams, reference), length).total
        ratios.append(math.log(cost / quantiles([row["step_seconds"] for row in stage.metrics], n=4)[0]))
    return ratios


def draw(report: dict[str, Any]) -> None:
    """Draw every path's validation curve, real and simulated, and how final scores compare."""
    figure, axes = plt.subplots(4, 5, figsize=(15, 10), layout="constrained")
    panels = list(axes.flat)
    for panel, (name, row) in zip(panels, report["paths"].items(), strict=False):
        steps = range(EVERY, STAGES * STEPS + 1, EVERY)
        colour = "tab:orange" if row["held_out"] else "tab:blue"
        panel.errorbar(steps, row["real"]["score"], yerr=row["stderr"], fmt=".", color="black", label="real")
        panel.plot(
            steps,
            row["simulated"]["score"],
            color=colour,
            label="simulated, held out" if row["held_out"] else "simulated, fitted",
        )
        for edge in range(STEPS, STAGES * STEPS, STEPS):
            panel.axvline(edge, color="lightgrey", linewidth=0.8)
        panel.set(title=name.replace("_", " "), ylim=(0, 0.5))
        panel.legend(fontsize=7, loc="upper left")
    for row in report["paths"].values():
        colour = "tab:orange" if row["held_out"] else "tab:blue"
        panels[-2].plot(row["final"]["real"], row["final"]["simulated"], "o", color=colour)
        panels[-1].loglog(row["real"]["kl"], row["simulated"]["kl"], ".", color=colour)
    panels[-2].set(title="score of the last stage", xlabel="real", ylabel="simulated")
    panels[-1].set(
        title="divergence, nats", xlabel="real", ylabel="simulated", xlim=(0.005, 6), ylim=(0.005, 6)
    )
    for panel, ends in zip(panels[-2:], ([0, 0.5], [0.005, 6]), strict=True):
        panel.plot(ends, ends, color="lightgrey", zorder=0)
    figure.supxlabel("GRPO steps; grey lines are ends of stages")
    figure.supylabel("validation score")
    figure.savefig(FIGURE, dpi=80)


if __name__ == "__main__":
    main()
