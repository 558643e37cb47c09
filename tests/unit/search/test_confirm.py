from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from llmzero.core.shapes import require
from llmzero.core.stage import StageResult
from llmzero.mirrors.views import confirmation_line
from llmzero.search.confirm import Candidate, best_paths, compared, difference
from llmzero.strategies.schedule import StrategyStage
from llmzero.tree.outcomes import CONFIRMATION
from llmzero.tree.tree import ROOT, Node, Tree


def test_p_values_are_those_of_scipys_tests() -> None:
    rng = random.Random(0)
    for n in (2, 3, 8):
        a, b = ([rng.gauss(mean, 0.05) for _ in range(n)] for mean in (0.55, 0.5))
        tested = difference(a, b)
        assert tested["difference"] == pytest.approx(sum(a) / n - sum(b) / n)
        assert tested["p_paired"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
        assert tested["p_welch"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_where_there_is_nothing_to_test_there_is_no_p_value() -> None:
    assert difference([0.5], [0.3]) == {"difference": pytest.approx(0.2), "p_paired": None, "p_welch": None}
    assert difference([0.5, 0.5], [0.25, 0.25]) == {"difference": 0.25, "p_paired": None, "p_welch": None}
    assert difference([0.5, 0.6], [0.25, 0.25])["p_welch"] is not None


PARENTS = {
    ROOT: None,
    "0001": ROOT,
    "0002": "0001",
    "0003": "0002",
    "0004": "0001",
    "0005": ROOT,
    "0006": "0005",
    "0007": ROOT,
    "0008": "0007",
}
SCORES = {
    ROOT: 0.1,
    "0001": 0.7,
    "0002": 0.8,
    "0003": 0.75,
    "0004": 0.6,
    "0005": 0.5,
    "0006": None,
    "0007": 0.2,
    "0008": 0.9,
}


def tree_with(practitioner: set[str]) -> Tree:
    """A tree in which some stages train with the root's configuration."""
    tree = Tree()
    for node_id, parent in PARENTS.items():
        tree.add(Node(node_id, parent, 0, {"group_size": 8 if node_id in practitioner else 16}, 4, None, {}))
    for node_id, score in SCORES.items():
        state: Any = "completed" if score is not None else "failed"
        tree.finish(
            node_id, StageResult(state, [], 4, score, Path("checkpoint") if score else None, 1.0, 1.0)
        )
    return tree


def test_the_best_paths_of_a_tree_do_not_continue_each_other() -> None:
    tree = tree_with({ROOT})
    assert [node.node_id for node in best_paths(tree, 9)] == ["0008", "0002", "0004", "0005"]
    assert [node.node_id for node in best_paths(tree, 1)] == ["0008"]


def test_the_practitioners_configuration_is_no_strategy_unless_there_is_no_other() -> None:
    assert [node.node_id for node in best_paths(tree_with({ROOT, "0007", "0008"}), 9)] == [
        "0002",
        "0004",
        "0005",
    ]
    assert [node.node_id for node in best_paths(tree_with({ROOT, "0007"}), 1)] == ["0008"]
    assert [node.node_id for node in best_paths(tree_with(set(PARENTS)), 2)] == ["0008", "0002"]


def summary(validation: float, test: float, base: float, completed: int = 2) -> dict[str, Any]:
    return {
        "best": {"score": validation},
        "test": {"best": {"score": test}, "base": {"score": base}},
        "nodes": {"completed": completed},
    }


def test_the_winner_is_chosen_by_validation_and_what_failed_is_counted() -> None:
    stages = [StrategyStage(4, {})]
    runs = {
        "strategy-0001": [summary(0.6, 0.3, 0.1), summary(0.62, 0.32, 0.1)],
        "strategy-0002": [summary(0.5, 0.7, 0.1, completed=1), summary(0.5, 0.8, 0.1)],
        "practitioner-4": [summary(0.4, 0.2, 0.1), summary(0.4, 0.24, 0.12)],
    }
    strategies = [Candidate(name, name[-4:], stages, "steps") for name in ("strategy-0001", "strategy-0002")]
    confirmation = compared(strategies, Candidate("practitioner-4", None, stages, "steps"), runs)
    assert confirmation["winner"] == "strategy-0001"
    first, second = confirmation["strategies"].values()
    assert (first["mean"], first["stderr"], first["incomplete"], first["node_id"]) == (
        pytest.approx(0.31),
        pytest.approx(0.01),
        0,
        "0001",
    )
    assert (second["mean"], second["incomplete"]) == (0.75, 1)
    assert (confirmation["practitioner"]["mean"], confirmation["base"]["test"]) == (
        pytest.approx(0.22),
        [0.1, 0.12],
    )
    assert first["against"]["practitioner"] == difference([0.3, 0.32], [0.2, 0.24])
    assert first["against"]["base"] == difference([0.3, 0.32], [0.1, 0.12])
    report = {"confirmation": {"stages": 3, "seeds": [1000, 1001], **confirmation}, "nodes": {"total": 4}}
    line = (
        "test on 2 fresh seeds: strategy-0001 0.310 ± 0.010, practitioner 0.220 ± 0.020, base 0.110 ± 0.010; "
        "against practitioner p = 0.092"
    )
    assert confirmation_line(report) == line
    assert confirmation_line({**report, "nodes": {"total": 6}}).endswith(
        "; 2 stages later the search is not confirmed"
    )
    assert confirmation_line({**report, "confirmation": None}).startswith("one seed; not confirmed")


def test_a_seed_on_which_the_practitioners_training_failed_is_compared_with_nothing() -> None:
    stages = [StrategyStage(4, {})]
    practitioner, strategy = (
        Candidate(name, None, stages, "steps") for name in ("practitioner-4", "strategy-1")
    )
    runs = {
        "strategy-1": [summary(0.6, score, 0.1) for score in (0.3, 0.32, 0.9)],
        "practitioner-4": [
            *(summary(0.4, score, 0.1) for score in (0.2, 0.24)),
            summary(0.1, 0.1, 0.1, completed=1),
        ],
    }
    confirmation = compared([strategy], practitioner, runs)
    theirs, ours = confirmation["practitioner"], confirmation["strategies"]["strategy-1"]
    assert (theirs["test"], theirs["mean"], theirs["incomplete"]) == ([0.2, 0.24], pytest.approx(0.22), 1)
    assert ours["against"]["practitioner"] == difference([0.3, 0.32], [0.2, 0.24])
    assert ours["mean"] == pytest.approx((0.3 + 0.32 + 0.9) / 3)
    assert confirmation["base"]["test"] == [0.1] * 3
    runs["practitioner-4"] = [summary(0.1, 0.1, 0.1, completed=1)] * 3
    confirmation = compared([strategy], practitioner, runs)
    theirs, ours = confirmation["practitioner"], confirmation["strategies"]["strategy-1"]
    assert (theirs["test"], theirs["mean"], theirs["validation_mean"], theirs["incomplete"]) == (
        [],
        None,
        None,
        3,
    )
    assert set(ours["against"]["practitioner"].values()) == {None}
    require({"stages": 1, "seeds": [1, 2, 3], **confirmation}, CONFIRMATION)
