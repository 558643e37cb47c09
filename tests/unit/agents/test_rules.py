from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from llmzero.agents.base import Proposer
from llmzero.agents.rules import MOVES, REMEDIES, RandomAgent, RuleAgent, apply
from llmzero.agents.stopper import CurveStopper, CurveStopperSettings, NeverStop
from llmzero.core.hparams import Catalogue
from llmzero.core.stage import ValidationPoint
from llmzero.evidence.diagnosis import diagnose, slope
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.fit import MIN_DISTANCE
from llmzero.evidence.proposal import PATHOLOGIES
from tests.conftest import METRICS

CALM = {
    "entropy": 0.5,
    "kl": 0.2,
    "grad_norm": 1.0,
    "truncated_fraction": 0.0,
    "zero_variance_groups": 0.1,
    "clip_fraction_low": 0.03,
    "clip_fraction_high": 0.0,
}


def points(scores: list[float], stderr: float = 0.01) -> list[ValidationPoint]:
    return [ValidationPoint(5 * i, 5 * i, s, stderr, 500, 0.1) for i, s in enumerate(scores, 1)]


def evidence(
    catalogue: Catalogue,
    scores: list[float],
    *,
    start: float = 0.3,
    hparams: dict[str, Any] | None = None,
    state: str = "completed",
    **trends: Any,
) -> Evidence:
    """Return evidence of a 30-step stage; each trend is a constant or a (first, last) pair of a metric."""
    steps = 30
    columns = {k: v if isinstance(v, tuple) else (v, v) for k, v in {**CALM, **trends}.items()}
    metrics = [{k: a + (b - a) * i / (steps - 1) for k, (a, b) in columns.items()} for i in range(steps)]
    stage = StageView(
        "0001",
        1,
        state,
        {**catalogue.defaults(), **(hparams or {})},
        {},
        (),
        max(scores, default=None),
        None,
        None,
    )
    return Evidence(
        stage=stage,
        start_score=start,
        validation=points(scores),
        metrics=metrics,
        rollouts=[],
        path=[stage],
        children=[],
        history=[],
        incumbent_score=max(scores, default=None),
        steps=steps,
        catalogue=catalogue,
        metric_catalogue=METRICS,
        seed="0/0002",
    )


@pytest.mark.parametrize(
    ("pathology", "scores", "trends"),
    [
        ("healthy", [0.35, 0.4, 0.45, 0.5], {}),
        ("plateau", [0.3, 0.31, 0.3, 0.31], {}),
        ("regression", [0.3, 0.25, 0.2, 0.15], {}),
        ("slow_progress", [0.3, 0.305, 0.31, 0.312], {"kl": 0.001, "clip_fraction_low": 0.0}),
        ("kl_blowup", [0.3, 0.3, 0.29, 0.3], {"kl": (0.1, 5.0)}),
        ("entropy_collapse", [0.35, 0.4, 0.42, 0.43], {"entropy": (0.6, 0.05)}),
        ("entropy_explosion", [0.3, 0.3, 0.3, 0.3], {"entropy": (0.5, 1.5)}),
        ("truncation", [0.35, 0.4, 0.45, 0.5], {"truncated_fraction": 0.3}),
        ("held_back", [0.35, 0.4, 0.45, 0.5], {"truncated_fraction": 0.5, "train_score": 0.45}),
        ("no_reward_variance", [0.35, 0.4, 0.45, 0.5], {"zero_variance_groups": 0.8}),
        ("over_regularised", [0.3, 0.3, 0.3, 0.3], {"kl": 0.01, "hparams": {"kl_coef": 0.1}}),
    ],
)
def test_each_pathology_is_named(
    catalogue: Catalogue, pathology: str, scores: list[float], trends: dict[str, Any]
) -> None:
    assert pathology in diagnose(evidence(catalogue, scores, **trends))


def test_gradient_spikes_failures_and_untrained_stages_are_named(catalogue: Catalogue) -> None:
    spiky = evidence(catalogue, [0.35, 0.4, 0.45, 0.5])
    spiky.metrics[10]["grad_norm"] = 50.0
    assert diagnose(spiky) == ["unstable_gradients"]
    assert diagnose(evidence(catalogue, [], state="failed")) == ["failure"]
    assert diagnose(replace(evidence(catalogue, []), metrics=[])) == ["untrained"]


