"""Synthetic searches with a planted truth, and how often the tests of `analysis.dynamics` err on them: `python -m analysis.synthetic --help`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from scipy import stats

from analysis.dynamics import ALPHA, CLAIM, analysed, judged, overall
from analysis.load import Row, Rows, Tables, add_tree, command, publish
from analysis.nulls import Outcome
from llmzero.cli import run_command
from llmzero.core.files import write_atomic
from llmzero.core.hparams import HParams, catalogue_of
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.studies.tables import markdown
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree

Movement = Literal["grows", "trends", "oscillates", "coin", "drawn"]

CHANGED = 0.6  # of the stages change a parameter
FAITHFUL, LESS_FAITHFUL = 0.95, 0.8  # of the changes go as planted
DEPTHS = (5, 6, 7, 8)  # stages of a best path
SIZE = (0.01, 0.03)  # of a change, in positions: no parameter reaches a bound
POWER_SEARCHES = (5, 10, 20)
DRAWS = 499

HELP = """\
Make searches whose truth is known, test them as `python -m analysis.dynamics` does, and print how often it says yes.

Worlds: what moves capacity, then what moves regularization.
  grows       95 % of the changes go up            oscillates  95 % of the changes turn round
  trends      each search goes up, or down, throughout, by a coin's decision
  coin        each stage goes up or down by a coin's decision
  drawn       each new value is drawn from the catalogue

Where a null is true, its test has to reject in 5 % of the studies at most; so has the whole claim wherever a part of it is false.
"""
EXAMPLES = """\
examples:
  python -m analysis.synthetic --studies 500 --out found
  python -m analysis.synthetic --write runs/planted --searches 8     # search directories, to try the commands on
"""


@dataclass(frozen=True)
class World:
    """What moves capacity, what moves regularization, the agent that its searches name, and the share of changes that go as planted."""

    capacity: Movement
    regularization: Movement
    agent: str = "planted"
    faithful: float = FAITHFUL

    def __str__(self) -> str:
        return f"{self.capacity}, {self.regularization}"


PLANTED = World("grows", "oscillates")
CHANCE = World("coin", "coin")
WITHOUT, WITH = "all but the prior", "all"
SUSPICION = 0.01

# The nulls that are true in each world; that of the prior is true in all, as its searches are of the same world.
WORLDS: dict[World, dict[str, tuple[str, ...]]] = {
    PLANTED: {"capacity": (), "regularization": ()},
    CHANCE: {"capacity": ("direction", "chance"), "regularization": ("order",)},
    World("drawn", "drawn"): {"capacity": ("random",), "regularization": ("random",)},
    World("trends", "oscillates"): {"capacity": ("direction",), "regularization": ()},
    World("coin", "oscillates"): {"capacity": ("direction", "chance"), "regularization": ()},
    World("grows", "coin"): {"capacity": (), "regularization": ("order",)},
    World("grows", "drawn"): {"capacity": (), "regularization": ("random",)},
}


# --- searches ---


def catalogue_config() -> dict[str, Any]:
    """Return the `hparams` of synthetic searches: parameters of each group, of even scale from 0 to 1."""
    names = {"capacity": 3, "regularization": 5, "optimization": 2}
    entry = {"kind": "float", "low": 0.0, "high": 1.0, "default": 0.5}
    return {
        "parameters": {
            f"{group}_{i}": {"group": group, **entry} for group, count in names.items() for i in range(count)
        }
    }


def config_of(world: World, seed: int) -> dict[str, Any]:
    """Return the configuration of a synthetic search."""
    return {
        "hparams": catalogue_config(),
        "search": {"name": "synthetic"},
        "agent": {"name": world.agent},
        "seed": seed,
    }


def nodes_of(world: World, seed: int) -> Iterator[tuple[Node, StageResult]]:
    """Yield the stages of a search and their results: a best path, and beside each of its stages one that was no better."""
    rng = random.Random(f"{world}/{seed}")
    hparams = {name: entry["default"] for name, entry in catalogue_config()["parameters"].items()}
    directions: dict[str, int] = {}
    trend = rng.choice((-1, 1))
    yield _stage(0, None, 0, hparams, 0.2)
    parent = ROOT
    for depth in range(1, rng.choice(DEPTHS) + 1):
        number = 2 * depth - 1
        yield _stage(number, parent, depth, _moved(hparams, world, dict(directions), trend, rng), 0.2)
        hparams = _moved(hparams, world, directions, trend, rng)
        yield _stage(number + 1, parent, depth, hparams, 0.2 + 0.05 * depth)
        parent = f"{number + 1:04d}"


def _stage(
    number: int, parent: str | None, depth: int, hparams: HParams, score: float
) -> tuple[Node, StageResult]:
    point = ValidationPoint(16, 16 * depth, score, 0.02, 500, 0.3)
    result = StageResult("completed", [point], 16, score, Path("checkpoint"), 6.0, 6.0, ended_at=6.0 * number)
    proposal = {"agent": "planted", "diagnosis": [], "rationale": "", "changes": {}}
    return Node(f"{number:04d}", parent, depth, hparams, 16 if parent else 0, None, proposal), result


def _moved(
    hparams: HParams, world: World, directions: dict[str, int], trend: int, rng: random.Random
) -> HParams:
    """Return the next stage's hyperparameters, and note in which direction each went."""
    stage = rng.choice((-1, 1))  # of all that a coin moves at this stage
    movements: dict[str, Movement] = {
        "capacity": world.capacity,
        "regularization": world.regularization,
        "optimization": "coin",
    }
    moved = dict(hparams)
    for name in hparams:
        if rng.random() < CHANGED:
            movement = movements[name.split("_")[0]]
            way = _direction(movement, directions, name, trend, stage, rng)
            way = way if movement == "coin" or rng.random() < world.faithful else -way
            fresh = rng.random() if movement == "drawn" else hparams[name] + rng.uniform(*SIZE) * way
            directions[name] = 1 if fresh > hparams[name] else -1
            moved[name] = fresh
    return moved


