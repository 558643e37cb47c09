"""What a summary says that early stopping saved, against running the stopped stages on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmzero import cli
from llmzero.core.parts import make
from llmzero.core.stage import StageDir, StageResult, ValidationPoint
from llmzero.mirrors.stopping import stopping_record
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from tests.integration.searches import FORESEEABLE

FAMILIES = ("easy", "deceptive", "length_explosion", "noisy")


@pytest.mark.parametrize(
    ("landscape", "steps", "every", "workers"),
    [
        *((family, steps, 4, 1) for family in FAMILIES for steps in (16, 32)),
        ("memory_wall", 20, 8, 1),
        ("nano", 20, 8, 1),
        ("easy", 16, 3, 1),
        ("length_explosion", 24, 1, 4),
    ],
)
def test_what_is_saved_is_what_running_on_would_have_cost(
    tmp_path: Path, landscape: str, steps: int, every: int, workers: int
) -> None:
    overrides = ["experiment=simulated", f"runner.landscape={landscape}", "budget.stages=12"]
    overrides += [f"search.stage_steps={steps}", f"trainer.validation_every={every}"]
    overrides += [f"search.workers={workers}", "stopper.min_step=4", "stopper.min_points=2"]
    overrides += ["stopper.level_z=0", "stopper.z=0", *FORESEEABLE, f"search_dir={tmp_path}/s"]
    config = cli.composed("search", SearchConfig, overrides)
    summary = Session.from_config(config).run()
    stages = [node for node in EventStore(tmp_path / "s/tree.jsonl").tree.stages() if node.state == "stopped"]
    assert len(stages) == summary["stopper"]["stopped"] > 0
    runner = make(config.runner, "runner", workers=1, catalogue=config.catalogue, secrets=[])
    cost = 0.0
    for node in stages:
        stage = StageDir(tmp_path / "s/nodes" / node.node_id).read_spec()
        whole = tmp_path / "whole" / node.node_id
        whole.mkdir(parents=True)
        handle = runner.start(replace(stage, directory=whole))
        while not handle.poll().final:
            pass
        assert node.result
        cost += handle.result().gpu_seconds - node.result.gpu_seconds
    assert summary["stopper"]["saved_gpu_seconds"] == pytest.approx(cost, rel=0.08)


def test_what_was_saved_of_a_stage_without_end_is_told_at_once() -> None:
    """A trillion steps of two seconds on two devices, with a validation of one second each four of them."""
    point = ValidationPoint(4, 4, 0.5, 0.1, 100, 1.0)
    result = StageResult("stopped", [point], 4, 0.5, Path("c"), seconds=10.0, gpu_seconds=20.0)
    tree = Tree()
    tree.add(Node("0000", None, 0, {}, 0, None, {}))
    stop = {"event": "stop_requested", "incumbent": 0.6}
    tree.add(Node("0001", "0000", 1, {}, 10**12, None, {}, state="stopped", result=result, stop=stop))
    rows = [{"step": step, "step_seconds": 2.0, "seconds_validation": 1.0} for step in range(1, 5)]
    saved = stopping_record(tree, lambda node_id: rows)["saved_gpu_seconds"]
    assert saved == pytest.approx(2 * (10**12 - 4) * (2 + 1 / 4))
