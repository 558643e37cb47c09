"""The baselines while stages fail, several run side by side, and the driver is killed and started again."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from llmzero.search.methods.asha import Asha, AshaSettings
from llmzero.search.methods.base import Expansion, MethodContext, SearchMethod
from llmzero.search.methods.greedy import Greedy
from llmzero.search.methods.pbt import Pbt, PbtSettings
from llmzero.tree.tree import Node, Tree
from tests.unit.search.test_baselines import METHODS, SMALL, WIDE, began, context, end


def begin(tree: Tree, expansion: Expansion | None) -> Node:
    """Start a stage as the driver does, after a look at what was asked for."""
    assert expansion is not None
    parent = tree[expansion.parent_id]
    assert parent.usable
    proposal = expansion.proposal
    assert proposal.changes == {
        name: value for name, value in expansion.hparams.items() if parent.hparams[name] != value
    }
    assert proposal.rationale or proposal.agent == "test"
    node = Node(
        tree.next_id(),
        parent.node_id,
        parent.depth + 1,
        expansion.hparams,
        1,
        None,
        proposal.to_dict(),
        dict(expansion.memo),
    )
    tree.add(node)
    return node


class Growth:
    """A search whose stages end in random order and fail now and then."""

    def __init__(self, name: str, method_context: MethodContext, failures: float = 0.0) -> None:
        self.name, self.context, self.failures = name, method_context, failures
        self.tree, self.method = began(method_context.catalogue), METHODS[name](method_context)
        self.running: list[Node] = []
        self.rng = random.Random(1)

    def step(self, stages: int) -> bool:
        """Begin a stage, else end one; return whether either was possible."""
        free = len(self.running) < self.context.workers and len(self.tree) <= stages
        expansion = self.method.ask(self.tree) if free else None
        if expansion is not None:
            self.running.append(begin(self.tree, expansion))
        elif self.running:
            end(
                self.tree,
                self.running.pop(self.rng.randrange(len(self.running))),
                failed=self.rng.random() < self.failures,
            )
        else:
            return False
        return True

    def to(self, stages: int) -> Tree:
        while self.step(stages):
            pass
        return self.tree

    def restart(self) -> None:
        self.method = METHODS[self.name](self.context)


def decisions(tree: Tree) -> list[tuple[Any, ...]]:
    return [(node.node_id, node.parent_id, node.hparams, node.memo, node.proposal) for node in tree]


@pytest.mark.parametrize("catalogue", [WIDE, SMALL], ids=["wide", "small"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_made_anew_at_every_moment_decides_as_one_that_lives_on(
    name: str, workers: int, catalogue: Any
) -> None:
    lives, dies = (Growth(name, context(catalogue, workers=workers), failures=0.15) for _ in range(2))
    while dies.step(24):
        dies.restart()
    assert decisions(dies.tree) == decisions(lives.to(24))
    assert len(dies.tree) > 1


@pytest.mark.parametrize("workers", [1, 6])
@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_a_study_made_anew_from_the_tree_knows_the_generations_before(name: str, workers: int) -> None:
    """Over several generations of CMA-ES, each of which builds on the ones before it."""
    lives, dies = (
        Growth(name, context(max_depth=1, stages=48, workers=workers), failures=0.1) for _ in range(2)
    )
    while dies.step(48):
        if len(dies.tree) % 5 == 0:
            dies.restart()
    assert decisions(dies.tree) == decisions(lives.to(48))


@pytest.mark.parametrize("max_depth", [1, 3])
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"llmzero", "paper"}))
def test_a_catalogue_of_three_configurations_is_searched_to_an_end_or_to_the_budget(
    name: str, max_depth: int
) -> None:
    tree = Growth(name, context(SMALL, max_depth=max_depth, stages=30)).to(30)
    assert len(tree) > (1 if name == "practitioner" else 3)
    if name in ("random", "grid", "fixed", "tpe", "cmaes"):
        assert len(tree) - 1 == 3 * max_depth
        assert {node.hparams["kind"] for node in tree.stages()} == set("abc")


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"llmzero", "paper"}))
def test_where_every_stage_fails_nothing_is_built_on(name: str) -> None:
    tree = Growth(name, context(), failures=1.0).to(20)
    assert {node.parent_id for node in tree.stages()} == {"0000"}
    assert len(tree) - 1 == {"practitioner": 1, **dict.fromkeys(("grid", "fixed"), len(tree) - 1)}.get(
        name, 20
    )


def test_asha_trains_the_best_third_of_nine_to_three_stages_and_the_best_of_those_further() -> None:
    tree, method = began(WIDE), Asha(AshaSettings(), context(max_depth=6, stages=None))
    scores = iter([0.4, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.5])
    for _ in range(9 + 3 * 2 + 2):
        node = begin(tree, method.ask(tree))
        end(tree, node, next(scores) if node.depth == 1 else tree[node.parent_id or ""].score)
    deepest = {
        first.score: len([node for node in tree.stages() if node.memo["chain"] == first.memo["chain"]])
        for first in tree.children("0000")
    }
    assert deepest == {0.9: 5, 0.8: 3, 0.7: 3, **dict.fromkeys([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1)}


def test_asha_counts_chains_that_failed_as_the_worst_of_their_rung() -> None:
    tree, method = began(WIDE), Asha(AshaSettings(), context())
    parents = []
    for score in (0.5, None, None, 0.4):
        node = begin(tree, method.ask(tree))
        parents.append(node.parent_id)
        end(tree, node, score, failed=score is None)
    assert parents == ["0000", "0000", "0000", "0001"]


def generation(tree: Tree, method: SearchMethod, scores: list[float | None]) -> list[Node]:
    """Train a population for one stage side by side."""
    nodes = [begin(tree, method.ask(tree)) for _ in scores]
    for node, score in zip(nodes, scores, strict=True):
        end(tree, node, score, failed=score is None)
    return nodes


def test_in_pbt_the_lowest_quarter_copies_the_highest() -> None:
    tree, method = began(WIDE), Pbt(PbtSettings(population=8), context(max_depth=3, workers=8))
    first = generation(tree, method, [0.5, 0.9, 0.1, 0.4, 0.3, 0.8, 0.2, 0.6])
    assert first[0].hparams == WIDE.defaults()
    for before, node in zip(first, [begin(tree, method.ask(tree)) for _ in first], strict=True):
        assert node.memo["member"] == before.memo["member"]
        assert node.proposal["resume"] == "last"
        if before.score in (0.1, 0.2):
            assert tree[node.parent_id or ""].score in (0.8, 0.9)
        else:
            assert (node.parent_id, node.hparams) == (before.node_id, before.hparams)


def test_greedy_gives_further_workers_the_next_best_stages() -> None:
    tree = began(WIDE)
    tree.root.result = replace(tree.root.result, best_score=0.0)  # type: ignore[type-var]
    method = Greedy(context(workers=3))
    end(tree, begin(tree, method.ask(tree)), 0.5)
    assert [begin(tree, method.ask(tree)).parent_id for _ in range(2)] == ["0001", "0000"]
    assert method.ask(tree) is None
    end(tree, tree["0002"], 0.1)
    assert begin(tree, method.ask(tree)).parent_id == "0001"