def test_every_pathology_has_a_description_and_remedies_that_exist() -> None:
    assert set(REMEDIES) == set(PATHOLOGIES)
    assert {move for moves in REMEDIES.values() for move in moves} <= set(MOVES)


def test_truncation_is_answered_with_length_and_collapse_with_smaller_steps(catalogue: Catalogue) -> None:
    longer = RuleAgent().propose(evidence(catalogue, [0.35, 0.4, 0.45, 0.5], truncated_fraction=0.3))
    assert longer.changes == {"max_completion_length": 24}
    smaller = RuleAgent().propose(evidence(catalogue, [0.3, 0.25, 0.2, 0.15], entropy=(0.5, 0.4)))
    assert smaller.changes["learning_rate"] < catalogue.defaults()["learning_rate"]
    assert "fell below where the stage began" in smaller.rationale


def test_a_limit_that_right_completions_run_into_is_raised_whatever_paid_off_before(
    catalogue: Catalogue,
) -> None:
    """Where those that end are mostly wrong, room is one remedy among others."""
    scores = [0.35, 0.4, 0.45, 0.5]
    right = evidence(catalogue, scores, truncated_fraction=0.5, train_score=0.45)
    wrong = evidence(catalogue, scores, truncated_fraction=0.5, train_score=0.1)
    assert diagnose(right)[0] == "held_back"
    assert "held_back" not in diagnose(wrong)
    assert "held_back" not in diagnose(evidence(catalogue, scores, truncated_fraction=0.05, train_score=0.9))
    paid = {"learning_rate": 2 * right.stage.hparams["learning_rate"]}
    views = [replace(right.stage, changes=paid, gain=0.5) for _ in range(4)]
    assert RuleAgent().propose(replace(right, history=views)).changes == {"max_completion_length": 24}
    assert RuleAgent().propose(replace(wrong, history=views)).changes == paid


CURRICULUM = {
    "group": "optimization",
    "kind": "float",
    "low": 0.02,
    "high": 1.0,
    "scale": "log",
    "default": 1.0,
}


def of_difficulty(catalogue: Catalogue, easiest: float, score: float, quiet: float) -> Evidence:
    """Return evidence of a stage on a share of the problems, whose groups are so often all alike."""
    tunable = Catalogue.from_config({"easiest": CURRICULUM})
    return evidence(
        Catalogue({**catalogue, **tunable}),
        [0.35, 0.4, 0.45, 0.5],
        hparams={"easiest": easiest},
        train_score=score,
        zero_variance_groups=quiet,
    )


@pytest.mark.parametrize(
    ("easiest", "score", "quiet", "named", "then"),
    [
        (1.0, 0.05, 0.7, "too_hard", 0.125),
        (0.5, 0.1, 0.4, "too_hard", 0.0625),
        (0.125, 0.7, 0.5, "outgrown", 0.25),
        (0.6, 0.55, 0.1, "outgrown", 1.0),
        (1.0, 0.9, 0.95, None, None),
        (1.0, 0.3, 0.5, None, None),
        (0.5, 0.4, 0.3, None, None),
    ],
)
def test_problems_follow_what_is_within_reach(
    catalogue: Catalogue, easiest: float, score: float, quiet: float, named: str | None, then: float | None
) -> None:
    seen = of_difficulty(catalogue, easiest, score, quiet)
    assert {"too_hard", "outgrown"} & set(diagnose(seen)) == ({named} if named else set())
    changes = RuleAgent().propose(seen).changes
    assert changes.get("easiest") == pytest.approx(then)
    assert (set(changes) == {"easiest"}) == (named is not None)
    paid = {"learning_rate": 2 * seen.stage.hparams["learning_rate"]}
    views = [replace(seen.stage, changes=paid, gain=0.5) for _ in range(4)]
    after = RuleAgent().propose(replace(seen, history=views)).changes
    assert after == (changes if named else paid), "which paid off before, but where difficulty binds"


def test_difficulty_is_no_matter_where_the_catalogue_cannot_change_it(catalogue: Catalogue) -> None:
    hopeless = evidence(catalogue, [0.35, 0.4, 0.45, 0.5], train_score=0.0, zero_variance_groups=1.0)
    assert diagnose(hopeless) == ["no_reward_variance"]


