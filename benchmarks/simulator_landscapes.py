#!/usr/bin/env python
"""What the simulator's landscapes are worth: on each, the best constant configuration and the best schedule that a long search finds.

Usage: python benchmarks/simulator_landscapes.py   (about four minutes of one core; writes benchmarks/results/simulator_landscapes.json)

The searches see true scores, without noise: random constants, then changes of one or two parameters of the best so far in all stages
alike, for as many evaluations as find little more; from there, changes in single stages and in all stages from one on. What is found is
a lower bound of what there is.
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
RANDOM, CLIMBING = 300, 4000  # evaluations of paths
INSTANCES = range(3)

Path_ = list[HParams]


def main() -> None:
    """Measure all landscapes, or those named, and print a table."""
    catalogue = _catalogue()
    found = {name: measured(name, catalogue) for name in sys.argv[1:] or LANDSCAPES}
    if len(sys.argv) == 1:
        RESULTS.write_text(
            json.dumps(
                {"stages": STAGES, "steps": STEPS, "evaluations": RANDOM + CLIMBING, "landscapes": found},
                indent=2,
            )
            + "\n"
        )
    for name, row in found.items():
        print(
            f"{name:17} "
            + "  ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        )


def measured(name: str, catalogue: Catalogue) -> dict[str, Any]:
    """Return mean scores over instances, of base, practitioner, best constant and best schedule, and the latter two for each instance."""
    rows = [compared(LANDSCAPES[name].instance(number), catalogue, number) for number in INSTANCES]
    means = {key: round(fmean(row[key] for row in rows), 4) for key in rows[0]}
    return {**means, "gain": round(means["schedule"] - means["constant"], 4), "instances": rows}


def compared(land: Landscape, catalogue: Catalogue, seed: int) -> dict[str, float]:
    """Return the scores on one problem."""
    rng, defaults = Random(seed), catalogue.defaults()
    practitioner = [defaults] * STAGES
    drawn = [
        [{name: parameter.sample(rng) for name, parameter in catalogue.items()}] * STAGES
        for _ in range(RANDOM)
    ]
    start = max([practitioner, *drawn], key=lambda path: final(land, path, defaults))
    constant = climbed(land, start, defaults, lambda path: [changed(path[0], catalogue, rng)] * STAGES)
    schedule = climbed(land, constant, defaults, lambda path: rescheduled(path, catalogue, rng))
    paths = {"practitioner": practitioner, "constant": constant, "schedule": schedule}
    return {
        "base": round(land.start, 4),
        **{name: round(final(land, path, defaults), 4) for name, path in paths.items()},
    }


def climbed(land: Landscape, path: Path_, reference: HParams, change: Callable[[Path_], Path_]) -> Path_:
    """Return the best path that a search by changes of the best so far finds."""
    score = final(land, path, reference)
    for _ in range(CLIMBING):
        candidate = change(path)
        reached = final(land, candidate, reference)
        if reached >= score:
            score, path = reached, candidate
    return path


def changed(hparams: HParams, catalogue: Catalogue, rng: Random) -> HParams:
    """Return a configuration with one or two parameters moved by a little or drawn anew."""
    new = dict(hparams)
    for name in rng.sample(list(catalogue), k=rng.randint(1, 2)):
        parameter = catalogue[name]
        near = parameter.at(parameter.position(hparams[name]) + rng.gauss(0, 0.2))
        new[name] = near if rng.random() < 0.7 else parameter.sample(rng)
    return new


def rescheduled(path: Path_, catalogue: Catalogue, rng: Random) -> Path_:
    """Return a path with a change in one stage, in all from one on, or in all."""
    first = rng.randrange(STAGES)
    last = rng.choice((first, STAGES - 1))
    first = rng.choice((0, first))
    draw = rng.random()
    return [
        changed(hparams, catalogue, Random(f"{draw}")) if first <= stage <= last else hparams
        for stage, hparams in enumerate(path)
    ]


def final(land: Landscape, path: Path_, reference: HParams) -> float:
    """Return the true score at the end of a path; 0 of one that runs out of memory."""
    policy = base_policy(land)
    for hparams in path:
        drive = drive_of(hparams, reference)
        if out_of_memory(land, drive, hparams):
            return 0.0
        anchor = policy.kl if drive.to_parent else 0.0
        policy.moments = 0 if drive.reset else policy.moments
        for taken in range(STEPS):
            advance(policy, land, drive, taken, anchor, 0.0)
    return policy.score(land, drive.room)


def _catalogue() -> Catalogue:
    return composed("search", SearchConfig, ["experiment=simulated", "search_dir=unset"]).catalogue


if __name__ == "__main__":
    main()
