"""What the path of a running stage may still become: numbers that can be worked out by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmzero.core.hparams import Catalogue
from llmzero.core.length import Length
from llmzero.core.stage import StageDir, StageResult, StageStatus, ValidationPoint
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.gain_model import PRIOR_ERROR, PRIOR_WEIGHTS
from llmzero.evidence.outlook import expected_gains, outlook
from llmzero.tree.tree import Node, Tree
from tests.conftest import METRICS

BASE = StageView("0000", 0, "completed", {}, {}, score=0.2)


def points(scores: list[float], every: int = 4, stderr: float = 0.01) -> list[ValidationPoint]:
    return [ValidationPoint(every * i, 0, score, stderr, 100, 1.0) for i, score in enumerate(scores, 1)]


def running(scores: list[float], *, incumbent: float, start: float = 0.2, **facts: Any) -> Evidence:
    """Return evidence of a stage of 48 steps below the base model."""
    stage = StageView("0002", 1, "running", {}, {}, parent_id="0000")
    known = {"path": [BASE, stage], "best_path": [BASE], **facts}
    return Evidence(
        stage=stage,
        steps=48,
        catalogue=Catalogue({}),
        metric_catalogue={},
        incumbent_score=incumbent,
        start_score=start,
        validation=points(scores),
        **known,
    )


def test_without_experience_a_stage_gains_what_the_prior_says() -> None:
    curve = expected_gains([], BASE, 0.4)
    assert curve.weights == pytest.approx(PRIOR_WEIGHTS)
    assert curve.deviation == pytest.approx(PRIOR_ERROR)


def test_gains_are_learnt_as_the_search_learns_them_from_completed_stages_alone() -> None:
    flat = [
        StageView(f"{i:04d}", 1, state, {}, {}, score=0.2, gain=0.0, parent_id="0000")
        for i, state in enumerate(["completed"] * 60 + ["stopped"], 1)
    ]
    assert abs(expected_gains(flat, BASE, 0.4).weights[0]) < 0.01
    steep = [replace(view, score=0.5, gain=0.3) for view in flat]
    assert expected_gains(steep, BASE, 0.4).weights[0] == pytest.approx(0.75, abs=0.02), "in spreads of 0.4"
    assert expected_gains(steep[-1:], BASE, 0.4).weights == pytest.approx(PRIOR_WEIGHTS), "it was stopped"


def test_the_rise_is_the_lines_where_that_is_sure_and_else_the_usual_one() -> None:
    steep = running([0.24, 0.28, 0.32], incumbent=0.6)
    noisy = replace(steep, validation=points([0.24, 0.28, 0.32], stderr=1.0))
    sure = replace(steep, validation=points([0.24, 0.28, 0.32], stderr=1e-6))
    assert outlook(sure, 0.0).rise == pytest.approx(0.36, abs=1e-3), "0.01 a step for 36 steps"
    assert outlook(sure, 0.0).level == pytest.approx(0.32)
    seen = outlook(steep, 0.0)
    usual = 0.15 * 0.4 * 0.75  # of a stage from the base model, the rest of it
    assert usual < seen.rise < 0.36
    assert outlook(noisy, 0.0).rise_stderr > seen.rise_stderr > outlook(sure, 0.0).rise_stderr


def test_the_best_of_the_validations_to_come_is_lucky() -> None:
    """Nine are to come, the mean of the highest of nine normal draws is 1.485."""
    seen = outlook(running([0.3, 0.3, 0.3], incumbent=0.6), 0.0)
    assert seen.luck == pytest.approx(1.485 * 0.01, rel=0.02)
    assert outlook(running([0.3] * 12, incumbent=0.6), 0.0).luck == 0
    drawn = np.random.default_rng(0).normal(size=(20_000, 9)).max(axis=1).mean()
    assert seen.luck == pytest.approx(drawn * 0.01, rel=0.03)


def test_a_stage_ends_no_lower_than_its_best_point() -> None:
    seen = outlook(running([0.5, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], incumbent=0.6), 0.0)
    assert seen.reach == 0.5


def test_optimism_raises_what_is_reached_by_the_error_of_the_rise() -> None:
    stage = running([0.25, 0.26, 0.27], incumbent=0.6)
    careful, hopeful = outlook(stage, 0.0), outlook(stage, 2.0)
    assert hopeful.reach - careful.reach == pytest.approx(2 * careful.rise_stderr)


def test_further_levels_gain_what_the_model_expects() -> None:
    stage = running([0.3, 0.3, 0.3], incumbent=0.6)
    assert outlook(stage, 0.0).path == outlook(stage, 0.0).reach
    one, three = (outlook(replace(stage, ahead=ahead), 0.0) for ahead in (1, 3))
    height = (one.reach - 0.2) / 0.4
    gain = 0.15 - 0.15 * height + 0.2 * height  # momentum: what the stage itself has gained
    assert one.path == pytest.approx(one.reach + 0.4 * gain)
    assert three.path > one.path


def test_the_lead_is_over_the_best_paths_stage_of_the_same_depth_and_share() -> None:
    best = StageView("0001", 1, "completed", {}, {}, score=0.6, gain=0.4, parent_id="0000")
    deeper = StageView("0003", 2, "completed", {}, {}, score=0.6, gain=0.0, parent_id="0001")
    long = replace(best, points=points([0.3, 0.4, 0.5, 0.6], every=24))  # twice as long
    facts = {"incumbent": 0.6, "best_path": [BASE, long, deeper]}
    seen = outlook(running([0.2, 0.22, 0.24], **facts), 0.0)
    assert seen.share == 0.25
    assert seen.lead == pytest.approx(0.24 - 0.3)
    assert seen.noise == pytest.approx(0.01 * 2**0.5)
    assert outlook(running([0.2, 0.22], **facts), 0.0).lead == pytest.approx(0.22 - (0.2 + 0.1 * 16 / 24)), (
        "between its start and its first validation"
    )
    assert outlook(running([0.3] * 12, **facts), 0.0).lead == pytest.approx(-0.3)
    assert outlook(running([0.3] * 3, incumbent=0.6), 0.0).lead is None


def small_tree(directory: Path, stages: int) -> Tree:
    """Return the base model and stages below it, of which all but the last have ended."""
    tree = Tree()
    for number in range(stages + 1):
        tree.add(Node(f"{number:04d}", "0000" if number else None, int(number > 0), {}, 8, None, {}))
    for number in range(stages):
        tree.finish(f"{number:04d}", StageResult("completed", points([0.3]), 4, 0.3, directory, 1.0, 1.0))
    return tree


def test_stages_that_were_withdrawn_leave_room_for_others(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, 2)
    builder = EvidenceBuilder(tmp_path, Catalogue({}), {}, 0, max_depth=9, stages=4)
    status = StageStatus("running", points([0.2]))
    assert builder.for_stopping(tree, "0002", status).ahead == 2
    tree.add(Node("0003", "0001", 2, {}, 8, None, {}, state="proposing"))
    assert builder.for_stopping(tree, "0002", status).ahead == 1
    assert builder.for_proposal(tree, "0001", {}).stage.children == 1
    tree.withdraw("0003", "It fell.", closes=False)
    assert builder.for_stopping(tree, "0002", status).ahead == 2
    assert builder.for_proposal(tree, "0001", {}).stage.children == 0


def test_a_look_of_a_stopper_reads_no_metrics_and_a_question_those_of_a_stage_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, read = small_tree(tmp_path, 3), Counter[str]()
    tree["0002"].state = "failed"

    def metrics(stage: StageDir) -> list[dict[str, Any]]:
        read[stage.path.name] += 1
        return [{"step": 1, "entropy": 0.5}]

    monkeypatch.setattr(StageDir, "metrics", metrics)
    builder = EvidenceBuilder(tmp_path, Catalogue({}), METRICS, 0, max_depth=4)
    for _ in range(3):
        builder.for_stopping(tree, "0003", StageStatus("running", points([0.2])))
    assert read == {}
    for _ in range(3):
        assert builder.for_proposal(tree, "0000", {}).children[0].levels["entropy"] == (0.5, 0.5)
    assert read["0001"] == 1
    assert read["0002"] == 3, "one that failed may be tried again, and end otherwise"


@pytest.mark.parametrize(
    ("max_depth", "stages", "ahead"), [(None, None, 0), (4, None, 3), (4, 4, 2), (4, 2, 0), (1, 16, 0)]
)
def test_stages_follow_as_far_as_levels_and_budget_allow(
    tmp_path: Path, max_depth: int | None, stages: int | None, ahead: int
) -> None:
    tree = small_tree(tmp_path, 2)
    builder = EvidenceBuilder(tmp_path, Catalogue({}), {}, 0, max_depth=max_depth, stages=stages)
    evidence = builder.for_stopping(tree, "0002", StageStatus("running", points([0.2])))
    assert evidence.ahead == ahead
    assert evidence.steps == Length(8).steps
    assert evidence.best_path[0].points == tuple(points([0.3]))
