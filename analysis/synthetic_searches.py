"""Synthetic searches whose truth is known: what moves each group of hyperparameters is planted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.paths import Paths, SearchPath
from analysis.tables import Row, Rows, Tables
from analysis.tree_rows import add_tree
from llmzero.core.documents import dump_yaml
from llmzero.core.files import write_atomic
from llmzero.core.hparams import HParams, catalogue_of
from llmzero.core.stage import StageDir, StageResult, ValidationPoint
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree

Movement = Literal["grows", "trends", "oscillates", "coin", "drawn", "habits"]

COUNTS = {"capacity": 3, "regularization": 5, "optimization": 2}  # parameters of each group
# Of each parameter its group and its place among those of the group, from 0 to 1.
PARAMETERS = {
    f"{group}_{i}": (group, i / (count - 1)) for group, count in COUNTS.items() for i in range(count)
}
START = 0.5  # the default of each parameter
FAITHFUL = 0.95  # share of the changes that go as planted
HABITS = (0.95, 0.3)  # the same, of the first and the last parameter of a group with habits
STEP = (0.01, 0.03)  # size of a change, in positions: no parameter reaches a bound


@dataclass(frozen=True)
class World:
    """How the hyperparameters of a set of searches move.

    Attributes:
        capacity: what moves the capacity parameters.
        regularization: what moves the regularization parameters.
        agent: the agent that the searches name.
        faithful: the share of changes that go as planted; the others go the other way.
        depths: how many stages a best path may have.
        change: the probability that a stage changes the first and the last parameter of a group.
    """

    capacity: Movement
    regularization: Movement
    agent: str = "planted"
    faithful: float = FAITHFUL
    depths: tuple[int, ...] = (5, 6, 7, 8)
    change: tuple[float, float] = (0.6, 0.6)

    def __str__(self) -> str:
        return f"{self.capacity}, {self.regularization}"


PLANTED = World("grows", "oscillates")
CHANCE = World("coin", "coin")


def config_of(world: World, seed: int) -> dict[str, Any]:
    """Return the configuration of a synthetic search, whose parameters have an even scale from 0 to 1."""
    entry = {"kind": "float", "low": 0.0, "high": 1.0, "default": START}
    parameters = {name: {"group": group, **entry} for name, (group, _) in PARAMETERS.items()}
    return {
        "hparams": {"parameters": parameters},
        "search": {"name": "synthetic", "method": {}},
        "agent": {"name": world.agent},
        "seed": seed,
        "metrics": {"metrics": {}},
        **dict.fromkeys(("task", "model", "rollout", "algorithm", "trainer")),
        **{group: {} for group in ("runner", "stopper")},
    }


def nodes_of(world: World, seed: int) -> Iterator[tuple[Node, StageResult]]:
    """Yield the stages of a search with their results.

    They are a best path, and beside each of its stages one that is no better than the base model.
    """
    rng = random.Random(f"{world!r}/{seed}/aside")
    before, *line = best_path(world, seed)
    yield _stage(0, None, 0, before, 0.2)
    parent = ROOT
    for depth, hparams in enumerate(line, 1):
        number = 2 * depth - 1
        yield _stage(number, parent, depth, _moved(before, world, {}, 1, rng), 0.2)
        yield _stage(number + 1, parent, depth, hparams, 0.2 + 0.05 * depth)
        parent, before = f"{number + 1:04d}", hparams


def best_path(world: World, seed: int) -> list[HParams]:
    """Return the hyperparameters of the base model and of each stage of a search's best path."""
    rng = random.Random(f"{world!r}/{seed}")
    line: list[HParams] = [dict.fromkeys(PARAMETERS, START)]
    directions: dict[str, int] = {}
    trend = rng.choice((-1, 1))
    for _ in range(rng.choice(world.depths)):
        line.append(_moved(line[-1], world, directions, trend, rng))
    return line


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
    """Return the next stage's hyperparameters, and record in `directions` where each went.

    Args:
        hparams: of the stage before.
        world: what moves them.
        directions: the last direction of each parameter so far.
        trend: the direction of the whole search.
        rng: source of chance.
    """
    coin = rng.choice((-1, 1))  # the direction of everything that a coin moves at this stage
    movements: dict[str, Movement] = {
        "capacity": world.capacity,
        "regularization": world.regularization,
        "optimization": "coin",
    }
    moved = dict(hparams)
    for name in hparams:
        group, place = PARAMETERS[name]
        if rng.random() >= _between(world.change, place):
            continue
        movement = movements[group]
        last = directions.get(name) or rng.choice((-1, 1))
        planted = {
            "grows": 1,
            "trends": trend,
            "oscillates": -last,
            "coin": coin,
            "drawn": coin,
            "habits": 1 if group == "capacity" else -last,
        }[movement]
        if movement == "drawn":
            moved[name] = rng.random()
        else:
            faithful = _between(HABITS, place) if movement == "habits" else world.faithful
            direction = planted if movement == "coin" or rng.random() < faithful else -planted
            moved[name] = hparams[name] + rng.uniform(*STEP) * direction
        directions[name] = 1 if moved[name] > hparams[name] else -1
    return moved


def _between(ends: tuple[float, float], place: float) -> float:
    """Return the number at a place from 0 to 1 between two numbers."""
    return ends[0] + place * (ends[1] - ends[0])


def write_search(directory: Path, world: World, seed: int) -> None:
    """Write a synthetic search as a search directory, its log through the event store."""
    directory.mkdir(parents=True)
    write_atomic(directory / "config.yaml", dump_yaml(config_of(world, seed)), sync=False)
    store = EventStore(directory / "tree.jsonl")
    names = ("node_id", "parent_id", "depth", "hparams", "steps", "resume_from", "proposal")
    for node, result in nodes_of(world, seed):
        store.append("created", elapsed=0.0, **{name: getattr(node, name) for name in names})
        stage = StageDir(directory / "nodes" / node.node_id)
        ended = replace(result, checkpoint=stage.checkpoint(16)).to_dict(stage.path)
        store.append("finished", elapsed=0.0, node_id=node.node_id, result=ended)
    store.append("ended", elapsed=0.0)


def paths_of(world: World, seeds: range) -> Paths:
    """Return the best paths of synthetic searches: those of `tables_of`, in a tenth of its time."""
    paths = Paths(list(PARAMETERS), np.array([group for group, _ in PARAMETERS.values()]))
    for seed in seeds:
        values = np.array([list(hparams.values()) for hparams in best_path(world, seed)])
        signs = np.sign(np.diff(values, axis=0)).astype(np.int8)
        start = np.where(signs.any(axis=0), START, 0.0)
        name, end = f"{world.agent}-{seed}", f"{2 * len(signs):04d}"
        paths.best.append(SearchPath(name, end, signs, start, np.full(len(start), np.nan)))
    return paths


def tables_of(world: World, seeds: range) -> Tables:
    """Return the tables of synthetic searches.

    They equal those of the directories that `write_search` makes, without training steps, state and cost.
    """
    rows = Rows()
    catalogue = catalogue_of({"model": None, "algorithm": None, **config_of(world, 0)})
    for seed in seeds:
        tree = Tree()
        for node, result in nodes_of(world, seed):
            tree.add(node)
            tree.finish(node.node_id, result)
        steps: dict[str, list[Row]] = {node.node_id: [] for node in tree}
        add_tree(rows, f"{world.agent}-{seed}", config_of(world, seed), tree, catalogue, steps)
    return rows.tables()
