from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.rule_file import RuleFileAgent, RuleFileSettings
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageResult
from llmzero.strategies.derive_rule import Transition, derive, transitions
from llmzero.strategies.rule import Clause, Condition, load_rule, observables, observed, write_rule
from llmzero.tree.tree import ROOT, Node, Tree
from tests.conftest import METRICS
from tests.unit.agents.test_rules import evidence

OBSERVABLES = observables(METRICS)


def step(
    catalogue: Catalogue,
    changes: dict[str, Any],
    facts: dict[str, float],
    gain: float | None,
    weight: float = 1.0,
    **before: Any,
) -> Transition:
    start = {**catalogue.defaults(), **before}
    return Transition({"gain": 0.05, **facts}, start, {**start, **changes}, gain, weight)


# --- what is derived ---


def test_capacity_is_raised_by_a_notch_where_the_gain_falls_below_what_told_the_good_raises_from_the_bad(
    catalogue: Catalogue,
) -> None:
    """It paid off after gains of 0.01 and 0.02, and not after 0.06 and 0.08.

    Entropy separates them as well, but is no condition for capacity.
    """
    steps = [
        step(
            catalogue, {"prompts_per_step": 64, "group_size": 16}, {"gain": 0.01, "late entropy": 0.1}, 0.05
        ),
        step(
            catalogue,
            {"prompts_per_step": 64},
            {"gain": 0.02, "late entropy": 0.1},
            0.03,
            prompts_per_step=16,
        ),
        step(catalogue, {"prompts_per_step": 64}, {"gain": 0.06, "late entropy": 0.5}, -0.01),
        step(catalogue, {"prompts_per_step": 64}, {"gain": 0.08, "late entropy": 0.5}, None),
    ]
    clauses = derive(steps, catalogue, OBSERVABLES)
    assert clauses == [
        Clause(
            "prompts_per_step",
            Condition("gain", at_most=0.04),
            1,
            None,
            2,
            2,
            0.04,
            "transitions: 4, compared",
        ),
        Clause(
            "group_size",
            Condition("gain", at_most=0.01),
            1,
            None,
            1,
            1,
            0.05,
            "transitions: 1, too few to compare",
        ),
    ]


def test_regularization_moves_by_the_factor_seen_where_a_metric_passed_the_threshold_found(
    catalogue: Catalogue,
) -> None:
    steps = [
        step(catalogue, {"kl_coef": 0.003}, {"late kl": 0.9}, 0.02),
        step(catalogue, {"kl_coef": 0.004}, {"late kl": 0.7}, 0.04),
        step(catalogue, {"kl_coef": 0.005}, {"late kl": 0.8}, 0.03),
        step(catalogue, {"kl_coef": 0.002}, {"late kl": 0.3}, -0.03),
        step(catalogue, {"kl_coef": 0.002}, {}, -0.02),
        step(catalogue, {"kl_coef": 0.0005}, {"late kl": 0.01}, 0.01),
    ]
    up, down = derive(steps, catalogue, OBSERVABLES)
    assert up == Clause(
        "kl_coef", Condition("late kl", at_least=0.5), None, 4.0, 3, 3, 0.03, "transitions: 5, compared"
    )
    assert down == Clause(
        "kl_coef",
        Condition("gain", at_most=0.05),
        None,
        0.5,
        1,
        1,
        0.01,
        "transitions: 1, too few to compare",
    )


def test_choices_move_by_the_notches_seen_and_from_zero_a_factor_is_assumed(catalogue: Catalogue) -> None:
    steps = [
        step(catalogue, {"minibatches": 4, "reference": "parent", "entropy_coef": 0.01}, {}, 0.02),
        step(catalogue, {"group_size": 4}, {}, 0.02, group_size=16),
        step(catalogue, {"weight_decay": 0.0}, {}, 0.02, weight_decay=0.1),
    ]
    moves = {
        clause.parameter: clause.notches or clause.factor for clause in derive(steps, catalogue, OBSERVABLES)
    }
    assert moves == {
        "minibatches": 2,
        "reference": 1,
        "entropy_coef": 2.0,
        "group_size": -1,
        "weight_decay": 0.5,
    }


def test_what_failed_as_often_as_it_paid_off_is_no_part_of_the_rule(catalogue: Catalogue) -> None:
    even = [step(catalogue, {"kl_coef": 0.01}, {}, 0.02), step(catalogue, {"kl_coef": 0.01}, {}, -0.02)]
    assert derive(even, catalogue, OBSERVABLES) == []
    on_the_best_path = [replace(even[0], weight=2.0), even[1]]
    (clause,) = derive(on_the_best_path, catalogue, OBSERVABLES)
    assert (clause.support, clause.improved, clause.gain) == (2, 1, 0.0)


