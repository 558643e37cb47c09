"""`stopper=curve` judges a stage by what its path may still become, and `stopper=llm` is told the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmzero.agents.endpoint import LlmSettings
from llmzero.agents.llm_stopper import LlmStopper, LlmStopperSettings
from llmzero.agents.stopper import CurveStopper, CurveStopperSettings, explored
from llmzero.core.hparams import Catalogue
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.proposal import StopDecision
from tests.unit.evidence.test_outlook import BASE, points, running

CATALOGUE = Catalogue.from_config(
    {
        name: {
            "group": "regularization",
            "kind": "float",
            "low": 0,
            "high": 2,
            "default": 1,
            "explores": wild,
        }
        for name, wild in (("temperature", True), ("kl_coef", False))
    }
)
PARENT = StageView("0001", 1, "completed", CATALOGUE.defaults(), {}, score=0.3, gain=0.1, parent_id="0000")


def judged(
    scores: list[float], incumbent: float, settings: CurveStopperSettings | None = None, **facts: Any
) -> StopDecision:
    evidence = branch(scores, incumbent, **facts)
    return CurveStopper(settings or CurveStopperSettings()).decide(evidence)


def branch(
    scores: list[float], incumbent: float, changes: dict[str, Any] | None = None, **facts: Any
) -> Evidence:
    """Return evidence of a stage of 48 steps, at depth 2, below one with a score of 0.3."""
    hparams = {**CATALOGUE.defaults(), **(changes or {})}
    stage = StageView("0009", 2, "running", hparams, changes or {}, parent_id="0001")
    known = {"path": [BASE, PARENT, stage], "start": 0.3, **facts}
    return replace(running(scores, incumbent=incumbent, **known), stage=stage, catalogue=CATALOGUE)


def test_a_stage_is_hopeless_where_nothing_can_follow_and_not_where_its_path_goes_on() -> None:
    """The pivotal branch of a real search: from 0.330 it stood at 0.387, with three levels left."""
    scores = [0.31, 0.33, 0.34, 0.34, 0.35, 0.35]
    alone = judged(scores, 0.43)
    assert alone.stop
    assert "cannot reach 0.430" in alone.reason
    below = judged(scores, 0.43, ahead=3)
    assert not below.stop
    assert "on its path (3 more stages): may still reach 0.430" in below.reason
    assert below.details["path"] > 0.43 > below.details["reach"]
    assert judged(scores, 0.9, ahead=3).stop, "further stages are no miracles"


def best_path(scores: list[float]) -> list[StageView]:
    other = replace(PARENT, node_id="0002", score=0.35)
    third = StageView("0003", 2, "completed", {}, {}, score=0.9, parent_id="0002", points=points(scores))
    return [BASE, other, third]


def test_a_stage_that_is_level_with_the_best_path_at_its_depth_is_never_stopped() -> None:
    slow_start = best_path([0.35, 0.36, 0.37, 0.38, 0.5, 0.6, 0.7, 0.8, 0.85, 0.88, 0.9, 0.9])
    scores = [0.35, 0.36, 0.365]
    assert judged(scores, 0.9).stop
    level = judged(scores, 0.9, best_path=slow_start)
    assert not level.stop
    assert "level with the best path at depth 2" in level.reason
    behind = judged([0.33, 0.33, 0.33], 0.9, best_path=slow_start)
    assert behind.stop
    assert behind.details["lead"] == pytest.approx(-0.04)
    strict = CurveStopperSettings(level_z=0.0)
    assert judged(scores, 0.9, strict, best_path=slow_start).stop


def test_a_score_that_hardly_rose_so_far_says_little_of_what_stages_gain() -> None:
    """The best of the search lies 0.002 above the base model, and errors are 0.01."""
    flat = branch([0.2, 0.2, 0.2], 0.202, start=0.2)
    assert not CurveStopper(CurveStopperSettings()).decide(flat).stop


def test_a_dip_that_has_turned_gets_half_a_stage() -> None:
    dip = [0.1, 0.12, 0.13]
    assert not judged(dip, 0.9).stop
    assert "recovers from a dip" in judged(dip, 0.9).reason
    assert judged([0.2, 0.15, 0.1], 0.9).stop, "it falls on"
    assert judged([0.3, 0.3, 0.3], 0.9).stop, "it never fell"
    assert judged([0.1, 0.12, 0.13, 0.14, 0.14, 0.15], 0.9).stop, "half of the stage is over"


def test_exploration_gets_half_a_stage() -> None:
    flat = [0.3, 0.3, 0.3]
    raised = judged(flat, 0.9, changes={"temperature": 1.2})
    assert not raised.stop
    assert "temperature was raised" in raised.reason
    assert judged(flat * 2, 0.9, changes={"temperature": 1.2}).stop
    assert judged(flat, 0.9, changes={"temperature": 0.8}).stop
    assert judged(flat, 0.9, changes={"kl_coef": 1.2}).stop
    assert explored(branch(flat, 0.9, changes={"temperature": 1.2, "kl_coef": 2.0})) == "temperature"


def test_the_committed_catalogue_says_what_explores(catalogue: Catalogue) -> None:
    assert {name for name, parameter in catalogue.items() if parameter.explores} == {
        "temperature",
        "entropy_coef",
        "clip_high",
    }


def test_a_language_model_is_told_the_rule_and_the_numbers() -> None:
    evidence = branch(
        [0.35, 0.36, 0.365], 0.9, ahead=2, changes={"temperature": 1.2}, best_path=best_path([0.4] * 12)
    )
    stopper = LlmStopper(LlmStopperSettings(), LlmSettings(model="m", base_url="http://localhost:1/v1"))
    system, user = (message["content"] for message in stopper._messages(evidence))
    details = CurveStopper(CurveStopperSettings()).decide(evidence).details
    for name in ("level", "reach", "path", "incumbent", "luck", "noise"):
        assert f"{details[name]:.4f}" in user, name
    assert "stood 0.0350 higher" in user
    assert "2 more stages may follow" in user
    assert "Its proposal raised temperature" in user
    assert "level, within noise, with the best path's stage of the same depth" in system
    alone = stopper._messages(branch([0.35, 0.36, 0.365], 0.9))[1]["content"]
    assert "No stage can follow" in alone
    assert "raised" not in alone and "best path" not in alone
