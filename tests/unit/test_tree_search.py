"""The paper's selection rule on the cases worked out by hand, with c = 1.414 and scores in [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.base import Proposal
from llmzero.hparams import Catalogue
from llmzero.search.methods.base import MethodContext
from llmzero.search.methods.tree_search import TreeSearch
from llmzero.search.tree import Node, Tree
from llmzero.stage import StageResult, ValidationPoint

CATALOGUE = Catalogue.from_config({"rate": {"group": "capacity", "kind": "float", "low": 0.0, "high": 1.0, "default": 0.5}})


def method(**settings: Any) -> TreeSearch:
    context = MethodContext(CATALOGUE, lambda tree, node: Proposal("test", (), "", {"rate": 0.1}), max_depth=6, seed=0)
    return TreeSearch(context, **{"k_max": 5, "backup": "mean", "fresh_start_fraction": 0.0, **settings})


def result(score: float | None, state: str = "completed") -> StageResult:
    points = [] if score is None else [ValidationPoint(5, 5, score, 0.01, 100, 0.1)]
    return StageResult(state, points, 5 if points else None, score, Path("c") if points else None, 1.0, 1.0)  # type: ignore[arg-type]


def grow(*shape: tuple[str | None, float | None]) -> Tree:
    """Return a tree from (parent id, score) pairs; a score of None is a stage that still runs."""
    tree = Tree()
    for parent, score in shape:
        depth = tree[parent].depth + 1 if parent else 0
        node = Node(tree.next_id(), parent, depth, {"rate": 0.5}, 25, None, {})
        tree.add(node)
        if score is not None:
            tree.finish(node.node_id, result(score))
    return tree


# Two far-away leaves hold the normalisation at [0, 1] without being children of node 0001, the node that is looked at.
SCALE: list[tuple[str | None, float | None]] = [(None, 0.0), ("0000", 0.5)]


def below_half(children: list[tuple[float, int]]) -> Tree:
    """Return node 0001 (score 0.5) with children of the given mean score and visits, and a leaf of score 1 elsewhere."""
    tree = grow(*SCALE)
    for score, visits in children:
        first = Node(tree.next_id(), "0001", 2, {"rate": 0.5}, 25, None, {})
        tree.add(first)
        tree.finish(first.node_id, result(score))
        for _ in range(visits - 1):
            node = Node(tree.next_id(), first.node_id, 3, {"rate": 0.5}, 25, None, {})
            tree.add(node)
            tree.finish(node.node_id, result(score))
    return tree


def choose_below(tree: Tree) -> str:
    """Return whether the rule, standing at node 0001, expands it or descends, and into which child."""
    rule = method()
    normal = {node.node_id: node.score for node in tree if node.score is not None}
    rule._normalised = lambda tree: normal  # type: ignore[method-assign, assignment]  # scores are in [0, 1] already
    tree.nodes["0000"].children = ["0001"]
    rule.k_max = 5
    tree.nodes["0000"].result = None  # the root cannot be expanded, so the search starts at 0001
    chosen = rule.select(tree)
    assert chosen is not None
    path = [node.node_id for node in tree.path(chosen)]
    return "expand" if chosen == "0001" else path[2]


@pytest.mark.parametrize(
    ("children", "choice"),
    [
        ([], "expand"),
        ([(0.4, 1)], "expand"),
        ([(0.6, 1)], "0002"),
        ([(0.6, 3)], "expand"),
        ([(0.6, 4), (0.4, 1)], "0006"),
    ],
)
def test_the_worked_examples(children: list[tuple[float, int]], choice: str) -> None:
    assert choose_below(below_half(children)) == choice


def test_with_equal_visits_it_descends_if_and_only_if_the_best_child_is_as_good_as_its_parent() -> None:
    assert choose_below(below_half([(0.5, 1)])) == "0002"
    assert choose_below(below_half([(0.49, 1)])) == "expand"


def test_a_full_node_is_not_expanded_and_a_running_child_is_no_place_to_descend() -> None:
    tree = grow((None, 0.5), ("0000", 0.1), ("0000", None))
    assert method(k_max=2).select(tree) == "0001"
    assert method(k_max=3).select(tree) == "0000"
    assert method(k_max=1).select(grow((None, 0.5), ("0000", None))) is None


def test_equal_scores_do_not_divide_by_zero() -> None:
    assert method().select(grow((None, 0.3), ("0000", 0.3))) == "0001"


def test_depth_is_bounded() -> None:
    rule = method(k_max=1)
    rule.context = MethodContext(CATALOGUE, rule.context.propose, max_depth=2, seed=0)
    assert rule.select(grow((None, 0.1), ("0000", 0.2), ("0001", 0.3))) is None


def test_failures_make_a_branch_unattractive() -> None:
    tree = grow((None, 0.0), ("0000", 1.0), ("0000", 0.9))
    for _ in range(2):
        node = Node(tree.next_id(), "0001", 2, {"rate": 0.5}, 25, None, {})
        tree.add(node)
        tree.finish(node.node_id, result(None, "failed"))
    assert method(k_max=2).select(tree) == "0002"


def test_the_practitioner_comes_first_and_a_fifth_of_the_rest_are_fresh_starts() -> None:
    rule = method(fresh_start_fraction=0.2, k_max=1)
    tree = grow((None, 0.1))
    first = rule.ask(tree)
    assert first is not None
    assert (first.parent_id, first.hparams, first.proposal.agent) == ("0000", {"rate": 0.5}, "practitioner")
    tree = grow((None, 0.1), *[("0000", 0.2)] * 1000)
    draws = [rule._fresh_start(grow((None, 0.1), *[("0000", 0.2)] * n)) for n in range(1, 400)]
    assert 0.15 < sum(draws) / len(draws) < 0.25


def test_max_backup_follows_the_best_descendant() -> None:
    shape: list[tuple[str | None, float | None]] = [(None, 0.0), ("0000", 0.5), ("0000", 0.6), ("0001", 1.0), ("0001", 0.0)]
    tree = grow(*shape)
    _, mean = method()._statistics(tree)
    _, best = method(backup="max")._statistics(tree)
    assert (mean["0001"], best["0001"]) == (0.5, 1.0)
