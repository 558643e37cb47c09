"""What several workers at once are held back from, on cases worked out by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import MethodContext
from llmzero.search.methods.pace import Pace
from llmzero.search.methods.tree_search import TreeSearch, TreeSearchSettings
from llmzero.tree.tree import Node, Tree

CATALOGUE = Catalogue.from_config(
    {"rate": {"group": "capacity", "kind": "float", "low": 0.0, "high": 1.0, "default": 0.5}}
)


def search(stages: int | None, workers: int, selection: str = "forecast") -> TreeSearch:
    def propose(tree: Tree, *_: object) -> Proposal:
        return Proposal("test", (), "", {"rate": random.Random(len(tree)).random()})

    context = MethodContext(CATALOGUE, propose, max_depth=6, seed=0, stages=stages, workers=workers)
    return TreeSearch(TreeSearchSettings(selection, unchanged_fraction=0.0), context)


def begin(tree: Tree, parent_id: str | None, **more: object) -> Node:
    depth = tree[parent_id].depth + 1 if parent_id else 0
    rate = random.Random(len(tree)).random()
    node = Node(tree.next_id(), parent_id, depth, {"rate": rate}, 16, None, {}, **more)  # type: ignore[arg-type]
    tree.add(node)
    return node


def end(tree: Tree, node: Node, score: float) -> Node:
    points = [ValidationPoint(16, 16, score, 0.01, 100, 0.1)]
    tree.finish(node.node_id, StageResult("completed", points, 16, score, Path("c"), 1.0, 1.0))
    return node


def grown(method: TreeSearch, workers: int, stages: int) -> Tree:
    """Return the tree of a whole search whose workers end in random order, with random scores."""
    rng, tree, running = random.Random(1), Tree(), list[Node]()
    end(tree, begin(tree, None), 0.1)
    while True:
        while len(running) < workers and len(tree) <= stages:
            expansion = method.ask(tree)
            if expansion is None:
                break
            running.append(begin(tree, expansion.parent_id))
        if not running:
            return tree
        node = running.pop(rng.randrange(len(running)))
        assert node.parent_id is not None
        end(tree, node, (tree[node.parent_id].score or 0.0) + rng.gauss(0.05, 0.05))
        method.tell(tree, node)


def test_a_stage_that_ended_early_waits_for_its_siblings_until_one_at_most_is_expected_before_it() -> None:
    tree, method = Tree(), search(None, 8)
    end(tree, begin(tree, None), 0.1)
    siblings = [begin(tree, "0000") for _ in range(8)]
    waits = {}
    for number, node in enumerate(siblings, start=1):
        end(tree, node, 0.5 - number / 100)  # each ranks behind those before it
        method.catch_up(tree)
        ended = siblings[:number]
        waits[number] = [each.node_id for each in ended if not method.rule.may_begin(tree, each, None)]
    # Of e that ended with p under way, the r-th goes on where r p <= e + 1.
    assert waits[3] == ["0001", "0002", "0003"], "5 <= 4 does not hold for the first"
    assert waits[4] == ["0002", "0003", "0004"], "4 <= 5 holds for the first, 8 <= 5 not for the second"
    assert waits[6] == ["0004", "0005", "0006"], "with two under way, 2 r <= 7"
    assert waits[8] == []


def test_stages_of_other_depths_are_not_waited_for_nor_those_that_were_withdrawn() -> None:
    tree, pace = Tree(), Pace(6)
    end(tree, begin(tree, None), 0.1)
    child, asked = begin(tree, "0000"), begin(tree, "0000", asked={"parent_id": "0000"}, state="proposing")
    for node in (child, asked):
        pace.created(node)
    assert pace.outranked(tree) == {1: 0.5}
    tree.withdraw(asked.node_id, "closed", closes=False)
    assert pace.outranked(tree) == {1: 1.0}
    end(tree, child, 0.2)
    pace.ended(child)
    pace.created(begin(tree, child.node_id))
    assert pace.outranked(tree) == {2: 1.0}


@pytest.mark.parametrize(
    ("others", "depth", "left", "affordable"),
    [
        (0, 0, 1, True),  # nothing is under way: one worker chooses as it likes
        (3, 0, 20, False),  # four paths of which five levels each are to follow this one
        (3, 0, 21, True),
        (3, 4, 4, False),
        (3, 4, 5, True),
        (63, 5, 1, True),  # the last level of a path
        (63, 0, None, True),  # no limit
    ],
)
def test_a_path_is_begun_where_the_stages_left_pay_for_its_levels_and_those_of_all_under_way(
    others: int, depth: int, left: int | None, affordable: bool
) -> None:
    tree, pace = Tree(), Pace(6)
    end(tree, begin(tree, None), 0.1)
    for _ in range(others):
        pace.created(begin(tree, "0000"))
    assert pace.affordable(depth, left) == affordable


def test_wide_searches_reach_the_ends_of_paths_and_spend_their_budget() -> None:
    for workers, stages in ((16, 96), (64, 192)):
        tree = grown(search(stages, workers), workers, stages)
        assert len(tree) == stages + 1
        assert sum(node.depth == 1 for node in tree) <= stages / 5, "so many paths can be begun at once"
        assert sum(node.depth == 6 for node in tree) >= 4


def test_a_search_that_begins_anew_on_its_log_decides_alike_also_that_it_waits() -> None:
    method, tree, running, rng = search(96, 16), Tree(), list[Node](), random.Random(2)
    end(tree, begin(tree, None), 0.1)
    waited = 0
    for _ in range(150):
        expansion = method.ask(tree) if len(running) < 16 and len(tree) <= 96 else None
        if len(running) < 16 and len(tree) <= 96:
            again = search(96, 16).ask(tree)
            assert (again and again.parent_id) == (expansion and expansion.parent_id)
            waited += expansion is None
        if expansion is not None:
            running.append(begin(tree, expansion.parent_id))
        elif running:
            node = running.pop(rng.randrange(len(running)))
            method.tell(tree, end(tree, node, rng.random()))
    assert waited > 5
