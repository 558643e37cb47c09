"""Learning-rate schedules of real stages: their values, along a path, and after an interruption."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers.replay import chain_of
from llmzero.cli import composed
from llmzero.config import ReplayConfig
from llmzero.core.decay import decayed
from llmzero.core.errors import UserError
from llmzero.core.stage import StageDir
from llmzero.grpo.main import run_stage
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from tests.integration.conftest import MICRO, Run, last_checkpoint, read_lines, same_bits, write_stage

PEAK = 1e-3
LENGTHS: Mapping[str, dict[str, Any]] = {"steps": {"steps": 6}, "flops": {"steps": None, "flops": 8e8}}


def begin(spec: dict[str, Any], root: Path, stage: Path, **changes: Any) -> Path:
    hparams = {"learning_rate": PEAK, "warmup_steps": 0, "minibatches": 1, "prompts_per_step": 4}
    hparams |= changes.pop("hparams", {})
    changes = {"resume_from": str(root), "hparams": hparams, **changes}
    write_stage(stage, spec, {"trainer": {"validation_every": 2}, **changes})
    return stage


def rates(stage: Path) -> list[float]:
    return [row["learning_rate"] for row in read_lines(stage / "metrics.jsonl")]


@pytest.mark.parametrize("unit", LENGTHS)
def test_the_rate_falls_by_share_of_the_length(
    spec: dict[str, Any], root: Path, tmp_path: Path, unit: str
) -> None:
    stage = begin(spec, root, tmp_path / "s", hparams={"lr_schedule": "linear"}, **LENGTHS[unit])
    run_stage(stage)
    rows = read_lines(stage / "metrics.jsonl")
    assert len(rows) > 3
    spent = [0, *itertools.accumulate(row["step_flops"] for row in rows)]
    done = [number / 6 for number in range(6)] if unit == "steps" else [each / 8e8 for each in spent[:-1]]
    assert rates(stage) == pytest.approx([PEAK * (1 - share) for share in done], rel=1e-9)
    assert len(set(rates(stage))) == len(rows)


def test_warm_up_and_decay_multiply(spec: dict[str, Any], root: Path, tmp_path: Path) -> None:
    values = {"lr_schedule": "wsd", "warmup_steps": 2}
    stage = begin(spec, root, tmp_path / "s", hparams=values, steps=10)
    run_stage(stage)
    assert rates(stage) == pytest.approx([PEAK / 2] + [PEAK] * 8 + [0.55 * PEAK], rel=1e-9)


def test_a_path_wide_schedule_goes_on_over_its_stages(
    spec: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    cosine = {"hparams": {"lr_schedule": "cosine"}}
    whole = begin(spec, root, tmp_path / "whole", steps=6, **cosine)
    run_stage(whole)
    first = begin(spec, root, tmp_path / "a", steps=2, schedule=[0, 1 / 3], **cosine)
    run_stage(first)
    start = {"resume_from": str(last_checkpoint(first))}
    second = begin(spec, root, tmp_path / "b", steps=4, schedule=[1 / 3, 1], **cosine, **start)
    run_stage(second)
    expected = [PEAK * decayed("cosine", (0.0, 1.0), step / 6) for step in range(6)]
    assert rates(whole) == pytest.approx(expected)
    assert rates(first) + rates(second) == pytest.approx(expected)


@pytest.mark.parametrize("unit", LENGTHS)
def test_a_stage_that_was_interrupted_has_the_bits_of_one_that_was_not(
    spec: dict[str, Any], root: Path, tmp_path: Path, unit: str
) -> None:
    fields = {"hparams": {"lr_schedule": "linear"}, "schedule": [0.1, 0.9], **LENGTHS[unit]}
    whole, cut = (begin(spec, root, tmp_path / name, **fields) for name in ("whole", "cut"))
    run_stage(whole)
    asked = itertools.count()
    assert run_stage(cut, interrupted=lambda: next(asked) == 2) is None, "it leaves after its third step"
    assert len(read_lines(cut / "metrics.jsonl")) == 3
    result = run_stage(cut)
    assert result is not None and result.state == "completed"
    assert rates(cut) == rates(whole)
    assert same_bits(last_checkpoint(cut), last_checkpoint(whole))


def test_a_stage_without_a_schedule_is_constant(spec: dict[str, Any], root: Path, tmp_path: Path) -> None:
    """As earlier versions described stages."""
    stage = begin(spec, root, tmp_path / "s", steps=2)
    described = json.loads((stage / "stage.json").read_text())
    del described["hparams"]["lr_schedule"], described["schedule"], described["trainer"]["lr_over"]
    (stage / "stage.json").write_text(json.dumps(described))
    run_stage(stage)
    assert rates(stage) == [PEAK, PEAK]


# --- in a search ---


def searched(directory: Path, *overrides: str) -> Path:
    common = ["experiment=simulated", f"search_dir={directory}", "stopper=none", "search.workers=1"]
    common += ["hparams.parameters.lr_schedule.default=linear", "search.max_depth=4"]
    Session.from_config(composed("search", SearchConfig, [*common, *overrides])).run()
    return directory


def schedules(search: Path) -> dict[str, list[float]]:
    specs = [json.loads(file.read_text()) for file in sorted(search.glob("nodes/*/stage.json"))]
    return {spec["node_id"]: spec["schedule"] for spec in specs}


def test_stages_of_a_path_share_a_schedule_where_it_spans_the_path(tmp_path: Path) -> None:
    chain = ["search=practitioner", "budget.stages=4"]
    apart = searched(tmp_path / "apart", *chain)
    assert set(map(tuple, schedules(apart).values())) == {(0, 1)}
    path = searched(tmp_path / "path", *chain, "trainer.lr_over=path")
    quarters = [[0, 1], [0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]]
    assert list(schedules(path).values()) == quarters
    assert [node.schedule for node in EventStore(path / "tree.jsonl").tree] == list(map(tuple, quarters))
    learnt = [rates(path / "nodes" / name) for name in ("0001", "0002", "0003", "0004")]
    peak = learnt[0][0]
    expected = [peak * (1 - step / 64) for step in range(64)]
    assert [rate for stage in learnt for rate in stage] == pytest.approx(expected, rel=1e-5)
    ends = [StageDir(search / "nodes/0004").validation()[-1].score for search in (apart, path)]
    assert ends[0] != ends[1], "the simulated policy learns at that rate"


def test_a_replay_decays_as_the_search_did_where_a_stage_is_cut_short(tmp_path: Path) -> None:
    search = searched(tmp_path / "s", "budget.stages=6", "trainer.lr_over=path")
    strategy = yaml.safe_load((search / "strategy.yaml").read_text())
    depth = len(strategy["stages"])
    assert [stage["schedule"] for stage in strategy["stages"]] == [
        [number / 4, (number + 1) / 4] for number in range(depth)
    ]
    strategy["stages"] = [deepcopy(strategy["stages"][0]) for _ in range(2)]
    strategy["stages"][0] |= {"steps": 16, "stop_at": 4}
    strategy["stages"][1] = {
        **strategy["stages"][1],
        "schedule": [0.5, 1.0],
        "stop_at": None,
        "resume": "last",
    }
    (tmp_path / "strategy.yaml").write_text(yaml.safe_dump(strategy))
    config = composed(
        "replay",
        ReplayConfig,
        [f"strategy={tmp_path}/strategy.yaml", f"search_dir={tmp_path}/r", "experiment=simulated"],
    )
    Session.from_config(chain_of(config)).run()
    assert schedules(tmp_path / "r") == {"0000": [0, 1], "0001": [0, 0.25 / 4], "0002": [0.5, 1]}


def test_a_catalogue_with_another_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lr_schedule\.choices: square is none of constant, wsd"):
        searched(tmp_path, "hparams.parameters.lr_schedule.choices=[constant,linear,square]")


def test_a_search_begun_without_schedules_says_how_to_go_on(tmp_path: Path) -> None:
    common = ["experiment=simulated", f"search_dir={tmp_path}"]

    def run(*overrides: str) -> int:
        config = composed("search", SearchConfig, [*common, *overrides])
        return int(Session.from_config(config).run()["nodes"]["total"])

    earlier = "~hparams.parameters.lr_schedule"
    assert run("budget.stages=2", earlier) == 3
    with pytest.raises(UserError, match=f"{earlier} goes on without lr_schedule"):
        run("budget.stages=4")
    assert run("budget.stages=4", earlier) == 5


def test_fixed_schedules_are_trained_over_the_whole_length(run_here: Run, tmp_path: Path) -> None:
    """Real training: the practitioner's arm, a staged context, and one cell of the grid, which decays."""
    run_here(
        *("search", *MICRO, "search=fixed", "search.max_depth=2", "search.stage_steps=2", "budget.stages=6"),
        *("search.workers=1", "stopper=none", "tracking=none", "hparams.parameters.warmup_steps.default=0"),
        *("hparams.parameters.prompts_per_step.choices=[4]", "model.hparams.prompts_per_step.default=4"),
        *("model.hparams.prompts_per_step.choices=[4]", "search.method.staged_context=[8,16,32]"),
        *("search.method.parameters={lr_schedule: 4, learning_rate: 1}", f"search_dir={tmp_path}/s"),
    )
    specs = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("s/nodes/*/stage.json"))][1:]
    assert [spec["schedule"] for spec in specs] == [[0, 0.5], [0.5, 1]] * 3
    limits = [spec["hparams"]["max_completion_length"] for spec in specs]
    assert limits == [16, 16, 8, 32, 16, 16]
    assert [spec["resume_from"] is None for spec in specs] == [False] * 6
    trained = [rates(tmp_path / "s/nodes" / spec["node_id"]) for spec in specs]
    schedule = specs[-1]["hparams"]["lr_schedule"]
    peak = specs[-1]["hparams"]["learning_rate"]
    expected = [peak * decayed(schedule, (0.0, 1.0), step / 4) for step in range(4)]
    assert trained[4] + trained[5] == pytest.approx(expected)
    assert schedule != "constant"
    best = json.loads((tmp_path / "s/summary.json").read_text())["best"]
    scores = [json.loads(file.read_text())["best_score"] for file in tmp_path.glob("s/nodes/*/result.json")]
    assert best["score"] == max(scores)