def test_a_split_that_tells_no_more_than_a_guess_is_not_taken(catalogue: Catalogue) -> None:
    steps = [
        step(catalogue, {"kl_coef": 0.01}, {"gain": gain, "late kl": gain}, 0.02)
        for gain in (0.01, 0.02, 0.03, 0.04)
    ]
    (clause,) = derive(steps, catalogue, OBSERVABLES)
    assert (clause.when, clause.basis) == (
        Condition("gain", at_most=0.04),
        "transitions: 4, no condition tells them apart",
    )


def test_one_success_among_many_failures_is_no_clause(catalogue: Catalogue) -> None:
    """A threshold would tell it from the others, and would tell nothing."""
    steps = [
        step(catalogue, {"kl_coef": 0.01}, {"late kl": level}, 0.02 if level == 0.9 else -0.02)
        for level in (0.1, 0.2, 0.3, 0.4, 0.9)
    ]
    assert derive(steps, catalogue, OBSERVABLES) == []
    another = step(catalogue, {"kl_coef": 0.01}, {"late kl": 0.8}, 0.02)
    (clause,) = derive([*steps, another], catalogue, OBSERVABLES)
    assert (clause.when, clause.support) == (Condition("late kl", at_least=0.6), 2)


def test_transitions_are_those_from_trained_stages_and_the_best_path_weighs_more(
    catalogue: Catalogue,
) -> None:
    tree = Tree()
    hparams = catalogue.defaults()
    for node_id, parent in {
        ROOT: None,
        "0001": ROOT,
        "0002": "0001",
        "0003": "0001",
        "0004": "0001",
        "0005": "0004",
    }.items():
        tree.add(Node(node_id, parent, 0, hparams, 4, None, {}))
    for node_id, score in {ROOT: 0.2, "0001": 0.3, "0002": 0.5, "0003": 0.25, "0004": None}.items():
        state: Any = "completed" if score else "failed"
        tree.finish(
            node_id, StageResult(state, [], 4, score, Path("checkpoint") if score else None, 1.0, 1.0)
        )

    def facts(node_id: str) -> Any:
        assert node_id == "0001", "nothing can be said of stages without children that ended"
        gathered = evidence(catalogue, [0.3], kl=(0.1, 0.4))
        return replace(gathered, stage=replace(gathered.stage, gain=0.1))

    steps = transitions(tree, facts)
    assert [(t.gain and round(t.gain, 9), t.improved, t.weight) for t in steps] == [
        (0.2, True, 2.0),
        (-0.05, False, 1.0),
        (None, False, 1.0),
    ]
    assert steps[0].facts == observed(facts("0001"))


def test_only_what_was_recorded_is_observed(catalogue: Catalogue) -> None:
    whole = observed(evidence(catalogue, [0.3], kl=(0.1, 0.4)))
    assert "gain" not in whole
    assert whole["late kl"] == pytest.approx(0.35, abs=0.02)
    assert whole["late/early kl"] == pytest.approx(0.35 / 0.15, abs=0.3)
    bare = replace(evidence(catalogue, [0.3]), metrics=[])
    assert observed(replace(bare, stage=replace(bare.stage, gain=0.02))) == {"gain": 0.02}
    assert not Condition("late kl", at_most=1.0).holds({"gain": 0.02})


def test_a_catalogue_with_names_of_its_own_has_rules_as_well() -> None:
    entries = {
        "colour": {
            "group": "capacity",
            "kind": "choice",
            "choices": ["red", "green", "blue"],
            "default": "green",
        }
    }
    odd = Catalogue.from_config(entries)
    clauses = derive(
        [step(odd, {"colour": "blue"}, {"gain": 0.1}, 0.2), step(odd, {"colour": "red"}, {"gain": 0.3}, 0.2)],
        odd,
        OBSERVABLES,
    )
    assert [(clause.notches, clause.when) for clause in clauses] == [
        (1, Condition("gain", at_most=0.1)),
        (-1, Condition("gain", at_most=0.3)),
    ]


# --- the file ---


CLAUSE = {"parameter": "kl_coef", "factor": 2.0, "when": {"observe": "late kl", "at_least": 0.5}}


def write(path: Path, *clauses: Any) -> Path:
    path.write_text(dump_yaml({"format": 1, "provenance": {"seed": 0}, "clauses": list(clauses)}))
    return path


