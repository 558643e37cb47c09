#!/usr/bin/env python
"""Searches each landscape of the simulator for its best constant configuration and its best schedule.

Usage: python benchmarks/simulator_landscapes.py [LANDSCAPE ...]   (about four minutes of one core for all)
Writes benchmarks/results/simulator_landscapes.json, unless landscapes are named.

The searches see true scores, without noise. Random constant configurations come first. Then one or two
parameters of the best so far are changed in all stages alike, for as many evaluations as still improve it.
From there, parameters are changed in single stages and in all stages from one on. The scores are lower bounds
of the optimum.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from llmzero.cli import composed
from llmzero.core.hparams import Catalogue, HParams
from llmzero.runners.simulation.drive import drive_of
from llmzero.runners.simulation.landscape import LANDSCAPES, Landscape
from llmzero.runners.simulation.memory import out_of_memory
from llmzero.runners.simulation.policy import advance, base_policy
from llmzero.search.settings import SearchConfig

RESULTS = Path(__file__).parent / "results" / "simulator_landscapes.json"
STAGES, STEPS = 6, 16
RANDOM, CLIMBING = 300, 4000  # evaluations of schedules
INSTANCES = range(3)

Schedule = list[HParams]


def main() -> None:
    """Measure all landscapes, or those named, and print a table."""
    catalogue = composed("search", SearchConfig, ["experiment=simulated", "search_dir=unset"]).catalogue
    results = {name: measure(name, catalogue) for name in sys.argv[1:] or LANDSCAPES}
    if len(sys.argv) == 1:
        RESULTS.write_text(
            json.dumps(
                {"stages": STAGES, "steps": STEPS, "evaluations": RANDOM + CLIMBING, "landscapes": results},
                indent=2,
            )
            + "\n"
        )
    for name, row in results.items():
        print(
            f"{name:17} "
            + "  ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        )


def measure(name: str, catalogue: Catalogue) -> dict[str, Any]:
    """Measure several instances of a landscape.

    Returns:
        Means over instances of the scores of base, practitioner, best constant and best schedule, the gain of
        the schedule over the constant, and the scores of each instance.
    """
    rows = [compare(LANDSCAPES[name].instance(number), catalogue, number) for number in INSTANCES]
    means = {key: round(fmean(row[key] for row in rows), 4) for key in rows[0]}
    return {**means, "gain": round(means["schedule"] - means["constant"], 4), "instances": rows}


def compare(land: Landscape, catalogue: Catalogue, seed: int) -> dict[str, float]:
    """Return the scores on one instance of a landscape."""
    rng, defaults = Random(seed), catalogue.defaults()
    practitioner = [defaults] * STAGES
    drawn = [
        [{name: parameter.sample(rng) for name, parameter in catalogue.items()}] * STAGES
        for _ in range(RANDOM)
    ]
    start = max([practitioner, *drawn], key=lambda path: final_score(land, path, defaults))
    constant = hill_climb(land, start, defaults, lambda path: [mutate(path[0], catalogue, rng)] * STAGES)
    schedule = hill_climb(land, constant, defaults, lambda path: mutate_stages(path, catalogue, rng))
    paths = {"practitioner": practitioner, "constant": constant, "schedule": schedule}
    return {
        "base": round(land.start, 4),
        **{name: round(final_score(land, path, defaults), 4) for name, path in paths.items()},
    }


def hill_climb(
    land: Landscape, schedule: Schedule, reference: HParams, change: Callable[[Schedule], Schedule]
) -> Schedule:
    """Return the best schedule of a search that keeps a change whenever the score is no lower."""
    score = final_score(land, schedule, reference)
    for _ in range(CLIMBING):
        candidate = change(schedule)
        reached = final_score(land, candidate, reference)
        if reached >= score:
            score, schedule = reached, candidate
    return schedule


def mutate(hparams: HParams, catalogue: Catalogue, rng: Random) -> HParams:
    """Return a configuration with one or two parameters moved a little or drawn anew."""
    new = dict(hparams)
    for name in rng.sample(list(catalogue), k=rng.randint(1, 2)):
        parameter = catalogue[name]
        near = parameter.at(parameter.position(hparams[name]) + rng.gauss(0, 0.2))
        new[name] = near if rng.random() < 0.7 else parameter.sample(rng)
    return new


def mutate_stages(schedule: Schedule, catalogue: Catalogue, rng: Random) -> Schedule:
    """Return a schedule with a change in one stage, in all stages from one on, or in all stages."""
    first = rng.randrange(STAGES)
    last = rng.choice((first, STAGES - 1))
    first = rng.choice((0, first))
    draw = rng.random()
    return [
        mutate(hparams, catalogue, Random(f"{draw}")) if first <= stage <= last else hparams
        for stage, hparams in enumerate(schedule)
    ]


def final_score(land: Landscape, schedule: Schedule, reference: HParams) -> float:
    """Return the true score at the end of a schedule; 0 where it runs out of memory."""
    policy = base_policy(land)
    for hparams in schedule:
        drive = drive_of(hparams, reference)
        if out_of_memory(land, drive, hparams):
            return 0.0
        anchor = policy.kl if drive.to_parent else 0.0
        policy.moments = 0 if drive.reset else policy.moments
        for taken in range(STEPS):
            advance(policy, land, drive, taken, anchor, 0.0)
    return policy.score(land, drive.room)


if __name__ == "__main__":
    main()
