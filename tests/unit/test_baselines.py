"""The methods that LLMZero is compared with: each decides as published, alike after a restart, and never more than it may."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.base import Proposal
from llmzero.errors import UserError
from llmzero.hparams import Catalogue
from llmzero.search.methods.agent_chain import AgentChain
from llmzero.search.methods.asha import Asha
from llmzero.search.methods.base import MethodContext, SearchMethod
from llmzero.search.methods.greedy import Greedy
from llmzero.search.methods.grid import Grid
from llmzero.search.methods.optuna_search import OptunaSearch
from llmzero.search.methods.pbt import Pbt
from llmzero.search.methods.practitioner import Practitioner
from llmzero.search.methods.random_search import RandomSearch
from llmzero.search.methods.tree_search import TreeSearch
from llmzero.search.tree import Node, Tree
from llmzero.stage import StageResult, ValidationPoint

WIDE = Catalogue.from_config(
    {
        "rate": {"group": "regularization", "kind": "float", "low": 0.01, "high": 1.0, "scale": "log", "default": 0.1},
        "size": {"group": "capacity", "kind": "int", "choices": [4, 8, 16], "default": 8},
    }
)
SMALL = Catalogue.from_config({"kind": {"group": "capacity", "kind": "choice", "choices": ["a", "b", "c"], "default": "a"}})
METHODS: dict[str, Callable[[MethodContext], SearchMethod]] = {
    "practitioner": Practitioner,
    "random": RandomSearch,
    "random_schedule": lambda context: RandomSearch(context, schedules=True),
    "grid": Grid,
    "asha": Asha,
    "pbt": Pbt,
    "tpe": lambda context: OptunaSearch(context, "tpe", 4),
    "cmaes": lambda context: OptunaSearch(context, "cmaes", 1),
    "greedy": Greedy,
    "chain": AgentChain,
    "llmzero": TreeSearch,
    "paper": lambda context: TreeSearch(context, "uct", 3, 0.2, 0.0, 0.0, backup="mean"),
}


def context(catalogue: Catalogue = WIDE, max_depth: int = 4, stages: int | None = 24, workers: int = 1) -> MethodContext:
    def propose(tree: Tree, node_id: str) -> Proposal:
        rng, parent = random.Random(len(tree)), tree[node_id].hparams
        name = rng.choice(list(catalogue))
        return Proposal("test", (), "", catalogue.changes(parent, parent | {name: catalogue[name].sample(rng)}))

    return MethodContext(catalogue, propose, max_depth, 0, stages=stages, workers=workers)


def began(catalogue: Catalogue) -> Tree:
    tree = Tree()
    tree.add(Node("0000", None, 0, catalogue.defaults(), 0, None, {}))
    end(tree, tree.root)
    return tree


def end(tree: Tree, node: Node, score: float | None = None, *, failed: bool = False) -> None:
    """End a stage with a score drawn from its path, or as a failure."""
    drawn = random.Random(str([above.hparams for above in tree.path(node.node_id)])).random()
    value = None if failed else drawn if score is None else score
    points = [] if value is None else [ValidationPoint(1, 1, value, 0.01, 100, 0.0)]
    checkpoint = None if value is None else Path("c")
    tree.finish(node.node_id, StageResult("failed" if failed else "completed", points, 1, value, checkpoint, 1.0, 1.0, last_checkpoint=checkpoint))


def grow(method: SearchMethod, tree: Tree, stages: int, workers: int = 1, failures: float = 0.0) -> Tree:
    """Let a method grow a tree to so many stages, ends in random order; it may end sooner."""
    rng, running = random.Random(1), [node for node in tree if not node.final]
    while len(tree) <= stages or running:
        expansion = method.ask(tree) if len(running) < workers and len(tree) <= stages else None
        if expansion is not None:
            parent = tree[expansion.parent_id]
            assert parent.usable
            fields = {"hparams": expansion.hparams, "steps": 1, "resume_from": None, "proposal": expansion.proposal.to_dict(), "memo": expansion.memo}
            node = Node(tree.next_id(), parent.node_id, parent.depth + 1, **fields)
            tree.add(node)
            running.append(node)
        elif running:
            node = running.pop(rng.randrange(len(running)))
            end(tree, node, failed=rng.random() < failures)
            method.tell(tree, node)
        else:
            break
    return tree


def shape(tree: Tree) -> list[Any]:
    return [(node.node_id, node.parent_id, node.hparams, node.memo) for node in tree]


@pytest.mark.parametrize("catalogue", [WIDE, SMALL], ids=["wide", "small"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_restarted_method_decides_as_an_uninterrupted_one_would(name: str, workers: int, catalogue: Catalogue) -> None:
    """At every moment of a search with failing stages a new method on the same tree asks for the same next stage."""
    known = context(catalogue, workers=workers)
    tree, method = began(catalogue), METHODS[name](known)
    for stages in range(1, 25):
        wanted = METHODS[name](known).ask(tree)
        grow(method, tree, stages, failures=0.15)
        found = tree.since(stages)
        assert [(node.parent_id, node.hparams, node.memo) for node in found] == ([(wanted.parent_id, wanted.hparams, wanted.memo)] if wanted else [])
        if not found:
            break


@pytest.mark.parametrize("failures", [0.0, 0.3])
@pytest.mark.parametrize(("max_depth", "stages"), [(4, 24), (1, 10), (3, None)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_stays_within_depth_and_catalogue(name: str, max_depth: int, stages: int | None, failures: float) -> None:
    known = context(max_depth=max_depth, stages=stages)
    tree = grow(METHODS[name](known), began(WIDE), stages or 30, failures=failures)
    assert all(node.depth <= max_depth for node in tree)
    assert not [problem for node in tree for problem in WIDE.problems(node.hparams)]
    endless = name not in ("practitioner", "grid") and not (name in ("greedy", "llmzero", "paper") and max_depth == 1)
    assert len(tree) - 1 == (stages or 30) if endless else len(tree) > 1


@pytest.mark.parametrize("name", ["random", "random_schedule", "grid", "asha", "pbt", "tpe", "cmaes", "greedy", "llmzero", "paper"])
def test_several_workers_are_kept_busy(name: str) -> None:
    tree, method = began(WIDE), METHODS[name](context(workers=3))
    most = 0
    for _ in range(3):
        expansion = method.ask(tree)
        if expansion is not None:
            parent = tree[expansion.parent_id]
            tree.add(Node(tree.next_id(), parent.node_id, parent.depth + 1, expansion.hparams, 1, None, {}, expansion.memo))
            most += 1
    assert most == (1 if name == "greedy" else 3), "there is but one stage to be greedy about"
    assert name != "greedy" or grow(method, tree, 12, workers=3).finished


def chains(tree: Tree) -> list[list[Node]]:
    found: dict[int, list[Node]] = {}
    for node in tree.stages():
        found.setdefault(node.memo["chain"], []).append(node)
    return list(found.values())


@pytest.mark.parametrize(("name", "constant"), [("random", True), ("random_schedule", False), ("grid", True)])
def test_a_chain_goes_on_from_its_own_last_stage_to_the_greatest_depth(name: str, constant: bool) -> None:
    tree = grow(METHODS[name](context()), began(WIDE), 12)
    for chain in chains(tree):
        assert [node.depth for node in chain] == [1, 2, 3, 4]
        assert all(b.parent_id == a.node_id for a, b in pairwise(chain))
        assert all(node.proposal["resume"] == "last" for node in chain)
        assert (len({str(node.hparams) for node in chain}) == 1) == constant


def test_a_grid_is_covered_once_and_unknown_names_are_refused() -> None:
    grid = Grid(context(max_depth=1, stages=None), {"rate": 3, "size": 2})
    tree = grow(grid, began(WIDE), 50)
    cells = {(node.hparams["rate"], node.hparams["size"]) for node in tree.stages()}
    assert len(cells) == len(tree) - 1 == 6
    with pytest.raises(UserError, match=r"search\.method\.parameters\.speed=3: unknown parameter; known: rate, size"):
        Grid(context(), {"speed": 3})


def test_asha_promotes_the_best_third_of_a_rung_and_no_other() -> None:
    known = context(max_depth=4, stages=40)
    tree = grow(Asha(known), began(WIDE), 40)
    first = [chain[0] for chain in chains(tree)]
    promoted = [node for node in first if node.children]
    assert promoted
    for node in promoted:
        child = tree[node.children[0]]
        rung = sorted((n.score or 0.0 for n in first if n.finished_order is not None and n.node_id < child.node_id), reverse=True)
        assert (node.score or 0.0) >= rung[len(rung) // 3 - 1]
    assert len(promoted) <= len(first) // 3 + 1
    assert {len(chain) for chain in chains(tree)} <= {1, 3, 4}, "to the next rung, of 3 stages and of 4"


def test_pbt_replaces_the_worst_by_a_perturbed_copy_of_the_best() -> None:
    known, tree = context(max_depth=3, stages=12), began(WIDE)
    method, scores = Pbt(known), [0.5, 0.9, 0.1, 0.4]
    for score in scores:
        expansion = method.ask(tree)
        assert expansion is not None
        node = Node(tree.next_id(), "0000", 1, expansion.hparams, 1, None, {}, expansion.memo)
        tree.add(node)
        end(tree, node, score)
    assert tree["0001"].hparams == WIDE.defaults()
    seen = {}
    for _ in scores:
        expansion = method.ask(tree)
        assert expansion is not None
        seen[expansion.memo["member"]] = expansion
        tree.add(Node(tree.next_id(), expansion.parent_id, 2, expansion.hparams, 1, None, {}, expansion.memo))
    assert [seen[member].parent_id for member in range(4)] == ["0001", "0002", "0002", "0004"]
    assert all(seen[member].hparams == tree[seen[member].parent_id].hparams for member in (0, 1, 3))
    assert seen[2].hparams != tree["0002"].hparams
    assert "Member 2 (0.100) copies member 1 (0.900)" in seen[2].proposal.rationale


def test_greedy_changes_the_best_stage_and_a_chain_the_last_one() -> None:
    for name in ("greedy", "chain"):
        tree, method = began(WIDE), METHODS[name](context())
        for _ in range(12):
            expansion = method.ask(tree)
            assert expansion is not None
            if len(tree) > 1 and name == "greedy":
                assert expansion.parent_id == tree.best([n for n in tree if n.depth < 4]).node_id  # type: ignore[union-attr]
            if len(tree) > 1 and name == "chain":
                last = tree.since(len(tree) - 1)[0]
                assert expansion.parent_id == (last.node_id if last.depth < 4 else "0000")
            parent = tree[expansion.parent_id]
            node = Node(tree.next_id(), parent.node_id, parent.depth + 1, expansion.hparams, 1, None, {}, expansion.memo)
            tree.add(node)
            end(tree, node)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_optuna_begins_with_the_practitioners_configuration_and_learns(sampler: str) -> None:
    """The score is a hill over one parameter: what is tried late stands higher than what is tried early."""
    tree, method = began(WIDE), METHODS[sampler](context(max_depth=1, stages=60))
    for _ in range(60):
        expansion = method.ask(tree)
        assert expansion is not None
        node = Node(tree.next_id(), "0000", 1, expansion.hparams, 1, None, {}, expansion.memo)
        tree.add(node)
        end(tree, node, 1 - abs(WIDE["rate"].position(expansion.hparams["rate"]) - 0.9))
    scores = [node.score or 0.0 for node in tree.stages()]
    assert tree["0001"].hparams == WIDE.defaults()
    assert sum(scores[-20:]) / 20 > sum(scores[1:21]) / 20 + 0.05