def _direction(
    movement: Movement, directions: dict[str, int], name: str, trend: int, stage: int, rng: random.Random
) -> int:
    last = directions.get(name, rng.choice((-1, 1)))
    return {"grows": 1, "trends": trend, "oscillates": -last, "coin": stage, "drawn": stage}[movement]


def write_search(directory: Path, world: World, seed: int) -> None:
    """Write a synthetic search as a search directory, its log through the event store."""
    directory.mkdir(parents=True)
    write_atomic(
        directory / "config.yaml", yaml.safe_dump(config_of(world, seed), sort_keys=False), sync=False
    )
    store = EventStore(directory / "tree.jsonl")
    for node, result in nodes_of(world, seed):
        fields = {
            name: getattr(node, name)
            for name in ("node_id", "parent_id", "depth", "hparams", "steps", "resume_from", "proposal")
        }
        store.append("created", elapsed=0.0, **fields)
        store.append("finished", elapsed=0.0, node_id=node.node_id, result=result.to_dict())
    store.append("ended", elapsed=0.0)


def tables_of(world: World, seeds: range) -> Tables:
    """Return the tables of synthetic searches, the same as those of their directories but for what training leaves and costs."""
    rows, known = Rows(), catalogue_of({"model": None, "algorithm": None, "hparams": catalogue_config()})
    for seed in seeds:
        tree, config = Tree(), config_of(world, seed)
        for node, result in nodes_of(world, seed):
            tree.add(node)
            tree.finish(node.node_id, result)
        add_tree(rows, f"{world.agent}-{seed}", config, tree, known)
    return rows.tables()


# --- studies ---


def rejections(world: World, prior: World, studies: int, searches: int) -> Counter[tuple[str, str]]:
    """Return in how many studies each test rejects, by part of the claim and null, and in how many parts and claim are supported.

    A study has so many searches of a world, and as many of the prior.
    """
    counted: Counter[tuple[str, str]] = Counter()
    for number in range(studies):
        seeds = [
            range(first, first + searches)
            for first in (2 * searches * number, 2 * searches * number + searches)
        ]
        found = analysed(tables_of(world, seeds[0]), tables_of(prior, seeds[1]), DRAWS)
        verdicts = []
        for part in CLAIM:
            told = found["parts"][part.group]
            tests = [Outcome(**test) for test in told["tests"]]
            counted.update((part.says, test.null) for test in tests if test.p <= ALPHA)
            built_in = [test for test in tests if test.null in part.nulls]
            verdicts.append(judged(part, built_in, told["searches_judged"], searches, [])[0])
            counted[part.says, WITHOUT] += verdicts[-1] == "supported"
        counted["claim", WITHOUT] += overall(verdicts) == "supported"
        counted["claim", WITH] += found["verdict"] == "supported"
    return counted


