"""What a stage will cost, against stages whose cost is worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmzero.agents.standing import cost_text
from llmzero.core.hparams import Catalogue
from llmzero.core.length import flops_text
from llmzero.evidence.cost import doubled, expected_length, learnt, predicted, usual_steps, work
from llmzero.evidence.evidence import StageView
from tests.unit.agents.test_rules import evidence

BASE = {"prompts_per_step": 4, "group_size": 8, "kl_coef": 0.0, "epochs": 1, "max_completion_length": 16}


def view(
    node_id: str, steps: int, length: float, seconds: float, flops: float | None, **hp: Any
) -> StageView:
    hparams = {**BASE, **hp}
    return StageView(
        node_id, 1, "completed", hparams, {}, steps=steps, gpu_seconds=seconds, flops=flops, length=length
    )


def test_work_goes_with_completions_length_and_passes() -> None:
    assert work(BASE, 10.0) == 4 * 8 * 10 * (1 + 3)
    assert work({**BASE, "kl_coef": 0.1, "epochs": 2}, 10.0) == 4 * 8 * 10 * (1 + 1 + 6)
    assert work({"group_size": 8}, 10.0) == 8 * 10 * 4, "what a catalogue does not have counts once"


def test_cost_is_learnt_from_stages_and_told_of_one_that_was_not_made() -> None:
    """5 s to begin and 1 ms a unit of work; 100 FLOPs a unit."""
    short, long = (20 * work(BASE, 10.0), 20 * work({**BASE, "group_size": 16}, 10.0))
    views = [
        view("0001", 20, 10.0, 5 + short / 1000, 100 * short),
        view("0002", 20, 10.0, 5 + long / 1000, 100 * long, group_size=16),
    ]
    model = learnt(views)
    assert model is not None
    assert (model.startup, model.seconds, model.flops) == pytest.approx((5.0, 1e-3, 100.0))
    assert (model.stages, model.steps, model.error) == (2, 20, pytest.approx(0.0, abs=1e-9))
    cost = model.stage({**BASE, "epochs": 3}, 12.0, 10)
    units = 10 * 4 * 8 * 12 * 10
    assert (cost.flops, cost.seconds) == pytest.approx((100 * units, 5 + units / 1000))


def test_a_stage_alone_tells_no_start_up_and_unknown_compute_stays_unknown() -> None:
    model = learnt([view("0001", 20, 10.0, 25.6, None)])
    assert model is not None
    assert (model.startup, model.seconds, model.flops) == (0.0, pytest.approx(1e-3), None)
    assert model.stage(BASE, 10.0, 10).flops is None
    assert learnt([]) is None
    assert learnt([view("0001", 0, 10.0, 1.0, 1.0)]) is None


def test_the_error_is_that_of_the_stages_it_was_learnt_from() -> None:
    """Of two stages of the same work, one cost 90 and the other 110: 100 is 1/9 and 1/11 off."""
    model = learnt([view("0001", 1, 10.0, 1.0, 90.0), view("0002", 1, 10.0, 1.0, 110.0)])
    assert model is not None and model.error == pytest.approx((1 / 9 + 1 / 11) / 2)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(16, 12.0), (32, 12.0 + 0.25 * 16), (8, 8.0)],
)
def test_lengths_under_another_limit(catalogue: Catalogue, limit: int, expected: float) -> None:
    """A quarter of the completions is cut at 16 tokens; their mean length is 12."""
    seen = evidence(
        catalogue,
        [0.3, 0.4],
        hparams={"max_completion_length": 16},
        completion_length_mean=12.0,
        truncated_fraction=0.25,
    )
    hparams = {**seen.stage.hparams, "max_completion_length": limit}
    assert expected_length(seen, hparams) == pytest.approx(expected)


def test_a_prediction_is_for_as_many_steps_as_the_parent_has(catalogue: Catalogue) -> None:
    seen = evidence(catalogue, [0.3, 0.4], completion_length_mean=10.0)
    assert predicted(seen, seen.stage.hparams) is None, "no stage has told its length yet"
    own = work(seen.stage.hparams, 10.0)
    told = replace(seen.stage, steps=10, gpu_seconds=8.0, flops=10 * own, length=10.0)
    found = predicted(replace(seen, path=[told]), {**told.hparams, "epochs": 2 * told.hparams["epochs"]})
    assert found is not None
    assert found[1].flops == pytest.approx(seen.steps * work({**told.hparams, "epochs": 2}, 10.0))


def test_what_is_told_of_a_stage_is_for_the_usual_length(catalogue: Catalogue) -> None:
    """The parent was twice as long as usual, and so were all that the model of cost has seen."""
    seen = evidence(catalogue, [0.3, 0.4], completion_length_mean=10.0)
    own = work(seen.stage.hparams, 10.0)
    long = replace(
        seen.stage, steps=seen.steps, gpu_seconds=8.0, flops=seen.steps * own, length=10.0, stretch=2.0
    )
    found = predicted(replace(seen, stage=long, path=[long]), long.hparams)
    assert found is not None
    model, cost = found
    assert (usual_steps(replace(seen, stage=long), model), model.steps) == (seen.steps / 2, seen.steps / 2)
    assert cost.flops == pytest.approx(seen.steps / 2 * own)
    lines = cost_text(replace(seen, stage=long, path=[long], stage_flops=seen.steps * own)).splitlines()
    whole = flops_text(seen.steps / 2 * own)
    assert lines[0].startswith(
        f"- a stage of {seen.steps // 2} steps under the present configuration: about {whole}"
    )
    assert (
        f"- the usual length is {whole}: about {seen.steps // 2} such steps; dearer steps are fewer" in lines
    )


def test_what_can_be_doubled_or_halved(catalogue: Catalogue) -> None:
    assert doubled(catalogue["group_size"], 8) == 16
    choices = catalogue["group_size"].choices or ()
    assert doubled(catalogue["group_size"], max(choices)) == max(choices) // 2
    assert doubled(catalogue["kl_coef"], 0.0) is None
    assert doubled(catalogue["optimizer_state"], "carry") is None
    assert doubled(catalogue["rewarm"], True) is None
