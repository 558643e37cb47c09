#!/usr/bin/env python
"""Measures what a search makes of many workers, on the simulator's clock, and what that costs its driver.

Usage: PYTHONPATH=. TMPDIR=/dev/shm python benchmarks/parallel_search.py   (about an hour of one core)
Writes benchmarks/results/parallel_search.md and docs/images/parallel_search.png, unless --dry is given.

For each landscape and agent, searches of equal budgets with 1, 4, ... workers on the same seeds: the best
score, and the simulated time to 95 % of it, both beside those of one worker. As the stages of a path follow
one another, no number of workers comes before the quickest path to such a score: `bound` is how many times as
fast that path alone would be. The driver's cost is its processor time a stage, without what simulated stages
compute and with an agent that answers at once, in one search that is long and wide.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import matplotlib.pyplot as plt
from rich.progress import track

from benchmarks.simulated_search import Stopwatch
from llmzero.cli import composed
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.proposal import Proposal
from llmzero.runners.simulated import SimulatedHandle
from llmzero.search.driver import Driver
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/parallel_search.md"
FIGURE = REPOSITORY / "docs/images/parallel_search.png"
NEAR = 0.95  # of the final score


@dataclass(frozen=True)
class Outcome:
    """One search: its best score, the simulated seconds to 95 % of it, those of the quickest path to such a
    score, and the share of the workers' time in which they had a stage.
    """

    best: float
    seconds: float
    path_seconds: float
    busy: float


def main() -> None:
    """Measure, print a line for each curve's point, and write table and figure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--stages", type=int, default=384, help="of every search of the curves")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16, 64, 256], help="beside one")
    parser.add_argument("--landscapes", nargs="+", default=["nano", "noisy", "deceptive"])
    parser.add_argument("--agents", nargs="+", default=["random", "rules"])
    parser.add_argument("--driver-stages", type=int, default=10_000, help="of the driver's search; 0 is none")
    parser.add_argument("--driver-workers", type=int, default=256)
    parser.add_argument("--dry", action="store_true", help="write no files")
    arguments = parser.parse_args()
    curves = [(agent, land) for agent in arguments.agents for land in arguments.landscapes]
    widths = [1, *arguments.workers]
    cells = [(*curve, width, seed) for curve in curves for width in widths for seed in range(arguments.seeds)]
    outcomes = {
        cell: outcome(searched(arguments.stages, *cell), cell[2]) for cell in track(cells, "searches")
    }
    command = " ".join(["PYTHONPATH=. TMPDIR=/dev/shm python benchmarks/parallel_search.py", *sys.argv[1:]])
    lines = [
        f"Searches of {arguments.stages} stages, means of {arguments.seeds} seeds; made by "
        f"`{command}`, which explains the columns.",
        "",
        f"| agent | landscape | workers | best score | of one worker's | times as fast to {NEAR:.0%} "
        "| a worker | bound | busy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    speed: dict[tuple[str, str], list[float]] = {}
    score: dict[tuple[str, str], list[float]] = {}
    for curve in curves:
        for width in widths:
            pairs = [
                (outcomes[*curve, width, seed], outcomes[*curve, 1, seed]) for seed in range(arguments.seeds)
            ]
            best, one = fmean(o.best for o, _ in pairs), fmean(o.best for _, o in pairs)
            times = geometric_mean(o.seconds / own.seconds for own, o in pairs)
            bound = geometric_mean(o.seconds / o.path_seconds for _, o in pairs)
            busy = fmean(o.busy for o, _ in pairs)
            speed.setdefault(curve, []).append(times)
            score.setdefault(curve, []).append(best / one)
            lines.append(
                f"| {curve[0]} | {curve[1]} | {width} | {best:.3f} | {best / one:.1%} | {times:.1f} "
                f"| {times / width:.2f} | {bound:.1f} | {busy:.0%} |"
            )
            print(lines[-1], flush=True)
    if arguments.driver_stages:
        cost = driver_ms(arguments.driver_stages, arguments.driver_workers)
        lines += [
            "",
            f"The driver of a search of {arguments.driver_stages} stages with {arguments.driver_workers} "
            f"workers takes {cost:.2f} ms of processor time a stage.",
        ]
        print(lines[-1])
    if not arguments.dry:
        RESULTS.write_text("\n".join(lines) + "\n")
        draw(widths, speed, score)


def searched(stages: int, agent: str, landscape: str, workers: int, seed: int) -> Tree:
    """Return the tree of one search."""
    with tempfile.TemporaryDirectory() as directory:
        overrides = [f"agent={agent}", f"runner.landscape={landscape}", f"seed={seed}"]
        session = Session.from_config(configured(directory, stages, workers, overrides))
        with contextlib.redirect_stdout(io.StringIO()):
            session.run()
        return EventStore(session.workspace.tree_file).tree


def configured(directory: str, stages: int, workers: int, overrides: Iterable[str]) -> SearchConfig:
    """Return the configuration of a simulated search without a report."""
    common = [f"budget.stages={stages}", f"search.workers={workers}", f"search_dir={directory}/search"]
    return composed(
        "search", SearchConfig, ["experiment=simulated", "search.report=false", *common, *overrides]
    )


def outcome(tree: Tree, workers: int) -> Outcome:
    """Return what a search has come to."""
    usable = [node for node in tree.finished if node.usable]
    best = max(score_of(node) for node in usable)
    near = [node for node in usable if score_of(node) >= NEAR * best]
    spent = sum(node.result.gpu_seconds for node in tree.finished if node.result)
    end = max(ended_at(node) for node in tree.finished)
    return Outcome(
        best=best,
        seconds=min(ended_at(node) for node in near),
        path_seconds=min(
            sum(each.result.seconds for each in tree.path(node.node_id) if each.result) for node in near
        ),
        busy=spent / end / workers,
    )


def score_of(node: Node) -> float:
    """Return the score of a usable stage."""
    return node.score or 0.0


def ended_at(node: Node) -> float:
    """Return when on the simulated clock a stage ended."""
    return (node.result.ended_at or 0.0) if node.result else 0.0


def driver_ms(stages: int, workers: int) -> float:
    """Return the driver's milliseconds of processor time a stage.

    The stages' own computing is taken off, and the agent answers at once, without evidence.
    """
    stopwatch = Stopwatch()
    stopwatch.watch(SimulatedHandle, "_go_on", "__init__")
    rounds, evidence_of = Driver.rounds, EvidenceBuilder.for_proposal
    seconds = 0.0

    def timed(driver: Driver) -> Any:
        nonlocal seconds
        began, computed = time.process_time(), stopwatch.seconds
        yield from track(rounds(driver), "driver", total=None)
        seconds = time.process_time() - began - (stopwatch.seconds - computed)

    def nothing_but(_builder: EvidenceBuilder, tree: Tree, node_id: str, *_rest: Any, **_more: Any) -> Any:
        return tree, node_id

    with tempfile.TemporaryDirectory() as directory:
        config = configured(directory, stages, workers, ["agent=random", "stopper=none"])
        session = Session.from_config(config)
        catalogue = session.catalogue

        def proposed(asked: Any) -> Proposal:
            tree, node_id = asked
            rng, parent = random.Random(len(tree)), tree[node_id].hparams
            new = {name: catalogue[name].sample(rng) for name in rng.sample(list(catalogue), k=2)}
            return Proposal("random", (), "Drawn at random.", catalogue.changes(parent, parent | new))

        try:
            Driver.rounds = timed  # type: ignore[method-assign,assignment]
            EvidenceBuilder.for_proposal = nothing_but  # type: ignore[method-assign,assignment]
            session._proposed = proposed  # type: ignore[method-assign,assignment]
            with contextlib.redirect_stdout(io.StringIO()):
                session.run()
        finally:
            Driver.rounds = rounds  # type: ignore[method-assign]
            EvidenceBuilder.for_proposal = evidence_of  # type: ignore[method-assign]
    return 1000 * seconds / stages


def draw(
    widths: list[int], speed: dict[tuple[str, str], list[float]], score: dict[tuple[str, str], list[float]]
) -> None:
    """Draw speed and score by workers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for agent, landscape in speed:
        style = "-" if agent == "random" else "--"
        left.plot(widths, speed[agent, landscape], style, marker="o", label=f"{landscape}, {agent}")
        right.plot(widths, score[agent, landscape], style, marker="o")
    left.plot(widths, widths, color="grey", linewidth=0.8, label="as many as workers")
    left.set(xscale="log", yscale="log", xlabel="workers", ylabel=f"times as fast to {NEAR:.0%} of the score")
    right.set(xscale="log", xlabel="workers", ylabel="best score, of one worker's")
    right.axhline(1.0, color="grey", linewidth=0.8)
    left.legend(fontsize=8)
    figure.savefig(FIGURE, dpi=120)


if __name__ == "__main__":
    main()
