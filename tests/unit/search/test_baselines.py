"""The baselines: each decides as published, alike after a restart, and stays within its limits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.evidence.evidence import Choice
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.agent_chain import AgentChain
from llmzero.search.methods.asha import Asha, AshaSettings, rung_depths
from llmzero.search.methods.base import Expansion, MethodContext, SearchMethod
from llmzero.search.methods.configurations import random_configuration
from llmzero.search.methods.fixed import Fixed, FixedSettings
from llmzero.search.methods.greedy import Greedy
from llmzero.search.methods.grid import Grid, GridSettings, spread
from llmzero.search.methods.optuna_search import OptunaSearch
from llmzero.search.methods.optuna_settings import OptunaSettings
from llmzero.search.methods.pbt import Pbt, PbtSettings, nearby, perturbed
from llmzero.search.methods.practitioner import Practitioner
from llmzero.search.methods.random_search import RandomSearch, RandomSearchSettings
from llmzero.search.methods.tree_search import TreeSearch, TreeSearchSettings
from llmzero.tree.tree import Node, Tree

WIDE = Catalogue.from_config(
    {
        "rate": {
            "group": "regularization",
            "kind": "float",
            "low": 0.01,
            "high": 1.0,
            "scale": "log",
            "default": 0.1,
        },
        "size": {"group": "capacity", "kind": "int", "choices": [4, 8, 16], "default": 8},
    }
)
SMALL = Catalogue.from_config(
    {"kind": {"group": "capacity", "kind": "choice", "choices": ["a", "b", "c"], "default": "a"}}
)
METHODS: dict[str, Callable[[MethodContext], SearchMethod]] = {
    "practitioner": Practitioner,
    "random": lambda context: RandomSearch(RandomSearchSettings(), context),
    "random_schedule": lambda context: RandomSearch(RandomSearchSettings(schedules=True), context),
    "grid": lambda context: Grid(GridSettings(), context),
    "fixed": lambda context: Fixed(FixedSettings(), context),
    "asha": lambda context: Asha(AshaSettings(), context),
    "pbt": lambda context: Pbt(PbtSettings(), context),
    "tpe": lambda context: OptunaSearch(OptunaSettings("tpe", 2), context),
    "cmaes": lambda context: OptunaSearch(OptunaSettings("cmaes", 1), context),
    "greedy": Greedy,
    "chain": AgentChain,
    "llmzero": lambda context: TreeSearch(TreeSearchSettings(), context),
    "paper": lambda context: TreeSearch(TreeSearchSettings("uct", 3, 0.2, 0.0, 0.0, backup="mean"), context),
}


def context(
    catalogue: Catalogue = WIDE, max_depth: int = 4, stages: int | None = 24, workers: int = 1
) -> MethodContext:
    def propose(tree: Tree, node_id: str, choice: Choice) -> Proposal:
        rng, parent = random.Random(len(tree)), tree[node_id].hparams
        name = rng.choice(list(catalogue))
        return Proposal(
            "test", (), "", catalogue.changes(parent, parent | {name: catalogue[name].sample(rng)})
        )

    return MethodContext(catalogue, propose, max_depth, 0, stages=stages, workers=workers)


def began(catalogue: Catalogue) -> Tree:
    tree = Tree()
    tree.add(Node("0000", None, 0, catalogue.defaults(), 0, None, {}))
    end(tree, tree.root)
    return tree


def end(
    tree: Tree, node: Node, score: float | None = None, *, failed: bool = False, stopped: bool = False
) -> None:
    """End a stage with a score drawn from its path, or as a failure."""
    drawn = random.Random(str([above.hparams for above in tree.path(node.node_id)])).random()
    value = None if failed else drawn if score is None else score
    points = [] if value is None else [ValidationPoint(1, 1, value, 0.01, 100, 0.0)]
    checkpoint = None if value is None else Path("c")
    state: Literal["failed", "stopped", "completed"] = (
        "failed" if failed else "stopped" if stopped else "completed"
    )
    tree.finish(
        node.node_id, StageResult(state, points, 1, value, checkpoint, 1.0, 1.0, last_checkpoint=checkpoint)
    )


def add(tree: Tree, expansion: Expansion | None) -> Node:
    """Create the stage that a method asks for."""
    assert expansion is not None
    parent = tree[expansion.parent_id]
    assert parent.usable
    proposal = expansion.proposal.to_dict()
    node = Node(
        tree.next_id(),
        parent.node_id,
        parent.depth + 1,
        expansion.hparams,
        1,
        None,
        proposal,
        json.loads(json.dumps(expansion.memo)),
    )
    tree.add(node)
    return node


def grow(
    method: SearchMethod,
    tree: Tree,
    stages: int,
    workers: int = 1,
    failures: float = 0.0,
    check: Callable[[Expansion | None, int], None] = lambda expansion, running: None,
) -> Tree:
    """Let a method grow a tree to `stages` stages, which end in random order; it may end sooner.

    `check` gets each expansion and the number of running stages.
    """
    rng, running = random.Random(1), [node for node in tree if not node.final]
    while len(tree) <= stages or running:
        expansion = None
        if len(running) < workers and len(tree) <= stages:
            expansion = method.ask(tree)
            check(expansion, len(running))
        if expansion is not None:
            running.append(add(tree, expansion))
        elif running:
            node = running.pop(rng.randrange(len(running)))
            end(tree, node, failed=rng.random() < failures)
            method.tell(tree, node)
        else:
            break
    return tree


@pytest.mark.parametrize("catalogue", [WIDE, SMALL], ids=["wide", "small"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_restarted_method_decides_as_an_uninterrupted_one_would(
    name: str, workers: int, catalogue: Catalogue
) -> None:
    """At every moment, with failed and running stages, a new method on the tree asks for the same stage."""
    search, tree = context(catalogue, workers=workers), began(catalogue)
    grow(
        METHODS[name](search),
        tree,
        24,
        workers,
        0.15,
        lambda expansion, _: same(expansion, METHODS[name](search).ask(tree)),
    )
    assert len(tree) > 3


def same(a: Expansion | None, b: Expansion | None) -> None:
    assert a == b


@pytest.mark.parametrize("failures", [0.0, 0.3])
@pytest.mark.parametrize(("max_depth", "stages"), [(4, 24), (1, 10), (3, None)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_stays_within_depth_and_catalogue(
    name: str, max_depth: int, stages: int | None, failures: float
) -> None:
    search = context(max_depth=max_depth, stages=stages)
    tree = grow(METHODS[name](search), began(WIDE), stages or 30, failures=failures)
    assert all(node.depth <= max_depth for node in tree)
    assert not [problem for node in tree for problem in WIDE.problems(node.hparams)]
    endless = name not in ("practitioner", "grid", "fixed") and not (
        name in ("llmzero", "paper") and max_depth == 1
    )
    assert len(tree) - 1 == (stages or 30) if endless else len(tree) > 1


@pytest.mark.parametrize("name", ["random", "random_schedule", "asha", "tpe", "cmaes", "chain"])
def test_several_workers_are_never_without_a_stage(name: str) -> None:
    def check(expansion: Expansion | None, running: int) -> None:
        assert expansion is not None

    assert (
        len(grow(METHODS[name](context(workers=3)), began(WIDE), 24, workers=3, failures=0.15, check=check))
        == 25
    )


@pytest.mark.parametrize("name", ["grid", "fixed", "pbt", "greedy"])
def test_several_workers_wait_only_where_the_method_leaves_nothing_to_do(name: str) -> None:
    """A grid at its end, a population's last members, greed with fewer good stages than workers."""
    idle = []
    grow(
        METHODS[name](context(workers=3)),
        began(WIDE),
        24,
        workers=3,
        check=lambda expansion, running: idle.append(expansion is None),
    )
    assert sum(idle[:2]) == (name == "greedy")
    assert idle.count(False) == 24