def test_what_is_written_is_read_again(catalogue: Catalogue, tmp_path: Path) -> None:
    steps = [
        step(catalogue, {"kl_coef": 0.004, "minibatches": 2}, {"gain": 0.02}, 0.02),
        step(catalogue, {"prompts_per_step": 64}, {}, -0.01),
    ]
    clauses = derive(steps, catalogue, OBSERVABLES)
    write_rule(tmp_path / "rule.yaml", clauses, {"seed": 0})
    assert len(clauses) == 2
    assert load_rule("rule", tmp_path / "rule.yaml", catalogue, METRICS) == clauses


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ("kl up", r"clause 2: 'kl up': must be a mapping with parameter, notches or factor, and when"),
        (
            {**CLAUSE, "parameter": "kl_coeff"},
            r"clause 2: parameter=kl_coeff: unknown parameter; did you mean kl_coef\?",
        ),
        ({**CLAUSE, "factr": 2}, r"clause 2: factr: unknown key; did you mean factor\?"),
        (
            {**CLAUSE, "factor": -2},
            r"clause 2: factor=-2: must be a number above 0 other than 1, as kl_coef is float from 0 to 0.2",
        ),
        ({**CLAUSE, "factor": "much"}, r"clause 2: factor='much': must be a number"),
        ({**CLAUSE, "notches": 1}, r"clause 2: notches=1: kl_coef moves by factor"),
        (
            {**CLAUSE, "parameter": "group_size"},
            r"clause 2: notches=None: must be an integer other than 0, as group_size is one of 4, 8, 16",
        ),
        (
            {**CLAUSE, "when": {"observe": "kl", "at_least": 1}},
            r"clause 2: when.observe=kl: cannot be observed; ",
        ),
        (
            {**CLAUSE, "when": {"observe": "late kl"}},
            r"clause 2: when=\{'observe': 'late kl'\}: must have at_most or at_least, a number",
        ),
        (
            {**CLAUSE, "when": {"observe": "late kl", "at_most": 1, "at_least": 0}},
            r"must have at_most or at_least, a number",
        ),
        (
            {**CLAUSE, "when": {"observe": "late kl", "below": 1, "at_most": 1}},
            r"clause 2: when.below: unknown key; known: observe, at_most, at_least",
        ),
    ],
)
def test_a_problem_is_named_with_file_clause_key_value_and_what_is_allowed(
    catalogue: Catalogue, tmp_path: Path, clause: Any, message: str
) -> None:
    path = write(tmp_path / "rule.yaml", CLAUSE, clause)
    with pytest.raises(UserError, match=message) as caught:
        load_rule("rule", path, catalogue, METRICS)
    assert str(caught.value).startswith(f"rule={path}:")


def test_a_rule_without_a_clause_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match="must be a list of at least one clause; a search in which no change paid off finds none",
    ):
        load_rule("rule", write(tmp_path / "rule.yaml"), catalogue, METRICS)


# --- the agent ---


def test_the_agent_applies_the_first_clause_of_each_parameter_whose_condition_holds(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "rule.yaml",
        {"parameter": "kl_coef", "factor": 9.0, "when": {"observe": "late kl", "at_least": 5.0}},
        {"parameter": "kl_coef", "factor": 3.0, "when": {"observe": "late kl", "at_least": 0.3}},
        {"parameter": "kl_coef", "factor": 0.5, "when": {"observe": "late kl", "at_least": 0.1}},
        {"parameter": "group_size", "notches": 1, "when": {"observe": "late/early kl", "at_least": 1.5}},
        {"parameter": "prompts_per_step", "notches": 1, "when": {"observe": "gain", "at_most": 1.0}},
    )
    proposal = RuleFileAgent(RuleFileSettings(path=str(path)), catalogue, METRICS).propose(
        evidence(catalogue, [0.3], kl=(0.1, 0.5))
    )
    assert proposal.changes == {"kl_coef": 0.003, "group_size": 16}
    assert proposal.reasons == {"kl_coef": "late kl at least 0.3", "group_size": "late/early kl at least 1.5"}
    assert (
        proposal.rationale
        == "By the rule: kl_coef as late kl at least 0.3; group_size as late/early kl at least 1.5."
    )


def test_where_the_whole_rule_was_tried_the_agent_takes_a_part_of_it_then_nothing_then_chance(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "rule.yaml",
        CLAUSE,
        {"parameter": "group_size", "notches": 1, "when": {"observe": "late kl", "at_least": 0.5}},
    )
    agent, facts, tried = (
        RuleFileAgent(RuleFileSettings(path=str(path)), catalogue, METRICS),
        evidence(catalogue, [0.3], kl=0.6),
        [],
    )
    for _ in range(4):
        changes = agent.propose(facts).changes
        tried.append(changes)
        child = replace(facts.stage, hparams={**facts.stage.hparams, **changes})
        facts = replace(facts, children=[*facts.children, child])
    assert tried[:3] == [{"kl_coef": 0.002, "group_size": 16}, {"kl_coef": 0.002}, {}]
    assert tried[3]