@pytest.mark.parametrize("agent", [RuleAgent(), RandomAgent()])
def test_siblings_are_all_different_and_within_bounds(catalogue: Catalogue, agent: Proposer) -> None:
    facts = evidence(catalogue, [0.3, 0.31, 0.3, 0.31])
    for i in range(30):
        proposal = agent.propose(replace(facts, seed=f"0/{i}"))
        new = {**facts.stage.hparams, **proposal.changes}
        assert catalogue.problems(new) == []
        assert proposal.changes
        assert all(catalogue.distance(new, child.hparams) >= MIN_DISTANCE for child in facts.children)
        facts = replace(facts, children=[*facts.children, replace(facts.stage, hparams=new)])


def test_any_evidence_gives_a_valid_proposal(catalogue: Catalogue) -> None:
    rng = random.Random(0)
    for i in range(300):
        hparams = {name: parameter.sample(rng) for name, parameter in catalogue.items()}
        trends = {name: (rng.random() * 3, rng.random() * 3) for name in CALM}
        scores = [rng.random() for _ in range(rng.randint(0, 6))]
        facts = replace(evidence(catalogue, scores, hparams=hparams, **trends), seed=str(i))
        proposal = RuleAgent().propose(facts)
        assert catalogue.problems({**hparams, **proposal.changes}) == []
        assert set(proposal.diagnosis) <= set(PATHOLOGIES)


def test_what_paid_off_before_is_tried_first(catalogue: Catalogue) -> None:
    facts = evidence(catalogue, [0.3, 0.31, 0.3, 0.31])
    base = catalogue.defaults()
    won = {"clip_high": 0.26, "minibatches": 2}
    history = [StageView(f"{i:04d}", 1, "completed", base | won, won, (), 0.5, 0.2, None) for i in range(3)]
    assert RuleAgent().propose(facts).changes != won
    assert RuleAgent().propose(replace(facts, history=history)).changes == won


def test_the_same_evidence_gives_the_same_proposal(catalogue: Catalogue) -> None:
    facts = evidence(catalogue, [0.3, 0.31, 0.3, 0.31])
    assert RandomAgent().propose(facts) == RandomAgent().propose(facts)


def test_a_catalogue_with_other_names_is_explored_too() -> None:
    strange = Catalogue.from_config(
        {
            "width": {"group": "capacity", "kind": "choice", "choices": ["thin", "wide"], "default": "thin"},
            "heat": {"group": "regularization", "kind": "float", "low": 0.0, "high": 1.0, "default": 0.5},
        }
    )
    proposal = RuleAgent().propose(evidence(strange, [0.3, 0.31]))
    assert proposal.changes
    assert strange.problems(proposal.changes) == []


def test_numbers_with_choices_move_by_one(catalogue: Catalogue) -> None:
    """As on a table: a factor that lies between two choices would move nothing."""
    few = Catalogue.from_config(
        {
            "learning_rate": {
                "group": "regularization",
                "kind": "float",
                "choices": [1e-4, 1e-3, 1e-2],
                "default": 1e-3,
            },
            "kl_coef": {"group": "regularization", "kind": "float", "choices": [0.0, 0.01], "default": 0.0},
        }
    )
    seen = evidence(few, [0.4])
    assert apply(MOVES["push"], seen) == {"learning_rate": 1e-2}
    assert apply(MOVES["calm"], seen) == {"learning_rate": 1e-4, "kl_coef": 0.01}
    assert apply(MOVES["loosen"], seen) == {}, "there is no smaller one"


def test_the_slope_is_that_of_least_squares() -> None:
    value, error = slope(points([0.1, 0.2, 0.3]))
    assert value == pytest.approx(0.02)
    assert error == pytest.approx(0.01 * (50**0.5) / 50)


def running(catalogue: Catalogue, scores: list[float], incumbent: float) -> Evidence:
    return replace(evidence(catalogue, scores), incumbent_score=incumbent)


def test_the_stopper_judges_by_the_rate_of_improvement(catalogue: Catalogue) -> None:
    stopper = CurveStopper(CurveStopperSettings())
    flat, steep = [0.3, 0.3, 0.3], [0.36, 0.43, 0.5]
    assert stopper.decide(running(catalogue, flat, 0.6)).stop
    assert not stopper.decide(running(catalogue, steep, 0.6)).stop
    assert not stopper.decide(running(catalogue, flat, 0.305)).stop
    assert stopper.decide(running(catalogue, flat[:2], 0.6)).stop, "the score it began with is a point"
    assert not stopper.decide(running(catalogue, flat[:1], 0.9)).stop, (
        "before step 8 and three points nothing is judged"
    )
    assert not NeverStop().decide(running(catalogue, flat, 0.9)).stop