def chains(tree: Tree) -> list[list[Node]]:
    stages: dict[int, list[Node]] = {}
    for node in tree.stages():
        stages.setdefault(node.memo["chain"], []).append(node)
    return list(stages.values())


@pytest.mark.parametrize(("name", "constant"), [("random", True), ("random_schedule", False), ("grid", True)])
def test_a_chain_goes_on_from_its_own_last_stage_to_the_greatest_depth(name: str, constant: bool) -> None:
    tree = grow(METHODS[name](context()), began(WIDE), 12)
    for chain in chains(tree):
        assert [node.depth for node in chain] == [1, 2, 3, 4]
        assert all(b.parent_id == a.node_id for a, b in pairwise(chain))
        assert all(node.proposal["resume"] == "last" for node in chain)
        assert (len({str(node.hparams) for node in chain}) == 1) == constant


def test_a_grid_is_covered_once_and_unknown_names_are_refused() -> None:
    grid = Grid(GridSettings({"rate": 3, "size": 2}), context(max_depth=1, stages=None))
    tree = grow(grid, began(WIDE), 50)
    cells = {(node.hparams["rate"], node.hparams["size"]) for node in tree.stages()}
    assert len(cells) == len(tree) - 1 == 6
    with pytest.raises(
        UserError, match=r"search\.method\.parameters\.speed=3: unknown parameter; known: rate, size"
    ):
        Grid(GridSettings({"speed": 3}), context())


