"""What a tree search makes of answers beyond changes: other parents, closed stages, alternatives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.rules import RandomAgent
from llmzero.cli import composed
from llmzero.core.errors import UserError
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.proposal import Alternative, Expected, Proposal
from llmzero.search.methods.base import FreeMethod, MethodContext, expand
from llmzero.search.methods.greedy import Greedy
from llmzero.search.methods.tree_search import TreeSearch
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from tests.unit.search.test_tree_search import CATALOGUE, grow, method, result

EXPECTED = Expected(0.5, 0.6, {}, "It rises.", 0.4, 0.6, 0.3, 0.5)


def ask_below(tree: Tree, parent: str) -> Node:
    """Add a stage that is being proposed."""
    node = Node(tree.next_id(), parent, tree[parent].depth + 1, {}, 25, None, {}, state="proposing")
    node.asked = {"parent_id": parent}
    tree.add(node)
    return node


def end(tree: Tree, node: Node, score: float, rate: float, **proposal: Any) -> None:
    node.hparams, node.state, node.proposal = {"rate": rate}, "queued", proposal
    tree.finish(node.node_id, result(score))


@pytest.mark.parametrize("selection", ["uct", "forecast"])
def test_a_restarted_method_knows_what_an_uninterrupted_one_does(selection: str) -> None:
    tree = grow((None, 0.0), ("0000", 0.5), ("0000", 0.4))
    live = method(selection=selection, k_max=2)
    assert isinstance(live, FreeMethod)
    assert not isinstance(Greedy, FreeMethod)
    assert set(live.open_nodes(tree)) == {"0001", "0002"}, "the base model has two children"
    moved = ask_below(tree, "0001")
    live.catch_up(tree)
    tree.move(moved, "0002")
    assert (tree["0001"].children, tree["0002"].children) == ([], ["0003"])
    assert_alike(live, method(selection=selection, k_max=2), tree)
    end(tree, moved, 0.6, 0.2)
    assert_alike(live, method(selection=selection, k_max=2), tree)
    if selection == "uct":
        visits = {name: stats.visits for name, stats in live.rule._stats.items()}  # type: ignore[attr-defined]
        assert visits == {"0000": 4, "0001": 1, "0002": 2, "0003": 1}
    gone = ask_below(tree, "0001")
    live.catch_up(tree)
    tree.withdraw(gone.node_id, "It fell.", closes=True)
    assert_alike(live, method(selection=selection, k_max=2), tree)
    assert set(live.open_nodes(tree)) == {"0002", "0003"}
    assert tree.planned == 3


class Wishing:
    """An agent from outside that answers at once, and wishes for something in every answer."""

    def __init__(self, **wishes: Any) -> None:
        self.wishes = wishes

    def propose(self, evidence: Evidence) -> Proposal:
        return replace(RandomAgent().propose(evidence), **self.wishes)


def wishing(directory: Path, **wishes: Any) -> Session:
    overrides = ["experiment=simulated", "search=greedy", "search.workers=1", "search.stage_steps=10"]
    overrides += ["budget.stages=6", "stopper=none", f"search_dir={directory}"]
    session = Session.from_config(composed("search", SearchConfig, overrides))
    session.proposer = Wishing(**wishes)
    return session


@pytest.mark.parametrize(
    ("length", "steps"), [(9, [10, 20, 20, 10]), (0.01, [10, *[5] * 9])]
)  # no stage begins of which half would not fit
def test_an_agent_from_outside_sizes_stages_within_bounds_and_budget(
    tmp_path: Path, length: float, steps: list[int]
) -> None:
    wishing(tmp_path, length=length).run()
    tree = EventStore(tmp_path / "tree.jsonl").tree
    assert [node.steps for node in tree.stages()] == steps
    assert f"length={length:g}: taken for" in tree.stages()[1].proposal["notes"][-1]
    assert tree.planned == sum(steps) / 10


@pytest.mark.parametrize("wish", [{"action": "close"}, {"parent": "0000"}])
def test_an_agent_from_outside_may_not_answer_what_was_not_offered(
    tmp_path: Path, wish: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=r"below 0001, where evidence\.standing\.others is \[\]"):
        wishing(tmp_path, **wish).run()


@pytest.mark.parametrize("selection", ["uct", "forecast"])
def test_children_that_agents_had_grow_elsewhere_count_once_they_have_ended(selection: str) -> None:
    """So no parent gets more children than allowed because agents like it best."""
    tree = grow((None, 0.0), ("0000", 0.5), ("0000", 0.4))
    live = method(selection=selection, k_max=2)
    for _ in range(2):
        assert "0002" in live.open_nodes(tree)
        moved = ask_below(tree, "0001")
        live.catch_up(tree)
        tree.move(moved, "0002")
        end(tree, moved, 0.6, 0.2)
    assert set(live.open_nodes(tree)) == {"0003", "0004"}
    assert_alike(live, method(selection=selection, k_max=2), tree)


def test_a_stage_is_closed_without_a_reason_too() -> None:
    tree = grow((None, 0.0), ("0000", 0.5))
    tree.withdraw(ask_below(tree, "0001").node_id, "", closes=True)
    assert tree["0001"].closed == "No reason was given."
    assert set(method().open_nodes(tree)) == {"0000"}


def assert_alike(live: TreeSearch, fresh: TreeSearch, tree: Tree) -> None:
    """Check that both know the same of a tree, which only one of them saw grow."""
    assert set(live.open_nodes(tree)) == set(fresh.open_nodes(tree))
    for name in ("_stats", "_open", "_failures"):
        assert getattr(live.rule, name, None) == getattr(fresh.rule, name, None)


def thinking(tree: Tree) -> MethodContext:
    def evidence(tree: Tree, node_id: str) -> Evidence:
        views = [
            StageView(node.node_id, node.depth, node.state, node.hparams, {}, parent_id=node.parent_id)
            for node in tree
        ]
        return Evidence(
            stage=next(view for view in views if view.node_id == node_id),
            steps=25,
            catalogue=CATALOGUE,
            metric_catalogue={},
            children=[view for view in views if view.parent_id == node_id],
            history=views[1:],
        )

    def never(*_: Any) -> Proposal:
        raise AssertionError("nobody is asked here")

    return MethodContext(CATALOGUE, never, 3, 0, evidence=evidence, thinks=True)


def answer(rate: float = 0.8, **other: Any) -> dict[str, Any]:
    second = replace(Alternative({"rate": rate}, "best", {"rate": "so"}, EXPECTED), **other)
    return Proposal("m", ("plateau",), "It is flat.", {"rate": 0.2}, alternative=second).to_dict()


def test_an_alternative_is_tried_once_and_after_its_first_has_ended() -> None:
    tree = grow((None, 0.0), ("0000", 0.5))
    context, first = thinking(tree), ask_below(tree, "0001")
    first.hparams, first.state, first.proposal = {"rate": 0.2}, "running", answer()
    assert expand(context, tree, "0001", "").proposal is None, "nobody knows what comes of the first"
    end(tree, first, 0.6, 0.2, **answer())
    used = expand(context, tree, "0001", "")
    assert used.hparams == {"rate": 0.8}
    assert used.proposal == Proposal(
        "m",
        ("plateau",),
        "It is flat.",
        {"rate": 0.8},
        reasons={"rate": "so"},
        expected=EXPECTED,
        notes=("The alternative of 0002's proposal: nobody was asked again.",),
        alternative_of="0002",
    )
    tree.add(Node("0003", "0001", 2, used.hparams, 25, None, used.proposal.to_dict()))
    assert expand(context, tree, "0001", "").proposal is None, "it is tried once"


@pytest.mark.parametrize(
    "second",
    [
        answer(rate=0.205),  # what its first has become
        answer(rate=7.0),  # beyond the bounds, in a damaged log
        answer(changes={"luck": 1}),
        answer(rate=0.5),  # of the parent itself
        answer(resume=12),  # a checkpoint that is not there
        answer(resume="worst"),
        {**answer(), "alternative": None},
        {},
    ],
)
def test_an_alternative_of_no_use_is_not_tried(second: dict[str, Any]) -> None:
    tree = grow((None, 0.0), ("0000", 0.5))
    end(tree, ask_below(tree, "0001"), 0.6, 0.2, **second)
    assert expand(thinking(tree), tree, "0001", "").proposal is None
