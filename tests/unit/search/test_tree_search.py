"""Tree search: the paper's rule on cases worked out by hand (c = 1.414, scores in [0, 1]), and both rules."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pytest

from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.evidence.evidence import Choice
from llmzero.evidence.gain_model import Curve
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext
from llmzero.search.methods.forecast import Forecast
from llmzero.search.methods.tree_search import TreeSearch, TreeSearchSettings
from llmzero.search.methods.uct import Uct, uct
from llmzero.tree.tree import Node, Tree

CATALOGUE = Catalogue.from_config(
    {"rate": {"group": "capacity", "kind": "float", "low": 0.0, "high": 1.0, "default": 0.5}}
)
PLAIN = {
    "selection": "uct",
    "k_max": 5,
    "backup": "mean",
    "fresh_start_fraction": 0.0,
    "descent_fraction": 0.0,
    "unchanged_fraction": 0.0,
}


def method(max_depth: int = 6, **settings: Any) -> TreeSearch:
    context = MethodContext(
        CATALOGUE, lambda *_: Proposal("test", (), "", {"rate": 0.1}), max_depth=max_depth, seed=0
    )
    return TreeSearch(TreeSearchSettings(**{**PLAIN, **settings}), context)


def chosen(search: TreeSearch, tree: Tree) -> str | None:
    """Return the node that the rule would expand."""
    search.catch_up(tree)
    return search.rule.choose(tree, random.Random(0), None)


def result(score: float | None, state: str = "completed") -> StageResult:
    points = [] if score is None else [ValidationPoint(5, 5, score, 0.01, 100, 0.1)]
    best_step, checkpoint = (5, Path("c")) if points else (None, None)
    return StageResult(state, points, best_step, score, checkpoint, 1.0, 1.0)  # type: ignore[arg-type]


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


# Node 0001 is looked at.
SCALE: list[tuple[str | None, float | None]] = [(None, 0.0), ("0000", 0.5)]


@pytest.mark.parametrize(
    ("rule", "promise"),
    [("forecast", "the best score that its path is forecast to reach"), ("uct", "its score")],
)
def test_an_agent_that_thinks_hears_why_a_stage_is_continued_and_which_others_could_be(
    rule: str, promise: str
) -> None:
    """Up to five of those that are open, the most promising first; a restarted method says the same."""
    tree = grow((None, 0.1), *[("0000", 0.2 + i / 100) for i in range(9)])
    full = add(tree, "0009", 0.9)  # at the greatest depth: not open
    for descent, why in (
        (0.0, "The search chose it among 9 that may be continued."),
        (1.0, "It ended last"),
    ):
        search = method(2, selection=rule, descent_fraction=descent)
        search.context = replace(search.context, thinks=True)
        if descent:
            add(tree, "0000", 0.15)
        expansion = search.ask(tree)
        assert expansion is not None and expansion.proposal is None
        assert expansion.why.startswith(why)
        promises = re.findall(r"(\d{4}) (\d\.\d{3})", expansion.why.partition(f"Of each, {promise}")[2])
        assert {name for name, _ in promises} - {expansion.parent_id} == set(expansion.others)
        told = [float(score) for name, score in promises if name != expansion.parent_id]
        assert len(told) == 5 and told == sorted(told, reverse=True)
        assert full.node_id not in expansion.others
        again = method(2, selection=rule, descent_fraction=descent)
        again.context = search.context
        assert again.ask(tree) == expansion


def below_half(children: list[tuple[float, int]]) -> Tree:
    """Return node 0001 (score 0.5) with children of these mean scores and visits."""
    tree = grow(*SCALE)
    for score, visits in children:
        first = add(tree, "0001", score)
        for _ in range(visits - 1):
            add(tree, first.node_id, score)
    return tree


def add(
    tree: Tree,
    parent: str,
    score: float | None,
    state: str = "completed",
    hparams: dict[str, Any] | None = None,
) -> Node:
    """Add a stage that has ended; one without a score failed."""
    node = Node(
        tree.next_id(),
        parent,
        tree[parent].depth + 1,
        hparams or {"rate": 0.1 + len(tree) / 1e6},
        25,
        None,
        {},
    )
    tree.add(node)
    tree.finish(node.node_id, result(score, state if score is not None else "failed"))
    return node


def choose_below(tree: Tree) -> str:
    """Return whether UCT, standing at node 0001, expands it or descends, and into which child."""
    rule = Uct(1.414, "mean", 0.0, 2)
    rule._normalised = lambda score: score  # type: ignore[method-assign]  # they are in [0, 1]
    for node in tree:
        rule.created(tree, node)
        rule.ended(tree, node)
        if node.parent_id is not None:  # the root cannot be expanded, so the search starts at 0001
            rule.opened(tree, node)
    choice = rule.choose(tree, random.Random(0), None)
    assert choice is not None
    path = [node.node_id for node in tree.path(choice)]
    return "expand" if choice == "0001" else path[2]


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
    assert chosen(method(k_max=2), tree) == "0001"
    assert chosen(method(k_max=3), tree) == "0000"
    for rule in ("uct", "forecast"):
        assert chosen(method(k_max=1, selection=rule), grow((None, 0.5), ("0000", None))) is None


def test_equal_scores_do_not_divide_by_zero() -> None:
    assert chosen(method(), grow((None, 0.3), ("0000", 0.3))) == "0001"
    assert chosen(method(selection="forecast"), grow((None, 0.3), ("0000", 0.3))) in ("0000", "0001")


@pytest.mark.parametrize("rule", ["uct", "forecast"])
def test_depth_is_bounded(rule: str) -> None:
    assert (
        chosen(method(k_max=1, max_depth=2, selection=rule), grow((None, 0.1), ("0000", 0.2), ("0001", 0.3)))
        is None
    )


@pytest.mark.parametrize("rule", ["uct", "forecast"])
def test_failures_make_a_branch_unattractive(rule: str) -> None:
    """Of two nodes of nearly equal scores the better one is chosen, with two failures below it the other."""
    tree = grow((None, 0.0), ("0000", 1.0), ("0000", 0.95))
    assert chosen(method(k_max=2, exploration=0.0, selection=rule), tree) == "0001"
    for _ in range(2):
        add(tree, "0001", None)
    assert chosen(method(k_max=3, exploration=0.0, selection=rule, c_uct=0.0), tree) == "0002"


def test_the_practitioner_comes_first_and_a_fifth_of_the_rest_are_fresh_starts() -> None:
    first = method().ask(grow((None, 0.1)))
    assert first is not None
    assert (first.parent_id, first.hparams, first.proposal.agent) == ("0000", {"rate": 0.5}, "practitioner")
    search, tree, starts = method(fresh_start_fraction=0.2, k_max=1), grow((None, 0.1), ("0000", 0.2)), 0
    for _ in range(400):
        expansion = search.ask(tree)
        assert expansion is not None
        starts += expansion.parent_id == "0000"
        add(tree, tree.best().node_id if tree.best().depth < 5 else "0001", 0.3)  # type: ignore[union-attr]
    assert 0.15 < starts / 400 < 0.25


def test_max_backup_follows_the_best_descendant() -> None:
    tree = grow((None, 0.0), ("0000", 0.5), ("0000", 0.6), ("0001", 1.0), ("0001", 0.0))
    for backup, quality in (("mean", 0.5), ("max", 1.0)):
        search = method(backup=backup)
        search.catch_up(tree)
        assert isinstance(search.rule, Uct)
        stats = search.rule._stats["0001"]
        assert search.rule._quality(stats, search.rule._value(stats)) == quality


def slow_uct(tree: Tree, opened: set[str], settings: dict[str, Any]) -> str | None:
    """UCT by walking over the whole tree: the rule as one would write it down."""
    scores = {node.node_id: node.score for node in tree if node.score is not None}
    low, high = min(scores.values()), max(scores.values())

    def normal(score: float) -> float:
        return (score - low) / (high - low) if high > low else 0.5

    def below(node_id: str) -> list[Node]:
        return [tree[node_id], *(n for child in tree[node_id].children for n in below(child))]

    def quality(node_id: str) -> float:
        values = [normal(n.score) for n in below(node_id) if n.score is not None]
        value = (max(values) if settings["backup"] == "max" else fmean(values)) if values else 0.0
        return value - 0.5 * (sum(n.state == "failed" for n in below(node_id)) >= 2)

    def is_open(node_id: str) -> bool:
        return any(n.node_id in opened for n in below(node_id))

    node_id = "0000"
    while is_open(node_id):
        n, children = len(below(node_id)), tree[node_id].children
        ranked = [
            (uct(quality(c), len(below(c)), math.log(n), settings["c_uct"]), -int(c), c)
            for c in children
            if is_open(c)
        ]
        virtual = uct(
            normal(tree[node_id].score or 0.0), n / (len(children) + 1), math.log(n), settings["c_uct"]
        )
        if node_id in opened and virtual > max((value for value, *_ in ranked), default=-math.inf):
            return node_id
        node_id = max(ranked)[2]
    return None


@pytest.mark.parametrize("backup", ["mean", "max"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_up_to_date_is_what_a_walk_over_the_tree_finds(
    backup: Literal["mean", "max"], seed: int
) -> None:
    """While random trees grow, with failures and running stages; a method that starts late agrees."""
    rng = random.Random(seed)
    settings = {"backup": backup, "c_uct": rng.choice([0.2, 1.414]), "k_max": 3}
    search, tree = method(max_depth=4, **settings), grow((None, 0.2))
    running: list[Node] = []
    for _ in range(80):
        choice = chosen(search, tree)
        fresh = method(max_depth=4, **settings)
        assert choice == chosen(fresh, tree)
        opened = {n.node_id for n in tree if n.usable and n.depth < 4 and len(n.children) < 3}
        assert search._open == fresh._open == opened
        if opened:
            assert choice == slow_uct(tree, opened, settings)
        if choice is not None and len(running) < 3:
            node = Node(tree.next_id(), choice, tree[choice].depth + 1, {"rate": rng.random()}, 25, None, {})
            tree.add(node)
            running.append(node)
        elif running:
            node = running.pop(rng.randrange(len(running)))
            tree.finish(
                node.node_id, result(None, "failed") if rng.random() < 0.2 else result(round(rng.random(), 2))
            )


# --- what forecasts and descents add ---


@pytest.mark.parametrize(
    ("climber_ends", "idler_ends", "choice"), [(0.8, 0.5, "climber"), (0.45, 0.75, "idler")]
)
def test_a_forecast_learns_whether_paths_that_move_go_on_moving(
    climber_ends: float, idler_ends: float, choice: str
) -> None:
    """Two ways to a score of 0.5: by a stage that gained much, and by one that gained little."""
    tree = grow((None, 0.0), ("0000", 0.1), ("0000", 0.45), ("0001", 0.5), ("0002", 0.5))
    for _ in range(8):
        add(tree, "0003", climber_ends)
        add(tree, "0004", idler_ends)
    leaves = {"climber": add(tree, "0001", 0.5), "idler": add(tree, "0002", 0.5)}
    rule = Forecast(3, 0.0, 0.5, 2)
    for node in tree:
        rule.ended(tree, node)
    for node in leaves.values():
        rule.opened(tree, node)
    assert rule.choose(tree, random.Random(0), None) == leaves[choice].node_id


def test_a_forecast_is_for_the_stages_that_are_left() -> None:
    """Every stage gains as the one before: a high node with small gains, a lower one with large gains."""
    rule, tree = (
        Forecast(6, 0.5, 0.5, 2),
        grow((None, 0.0), ("0000", 0.6), ("0000", 0.4), ("0001", 0.62), ("0002", 0.5)),
    )
    rule.model.draw = lambda *_: Curve((0.0, 0.0, 1.0), 0.0)  # type: ignore[method-assign]
    for node_id in ("0003", "0004"):
        rule.opened(tree, tree[node_id])
    assert [rule.choose(tree, random.Random(0), left) for left in (1, 4, None)] == ["0003", "0004", "0004"]
    rule.closed(tree, tree["0004"])
    assert rule.choose(tree, random.Random(0), None) == "0003"


def test_without_exploration_a_forecast_repeats_and_with_it_several_nodes_are_tried() -> None:
    tree = grow((None, 0.0), ("0000", 0.5), ("0000", 0.45), ("0000", 0.4), ("0001", 0.52))
    for exploration, several in ((0.0, False), (1.0, True)):
        search = method(selection="forecast", exploration=exploration)
        search.catch_up(tree)
        choices = {search.rule.choose(tree, random.Random(seed), None) for seed in range(50)}
        assert (len(choices) > 1) == several


def test_a_path_goes_on_from_the_stage_that_ended_last_unless_that_was_stopped_or_failed() -> None:
    descending = {"selection": "forecast", "descent_fraction": 1.0}
    tree = grow((None, 0.0), ("0000", 0.9), ("0000", 0.1))
    assert asked(method(**descending), tree).parent_id == "0002"
    for state, score in (("stopped", 0.05), ("failed", None)):
        add(tree, "0002", score, state)
        assert asked(method(**descending), tree).parent_id not in ("0002", tree.finished[-1].node_id)


def asked(search: TreeSearch, tree: Tree) -> Expansion:
    expansion = search.ask(tree)
    assert expansion is not None
    return expansion


def test_a_node_has_one_child_that_trains_on_unchanged() -> None:
    search, tree = method(unchanged_fraction=1.0, descent_fraction=1.0), grow((None, 0.0), ("0000", 0.3))
    first = asked(search, tree)
    assert (first.parent_id, first.hparams, first.proposal.changes) == ("0001", {"rate": 0.5}, {})
    add(tree, "0001", 0.1, hparams=first.hparams)
    again = [asked(method(unchanged_fraction=1.0), tree) for _ in range(3)]
    assert all(e.hparams != tree[e.parent_id].hparams for e in again if e.parent_id in ("0000", "0001"))


def test_a_language_model_says_itself_when_to_train_on_unchanged() -> None:
    search, tree = method(unchanged_fraction=1.0, descent_fraction=1.0), grow((None, 0.0), ("0000", 0.3))
    search.context = replace(search.context, thinks=True)
    assert asked(search, tree).proposal is None, "the driver asks it"


@pytest.mark.parametrize("rule", ["uct", "forecast"])
def test_every_configuration_of_a_small_catalogue_is_tried_once_below_every_node_and_then_the_search_is_over(
    rule: str,
) -> None:
    catalogue = Catalogue.from_config(
        {"kind": {"group": "capacity", "kind": "choice", "choices": ["a", "b", "c"], "default": "a"}}
    )

    def propose(tree: Tree, node_id: str, choice: Choice) -> Proposal:
        tried = {child.hparams["kind"] for child in tree.children(node_id)} | {tree[node_id].hparams["kind"]}
        return Proposal("test", (), "", {"kind": min(set("abc") - tried)})

    tree = Tree()
    tree.add(Node("0000", None, 0, catalogue.defaults(), 0, None, {}))
    tree.finish("0000", result(0.1))
    search = TreeSearch(TreeSearchSettings(rule), MethodContext(catalogue, propose, max_depth=2, seed=0))
    while (expansion := search.ask(tree)) is not None:
        add(tree, expansion.parent_id, 0.2, hparams=expansion.hparams)
    assert len(tree) == 1 + 3 + 9
    assert all(
        len({child.hparams["kind"] for child in tree.children(n.node_id)}) == 3 for n in tree if n.depth < 2
    )