def play(method: SearchMethod, tree: Tree, scores: list[float | None]) -> list[Node]:
    """Let a method ask for one stage after another, with these scores; None is a stage that fails."""
    nodes = []
    for score in scores:
        nodes.append(add(tree, method.ask(tree)))
        end(tree, nodes[-1], score, failed=score is None)
    return nodes


def test_a_grid_takes_up_the_stages_there_are_and_keeps_its_cells_when_they_become_more(
    catalogue: Catalogue,
) -> None:
    expected = {6: {"learning_rate": 1}, 16: {"learning_rate": 3}, 36: {"learning_rate": 3, "kl_coef": 2}}
    expected |= {96: {"learning_rate": 2, "kl_coef": 2, "group_size": 2, "temperature": 2}}
    for stages, numbers in expected.items():
        assert Grid(GridSettings(), context(catalogue, 6, stages)).numbers == numbers
    assert Grid(GridSettings(), context(SMALL, 1, 50)).numbers == {"kind": 3}
    tree = grow(Grid(GridSettings(), context(stages=8)), began(WIDE), 5)
    grow(Grid(GridSettings(), context(stages=80)), tree, 80)
    assert {node.hparams["rate"] for node in tree.stages()} == {0.03162, 0.3162}
    assert len(tree) == 1 + 2 * 4


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_fixed_schedules_are_run_over_the_whole_length_the_practitioners_first(
    catalogue: Catalogue, depth: int
) -> None:
    settings = FixedSettings(staged_context=[8, 16, 32])
    tree, method = began(catalogue), Fixed(settings, context(catalogue, depth, None))
    expansions = []
    for _ in range(5 * depth):
        expansions.append(method.ask(tree))
        end(tree, add(tree, expansions[-1]))
    arms = [expansions[number * depth : (number + 1) * depth] for number in range(5)]
    shares = [(stage / depth, (stage + 1) / depth) for stage in range(depth)]
    for arm in arms:
        assert [stage.schedule for stage in arm if stage] == shares
        assert all(stage.proposal.resume == "last" for stage in arm if stage and stage.proposal)
    values = [[stage.hparams for stage in arm if stage] for arm in arms]
    assert values[0] == [catalogue.defaults()] * depth
    limits = [hparams["max_completion_length"] for hparams in values[1]]
    expected = {1: [8], 2: [8, 32], 4: [8, 16, 32, 32], 6: [8] + [16] * 2 + [32] * 3}
    assert limits == expected[depth]
    assert all(len({str(hparams) for hparams in arm}) == 1 for arm in values[2:])
    assert len({str(arm) for arm in values}) == 5


