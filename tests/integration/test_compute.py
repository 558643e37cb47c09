"""Searches and replays whose stages, budget and lengths are told in FLOPs; on the simulator, whose count is
the trainer's formula.
"""

from __future__ import annotations

import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.documents import dump_yaml, read_yaml
from llmzero.core.files import read_json
from llmzero.core.stage import StageDir
from llmzero.mirrors.views import budget_line
from llmzero.strategies.schedule import load_strategy
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from tests.integration.conftest import Run, read_lines

SIMULATED = ["experiment=simulated", "tracking=none", "search.report=false", "stopper=none"]
SEARCH = [*SIMULATED, "search=random", "search.workers=1"]
LENGTH = 2e17  # some thirty steps of the practitioner's


def stages_of(directory: Path) -> list[Any]:
    return EventStore(directory / "tree.jsonl", repair=False).tree.stages()


@pytest.fixture(scope="module")
def sized(run_here: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of stages that are as long in FLOPs."""
    directory = tmp_path_factory.mktemp("sized") / "search"
    own = ["search.stage_steps=null", f"search.stage_flops={LENGTH}", "budget.stages=null"]
    own += [f"budget.flops={6.6 * LENGTH}", "trainer.validations=3"]
    run_here("search", *SEARCH, *own, f"search_dir={directory}")
    return directory


def test_stages_sized_in_flops_cost_alike_and_differ_in_steps(sized: Path) -> None:
    ended = [node for node in stages_of(sized) if node.state == "completed"]
    for node in ended:
        metrics = StageDir(sized / "nodes" / node.node_id).metrics()
        assert node.result.flops == pytest.approx(sum(row["step_flops"] for row in metrics), rel=1e-12)
        step = max(row["step_flops"] for row in metrics)
        assert len(metrics) == 1 or abs(node.result.flops - LENGTH) <= 0.6 * step
        assert len(node.result.validation) == min(3, len(metrics))
    assert len({node.result.validation[-1].step for node in ended}) > 1


def test_a_budget_of_flops_is_spent_up_to_half_a_stage(sized: Path) -> None:
    store = EventStore(sized / "tree.jsonl", repair=False)
    spent = sum(node.result.flops or 0.0 for node in store.tree.stages() if node.result)
    assert 6.1 * LENGTH <= spent <= 7.1 * LENGTH, "6.6 of them were to be spent"
    assert store.ledger.flops == pytest.approx(spent)
    summary = read_json(sized / "summary.json") or {}
    assert summary["budget"]["flops"] == pytest.approx(spent)
    assert summary["trajectory"][-1]["flops"] == pytest.approx(spent)


def test_compute_along_a_path_is_that_of_its_steps(sized: Path) -> None:
    store = EventStore(sized / "tree.jsonl", repair=False)
    for node in store.tree.stages():
        before = store.tree.flops_before(node)
        assert before is not None
        for point in node.result.validation if node.result else []:
            rows = StageDir(sized / "nodes" / node.node_id).metrics()
            own = sum(row["step_flops"] for row in rows if row["step"] <= point.step)
            assert point.flops == pytest.approx(before + own, rel=1e-12)


@pytest.mark.parametrize("lengths", ["steps", "flops"])
def test_a_replay_keeps_steps_or_compute(sized: Path, run_here: Run, tmp_path: Path, lengths: str) -> None:
    from llmzero.cli import composed
    from llmzero.search.settings import SearchConfig

    catalogue = composed("search", SearchConfig, SIMULATED).catalogue
    planned = load_strategy(sized / "strategy.yaml", catalogue)
    strategy = f"strategy={sized}/strategy.yaml"
    run_here("replay", *SIMULATED, strategy, f"lengths={lengths}", "seed=7", f"search_dir={tmp_path}/again")
    trained = stages_of(tmp_path / "again")
    assert len(trained) == len(planned)
    for stage, node in zip(planned, trained, strict=True):
        told = (node.steps, node.flops)
        assert told == ((stage.end, None) if lengths == "steps" else (None, stage.flops))
    assert all(stage.flops == LENGTH for stage in planned)


def test_a_strategy_without_compute_is_not_replayed_by_it(run_here: Run, tmp_path: Path) -> None:
    strategy = tmp_path / "strategy.yaml"
    strategy.write_text(dump_yaml({"format": 1, "stages": [{"steps": 4, "changes": {}}]}))
    failed = run_here(
        "replay",
        *SIMULATED,
        f"strategy={strategy}",
        "lengths=flops",
        f"search_dir={tmp_path}/again",
        ok=False,
    )
    assert "has no flops" in failed.stderr
    assert not (tmp_path / "again/tree.jsonl").exists()


def test_a_stage_that_resumes_from_a_step_is_replayed_by_compute(run_here: Run, tmp_path: Path) -> None:
    """The stage before ends with the compute that the step was worth, at another step with other noise."""
    stages = [
        {"steps": 16, "flops": 3e17, "changes": {"group_size": 16}},
        {"steps": 10, "flops": 2e17, "changes": {"learning_rate": 2e-6}, "resume": 8},
    ]
    strategy = tmp_path / "strategy.yaml"
    strategy.write_text(dump_yaml({"format": 1, "stages": stages}))
    again = f"search_dir={tmp_path}/again"
    run_here("replay", *SIMULATED, f"strategy={strategy}", "lengths=flops", again)
    first, second = stages_of(tmp_path / "again")
    assert (first.flops, second.flops) == (1.5e17, 2e17)
    assert first.result.validation[-1].step != 8
    assert second.resume_from == first.result.last_checkpoint
    assert (second.state, second.proposal["resume"]) == ("completed", "last")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["search.stage_flops=1e16"], "search.stage_steps=16, search.stage_flops=1e+16: one of them"),
        (["search.stage_steps=null"], "search.stage_steps=None, search.stage_flops=None: one of them"),
        (["search.stage_steps=null", "search.stage_flops=inf"], "search.stage_flops=inf: must be from 1 to"),
        (
            ["search.stage_steps=null", "search.stage_flops=1e16", "budget.flops=4.9e15"],
            "budget.flops=4.9e+15: less than half of search.stage_flops=1e+16, so no stage would begin",
        ),
        (["budget.flops=inf"], "budget.flops=inf: must be from 0 to"),
    ],
)
def test_a_length_is_given_one_way(run_here: Run, tmp_path: Path, settings: list[str], message: str) -> None:
    failed = run_here("search", *SEARCH, *settings, f"search_dir={tmp_path}/s", "dry_run=true", ok=False)
    assert message in failed.stderr


def test_a_search_of_an_earlier_version_goes_on_and_says_that_its_compute_is_unknown(
    run_here: Run, tmp_path: Path
) -> None:
    search = tmp_path / "search"
    common = [*SEARCH, f"search_dir={search}"]
    run_here("search", *common, "budget.stages=3")
    forget_compute(search)
    failed = run_here("search", *common, "budget.stages=null", "budget.flops=1e18", ok=False)
    assert "budget.flops=1e+18: what stages of this search have cost is unknown" in failed.stderr
    run_here("search", *common, "budget.stages=5")
    store = EventStore(search / "tree.jsonl", repair=False)
    unknown = [node.result.flops is None for node in store.tree.stages() if node.result]
    assert unknown == [True] * 3 + [False] * 2
    assert store.ledger.flops is None
    assert (read_json(search / "summary.json") or {})["budget"]["flops"] is None
    assert "| unknown FLOPs |" in budget_line(store, Budget(), 1, "random", 1.0)


def forget_compute(search: Path) -> None:
    """Take from a search's files what versions before this did not write."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            names = [name for name in value if name not in ("flops", "step_flops", "setup_flops")]
            return {name: without(value[name]) for name in names}
        return [without(item) for item in value] if isinstance(value, list) else value

    for file in [*search.rglob("*.json"), *search.rglob("COMPLETE")]:
        file.write_text(json.dumps(without(json.loads(file.read_text()))))
    for file in search.rglob("*.jsonl"):
        file.write_text("".join(json.dumps(without(row)) + "\n" for row in read_lines(file)))
    config = read_yaml(search / "config.yaml")
    for group, names in (
        ("metrics.metrics", ("flops", "step_flops")),
        ("search", ("stage_flops", "test_constant")),
        ("budget", ("flops",)),
        ("trainer", ("validations", "lr_over")),
    ):
        values = reduce(getitem, group.split("."), config)
        for name in names:
            del values[name]
    (search / "config.yaml").write_text(dump_yaml(config))