def error_rates(studies: int, searches: int) -> list[Row]:
    """Return the rates of rejection of every null where it is true, and of the claim where it is false."""
    rows = []
    for world, true in WORLDS.items():
        counted = rejections(world, World(world.capacity, world.regularization, "same"), studies, searches)
        wanted = [(part.says, null) for part in CLAIM for null in (*true[part.group], "prior: same")]
        wanted += [("claim", WITHOUT), ("claim", WITH)] if world != PLANTED else [("claim", WITH)]
        rows += [
            {"world": str(world), "part": part, "null": null, **_rate(counted[part, null], studies)}
            for part, null in wanted
        ]
    return rows


def power(studies: int) -> list[Row]:
    """Return how often planted truth is found, by the number of searches of a study and by how faithful they are; the prior moves by coins."""
    rows = []
    for faithful, searches in product((FAITHFUL, LESS_FAITHFUL), POWER_SEARCHES):
        counted = rejections(
            replace(PLANTED, faithful=faithful), World("coin", "coin", "coins"), studies, searches
        )
        for part, null in [*((part.says, WITHOUT) for part in CLAIM), ("claim", WITHOUT), ("claim", WITH)]:
            rows.append(
                {
                    "faithful": faithful,
                    "searches": searches,
                    "part": part,
                    "null": null,
                    **_rate(counted[part, null], studies),
                }
            )
    return rows


def _rate(count: int, studies: int) -> Row:
    """Return a rate with its exact 95 % interval, and the probability of as many where the true rate is 5 %."""
    test = stats.binomtest(count, studies, ALPHA, alternative="greater")
    low, high = stats.binomtest(count, studies).proportion_ci()
    return {
        "rate": count / studies,
        "low": float(low),
        "high": float(high),
        "p_of_more_than_5": float(test.pvalue),
    }


def told(found: dict[str, Any]) -> str:
    """Return `synthetic.md`."""
    parts = [
        f"# Error rates\n\n{found['studies']} studies of {found['searches']} searches in each world.\n\n## False positives\n"
    ]
    heads = ["world (capacity, regularization)", "part", "null", "rejected", "95 % interval"]
    parts.append(
        markdown(
            heads,
            [[row["world"], row["part"], row["null"], *_shown(row)] for row in found["false_positives"]],
        )
    )
    parts.append(
        f"Rates that are above 5 % by more than chance (p < {SUSPICION}): {_too_high(found['false_positives'])}.\n\n## Power\n"
    )
    heads = ["changes as planted", "searches a study", "part", "nulls", "found", "95 % interval"]
    rows = [
        [f"{row['faithful']:.0%}", str(row["searches"]), row["part"], row["null"], *_shown(row)]
        for row in found["power"]
    ]
    parts.append(markdown(heads, rows))
    return "\n".join(parts)


def _shown(row: Row) -> list[str]:
    return [f"{row['rate']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"]


def _too_high(rows: list[Row]) -> str:
    return (
        "; ".join(
            f"{row['world']}: {row['part']}, {row['null']}"
            for row in rows
            if row["p_of_more_than_5"] < SUSPICION
        )
        or "none"
    )


def main() -> None:
    """Measure error rates and power, or write searches."""
    parser = command("synthetic", HELP, EXAMPLES)
    parser.add_argument(
        "--studies", type=int, default=500, help="studies in each world (default: %(default)s)"
    )
    parser.add_argument("--searches", type=int, default=10, help="searches of a study (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write synthetic.json and synthetic.md there")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="only write the searches of one study there, with planted truth and without",
    )
    given = parser.parse_args()
    if given.write:
        for name, world in (("planted", PLANTED), ("coin", CHANCE)):
            for seed in range(given.searches):
                write_search(given.write / name / f"seed-{seed}", world, seed)
        return
    found = {"studies": given.studies, "searches": given.searches}
    found |= {"false_positives": error_rates(given.studies, given.searches), "power": power(given.studies)}
    publish("synthetic", found, told(found), given.out)


if __name__ == "__main__":
    run_command(main)