def test_arms_of_fixed_schedules_are_in_an_order_of_the_seed_each_once(catalogue: Catalogue) -> None:
    first, again, other = (
        Fixed(FixedSettings(), replace(context(catalogue), seed=seed)).arms for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first[0].stages[0] == other[0].stages[0] == catalogue.defaults()
    configurations = [{str(arm.stages[0]) for arm in arms} for arms in (first, other)]
    assert configurations[0] == configurations[1]
    assert len(configurations[0]) == len(first) == 5 * 5 * 4, "one cell is the practitioner's"
    assert {arm.stages[0]["lr_schedule"] for arm in first} == {"constant", "wsd", "cosine", "linear"}
    named = Fixed(FixedSettings({"learning_rate": 2, "kl_coef": 3}), context(catalogue)).arms
    assert len(named) == 7


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("stages", "arms"), [(4, 1), (11, 2), (12, 3)])
def test_no_arm_begins_that_the_budget_cannot_finish(
    catalogue: Catalogue, stages: int, arms: int, workers: int
) -> None:
    method = Fixed(FixedSettings(), context(catalogue, 4, stages, workers))
    tree = grow(method, began(catalogue), stages, workers=workers)
    assert len(tree.root.children) == arms
    assert len(tree) - 1 == 4 * arms
    few = Fixed(FixedSettings(arms=2), context(catalogue, 4, 24, workers))
    assert len(grow(few, began(catalogue), 24, workers=workers)) - 1 == 2 * 4
    failing = grow(Fixed(FixedSettings(), context(catalogue, 4, 12)), began(catalogue), 12, failures=1.0)
    assert len(failing.root.children) == 9, "what failed at once leaves room for others"
    with pytest.raises(UserError, match=r"max_depth=4: .* arms of so many stages, .* pays for 3; raise"):
        Fixed(FixedSettings(), context(catalogue, 4, 3, workers))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([8, 16], "must be three length limits"),
        ("8", "must be three length limits"),
        ([8, 16, 33], "max_completion_length=33: must be one of 8"),
    ],
)
def test_a_staged_context_that_cannot_be_is_refused(
    catalogue: Catalogue, limits: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Fixed(FixedSettings(staged_context=limits), context(catalogue))
    with pytest.raises(UserError, match="the catalogue has no max_completion_length"):
        Fixed(FixedSettings(staged_context=[8, 16, 32]), context())


def test_values_of_a_grid_are_the_middles_of_equal_parts_each_once(catalogue: Catalogue) -> None:
    for name, parameter in catalogue.items():
        for number in range(1, min(parameter.count or 8, 8) + 1):
            values = spread(parameter, number)
            assert values == [value for value in parameter.choices or sorted(values) if value in values]
            assert len(values) == number, name
            assert not [problem for value in values if (problem := parameter.problem(value))]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rate": 0}, r"parameters\.rate=0: must be at least 1"),
        ({"size": 4}, r"parameters\.size=4: must be from 1 to 3, its number of values"),
        (
            {},
            r"parameters=\{\}: has no parameter; name some with their numbers of values, "
            r"e\.g\. \{rate: 2\}, or give null",
        ),
    ],
)
def test_a_grid_that_cannot_be_is_refused(parameters: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Grid(GridSettings(parameters), context())


def test_random_configurations_are_not_repeated_and_a_small_catalogue_is_used_up() -> None:
    for name in ("random", "asha", "tpe", "cmaes"):
        tree = grow(METHODS[name](context(SMALL, 1)), began(SMALL), 24)
        assert sorted(node.hparams["kind"] for node in tree.stages()) == ["a", "b", "c"]
    pair = Catalogue.from_config(
        {
            name: {"group": "capacity", "kind": "int", "low": 1, "high": 12, "default": 1}
            for name in ("x", "y")
        }
    )
    tree = grow(RandomSearch(RandomSearchSettings(), context(pair, 1, None)), began(pair), 200)
    assert len({str(node.hparams) for node in tree.stages()}) == len(tree) - 1 == 144


def test_a_chain_that_failed_or_was_stopped_is_abandoned() -> None:
    tree, method = began(WIDE), RandomSearch(RandomSearchSettings(), context())
    first = add(tree, method.ask(tree))
    end(tree, first, 0.9, stopped=True)
    second = add(tree, method.ask(tree))
    end(tree, second, failed=True)
    assert [first.parent_id, second.parent_id, add(tree, method.ask(tree)).parent_id] == [
        "0000",
        "0000",
        "0000",
    ]


def test_the_practitioner_goes_on_after_an_early_stop_and_ends_with_a_failure() -> None:
    tree, method = began(WIDE), Practitioner(context())
    end(tree, add(tree, method.ask(tree)), 0.3, stopped=True)
    second = add(tree, method.ask(tree))
    assert (second.parent_id, second.hparams) == ("0001", WIDE.defaults())
    assert method.ask(tree) is None
    end(tree, second, failed=True)
    assert method.ask(tree) is None


def test_asha_promotes_the_best_third_of_a_rung_from_the_highest_rung_down() -> None:
    """Rungs of 1 and 3 stages below a depth of 6. Played by hand: scores on the left, chains on the right."""
    assert [rung_depths(3, depth) for depth in (1, 2, 3, 4, 6, 9, 10)] == [
        [],
        [1],
        [1],
        [1, 3],
        [1, 3],
        [1, 3],
        [1, 3, 9],
    ]
    assert rung_depths(2, 6) == [1, 2, 4]
    tree, method = began(WIDE), Asha(AshaSettings(), context(max_depth=6, stages=None))
    scores = {
        "0001": (0.3, 0),
        "0002": (0.9, 1),
        "0003": (0.5, 2),  # the rung has 3: its best goes on, over two stages
        "0004": (0.2, 1),
        "0005": (0.8, 1),
        "0006": (0.7, 3),
        "0007": (0.6, 4),
        "0008": (0.1, 5),  # 6: the best two, of which chain 3 is the one that waits
        "0009": (0.4, 3),
        "0010": (0.5, 3),
        "0011": (0.95, 6),  # 7: still two, and chain 6 is one of them now
        "0012": (0.9, 6),
        "0013": (0.99, 6),  # three chains have come to the second rung: its best goes on to the end
        "0014": (0.9, 6),
        "0015": (0.9, 6),
        "0016": (0.9, 6),
        "0017": (0.0, 7),
    }
    for node_id, (score, chain) in scores.items():
        node = add(tree, method.ask(tree))
        assert (node.node_id, node.memo["chain"]) == (node_id, chain)
        end(tree, node, score)
    assert tree["0013"].proposal["rationale"] == "Chain 6 trains on under its configuration."
    assert (
        tree["0014"].proposal["rationale"]
        == "Chain 6 (0.990) is among the best 1/3 of the 3 that came to stage 3: promoted."
    )


def test_asha_promotes_what_stands_last_and_never_what_failed() -> None:
    """Chain 3 is the best of four, and its later failure frees no rank; of six the best two are promoted."""
    tree, method = began(WIDE), Asha(AshaSettings(), context(max_depth=3, stages=None))
    nodes = play(method, tree, [None, None, None, 0.2, None, 0.1, 0.3, 0.5])
    assert [(node.parent_id, node.memo["chain"]) for node in nodes[:5]] == [
        ("0000", 0),
        ("0000", 1),
        ("0000", 2),
        ("0000", 3),
        ("0004", 3),
    ]
    assert [(node.parent_id, node.memo["chain"]) for node in nodes[5:]] == [
        ("0000", 4),
        ("0000", 5),
        ("0007", 5),
    ]


def test_pbt_replaces_the_worst_by_a_perturbed_copy_of_the_best() -> None:
    search = context(max_depth=3, stages=12)
    scores = [0.5, 0.9, 0.1, 0.4]
    tree = began(WIDE)
    method = Pbt(PbtSettings(), search)
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
    assert seen[2].proposal.rationale.startswith("Member 2 (0.100) copies member 1 (0.900) and perturbs")
    assert all(expansion.memo["size"] == 4 for expansion in seen.values())


def test_greedy_changes_the_best_stage_and_a_chain_the_last_one() -> None:
    for name in ("greedy", "chain"):
        tree, method = began(WIDE), METHODS[name](context())
        for _ in range(12):
            expansion = method.ask(tree)
            assert expansion is not None
            if len(tree) > 1 and name == "greedy":
                best = tree.best([n for n in tree if n.depth < 4])
                assert expansion.parent_id == best.node_id  # type: ignore[union-attr]
            if len(tree) > 1 and name == "chain":
                last = tree.since(len(tree) - 1)[0]
                assert expansion.parent_id == (last.node_id if last.depth < 4 else "0000")
            parent = tree[expansion.parent_id]
            node = Node(
                tree.next_id(),
                parent.node_id,
                parent.depth + 1,
                expansion.hparams,
                1,
                None,
                {},
                expansion.memo,
            )
            tree.add(node)
            end(tree, node)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_optuna_begins_with_the_practitioners_configuration_and_learns(sampler: str) -> None:
    """The score is a hill over one parameter: late configurations pass the 0.59 of random ones."""
    tree, method = began(WIDE), METHODS[sampler](context(max_depth=1, stages=60))
    for _ in range(60):
        expansion = method.ask(tree)
        assert expansion is not None
        node = Node(tree.next_id(), "0000", 1, expansion.hparams, 1, None, {}, expansion.memo)
        tree.add(node)
        end(tree, node, 1 - abs(WIDE["rate"].position(expansion.hparams["rate"]) - 0.9))
    scores = [node.score or 0.0 for node in tree.stages()]
    assert tree["0001"].hparams == WIDE.defaults()
    assert sum(scores[-20:]) / 20 > 0.75


def test_pbt_leaves_all_but_the_last_quantile_alone_and_looks_at_the_same_generation() -> None:
    """Four members; member 0 is ahead when member 3 ends its first stage, and is judged by its first."""
    tree, method = began(WIDE), Pbt(PbtSettings(), context(max_depth=3, stages=12, workers=4))
    members = [add(tree, method.ask(tree)) for _ in range(4)]
    for node, score in zip(members[:3], (0.6, 0.7, 0.5), strict=True):
        end(tree, node, score)
    ahead = add(tree, method.ask(tree))
    assert (ahead.memo["member"], ahead.parent_id) == (0, "0001")
    end(tree, ahead, 0.95)
    end(tree, members[3], 0.4)
    followers = {node.memo["member"]: node for node in (add(tree, method.ask(tree)) for _ in range(3))}
    assert {member: node.parent_id for member, node in followers.items()} == {1: "0002", 2: "0003", 3: "0002"}
    assert followers[3].hparams != tree["0002"].hparams


def test_a_member_whose_stage_failed_copies_one_of_the_best_or_begins_anew() -> None:
    tree, method = began(WIDE), Pbt(PbtSettings(), context(max_depth=2, stages=8))
    play(method, tree, [None])
    others = play(method, tree, [0.5, 0.9, 0.6])
    assert [node.depth for node in others] == [1, 1, 1]
    copy = add(tree, method.ask(tree))
    assert (copy.memo["member"], copy.parent_id) == (0, "0003")
    assert copy.proposal["rationale"].startswith("Member 0 (failed) copies member 2 (0.900) and perturbs")
    alone = Pbt(PbtSettings(population=4), context(max_depth=1, stages=8))
    nodes = play(alone, tree := began(WIDE), [None] * 4 + [0.5] * 4)
    assert [node.memo["member"] for node in nodes] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert nodes[4].hparams != nodes[0].hparams


def test_populations_are_of_the_size_that_the_budget_can_train_and_follow_one_another() -> None:
    sizes = {
        (12, 3, 1): 4,
        (3, 3, 1): 3,
        (60, 6, 1): 10,
        (60, 6, 16): 16,
        (10_000, 6, 1): 64,
        (None, 6, 1): 8,
    }
    for (stages, depth, workers), size in sizes.items():
        tree = began(WIDE)
        assert add(tree, Pbt(PbtSettings(), context(WIDE, depth, stages, workers)).ask(tree)).memo == {
            "population": 0,
            "size": size,
            "member": 0,
        }
    tree = grow(Pbt(PbtSettings(population=3), context(max_depth=2, stages=21)), began(WIDE), 21)
    assert [(node.memo["population"], node.depth) for node in tree.stages()] == [
        (p, d) for p in range(3) for d in (1, 1, 1, 2, 2, 2)
    ] + [(3, 1)] * 3


def test_a_perturbation_multiplies_numbers_moves_choices_by_one_and_stays_within_bounds(
    catalogue: Catalogue,
) -> None:
    rng = random.Random(0)
    for name, parameter in catalogue.items():
        for value in [parameter.sample(rng) for _ in range(20)]:
            moved = nearby(parameter, value, rng)
            assert parameter.problem(moved) is None, name
            if parameter.choices is not None:
                assert abs(parameter.choices.index(moved) - parameter.choices.index(value)) <= 1
            else:
                assert moved in [parameter.clamp(value * factor) for factor in (1.2, 0.8)]
    rates = [perturbed(WIDE, {"rate": 0.1, "size": 8}, 0.0, rng)["rate"] for _ in range(50)]
    assert set(rates) == {0.12, 0.08}
    assert len({perturbed(WIDE, {"rate": 0.1, "size": 8}, 1.0, rng)["rate"] for _ in range(50)}) == 50


def test_a_failed_stage_of_an_agents_chain_is_proposed_again_from_the_same_parent() -> None:
    tree, method = began(WIDE), AgentChain(context(max_depth=2))
    nodes = play(method, tree, [0.5, None, None, 0.6, None, 0.4])
    assert [node.parent_id for node in nodes] == ["0000", "0001", "0001", "0001", "0000", "0000"]


def test_a_trial_is_worth_the_best_score_of_its_chain_and_the_worst_of_all_where_it_failed() -> None:
    tree, method = began(WIDE), OptunaSearch(OptunaSettings("tpe", 2), context(max_depth=2))
    play(method, tree, [0.4, 0.3, None, 0.2, None])
    add(tree, method.ask(tree))
    trials = [(trial.state.name, trial.value) for trial in method._study.trials]
    assert trials == [("COMPLETE", 0.4), ("PRUNED", None), ("COMPLETE", 0.2), ("RUNNING", None)]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_optuna_stands_for_every_value_of_the_catalogue(
    catalogue: Catalogue, sampler: Literal["tpe", "cmaes"]
) -> None:
    method, rng = OptunaSearch(OptunaSettings(sampler, 1), context(catalogue)), random.Random(0)
    for hparams in [catalogue.defaults(), *(random_configuration(catalogue, rng) for _ in range(50))]:
        decoded = method._hparams(method._params(hparams))
        assert all(
            decoded[name] == pytest.approx(hparams[name], rel=1e-3)
            for name in catalogue
            if catalogue[name].choices is None
        )
        assert all(
            decoded[name] == hparams[name] for name in catalogue if catalogue[name].choices is not None
        )


def test_only_a_search_that_uses_optuna_imports_it_and_it_brings_no_deep_learning_library() -> None:
    others = [
        "agent_chain",
        "asha",
        "fixed",
        "greedy",
        "grid",
        "pbt",
        "practitioner",
        "random_search",
        "skill",
        "tree_search",
    ]
    modules = [
        "llmzero.config",
        "llmzero.search.session",
        *(f"llmzero.search.methods.{name}" for name in others),
    ]
    code = f"import sys, {', '.join(modules)}\n"
    code += "print([name for name in ('optuna', 'cmaes', 'numpy') if name in sys.modules])\n"
    code += "import llmzero.search.methods.optuna_search, cmaes\n"
    code += "print([name for name in ('torch', 'matplotlib', 'pandas') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["[]", "[]"]
