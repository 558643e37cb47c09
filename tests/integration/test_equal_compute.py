"""The final test and the confirmation at equal compute, on the simulator, whose steps cost compute, too."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.cli import composed
from llmzero.core.length import Length
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.mirrors.views import compute_line, result_view
from llmzero.search.final_test import shortfall
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.outcomes import read_confirmation, read_test
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node
from tests.integration.conftest import read_lines

SIMULATED = ["experiment=simulated", "search.workers=1", "stopper=none", "budget.stages=8"]


def search(directory: Path, *overrides: str) -> dict[str, Any]:
    """Run a search; return its `test.json`."""
    config = composed("search", SearchConfig, [*SIMULATED, f"search_dir={directory}", *overrides])
    Session.from_config(config).run()
    test = read_test(directory)
    assert test is not None
    return test


def path_flops(directory: Path, node_id: str) -> float:
    path = EventStore(directory / "tree.jsonl", repair=False).tree.path(node_id)[1:]
    return sum(node.result.flops or 0.0 for node in path if node.result)


def dearest_step(stage: Path) -> float:
    return max(row["step_flops"] for row in read_lines(stage / "metrics.jsonl"))


@pytest.mark.parametrize("sized", ["steps", "flops"])
def test_the_practitioner_gets_the_compute_of_the_best_path(tmp_path: Path, sized: str) -> None:
    length = [] if sized == "steps" else ["search.stage_steps=null", "search.stage_flops=4e16"]
    test = search(tmp_path / "s", *length)
    best, practitioner = test["best"], test["practitioner"]
    assert best["flops"] == pytest.approx(path_flops(tmp_path / "s", best["node_id"]))
    (training,) = (tmp_path / "s/test").glob("practitioner-*-training")
    assert abs(practitioner["flops"] - best["flops"]) <= dearest_step(training)
    assert practitioner["steps"] > 1.3 * best["steps"], "its steps are cheaper, so it takes more of them"
    spec = json.loads((training / "stage.json").read_text())
    assert spec["steps"] is None
    assert spec["flops"] == pytest.approx(best["flops"] - path_flops(tmp_path / "s", "0001"))


def test_a_search_whose_compute_is_unknown_is_compared_in_steps(tmp_path: Path) -> None:
    """As earlier versions left it."""
    finished = tmp_path / "s"
    search(finished)
    (finished / "test.json").unlink()
    shutil.rmtree(finished / "test")
    for file in finished.glob("nodes/*/result.json"):
        file.write_text(json.dumps(without_flops(json.loads(file.read_text()))))
    events = [without_flops(event) for event in read_lines(finished / "tree.jsonl")]
    kept = [event for event in events if event["event"] not in ("ended", "setup")]
    (finished / "tree.jsonl").write_text("".join(json.dumps(event) + "\n" for event in kept))
    test = search(finished)
    assert test["best"]["flops"] is None
    assert test["practitioner"]["steps"] == test["best"]["steps"]
    assert compute_line(test).startswith("at equal steps")


def without_flops(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_flops(item) for key, item in value.items() if key != "flops"}
    return [without_flops(item) for item in value] if isinstance(value, list) else value


def test_a_practitioner_whose_first_stage_cost_more_than_the_best_path_begins_anew(tmp_path: Path) -> None:
    cheap = [
        "search=fixed",
        "search.max_depth=1",
        "budget.stages=3",
        "search.method.parameters={group_size: 2}",
    ]
    test = search(tmp_path / "s", *cheap, "hparams.parameters.group_size.default=32")
    tree = EventStore(tmp_path / "s/tree.jsonl", repair=False).tree
    first, best = tree.practitioner(), tree.best()
    assert first is not None and best is not None and isinstance(first, Node)
    if best.hparams["group_size"] < 32:
        (training,) = (tmp_path / "s/test").glob("practitioner-*-training")
        assert json.loads((training / "stage.json").read_text())["flops"] == test["best"]["flops"]
        assert abs(test["practitioner"]["flops"] - test["best"]["flops"]) <= dearest_step(training)
    else:
        assert test["practitioner"]["flops"] == test["best"]["flops"]
        assert not list((tmp_path / "s/test").glob("*-training"))


def test_the_best_constant_is_tuned_with_the_compute_of_the_search(tmp_path: Path) -> None:
    asked = ["search.test_constant=true", "search.workers=2", "budget.stages=16"]
    test = search(tmp_path / "s", *asked)
    best, constant = test["best"], test["constant"]
    store = EventStore(tmp_path / "s/tree.jsonl", repair=False)
    spent = store.ledger.flops
    assert spent is not None
    assert constant["arms"] == round(spent / best["flops"]) >= 2
    assert constant["tuning_flops"] == pytest.approx(constant["arms"] * best["flops"], rel=0.05)
    assert constant["flops"] == pytest.approx(best["flops"], rel=0.05)
    (fixed,) = (tmp_path / "s/fixed").iterdir()
    inner = EventStore(fixed / "tree.jsonl", repair=False).tree
    assert inner.children("0000")[0].hparams == inner.root.hparams
    scores = [node.score for node in inner if node.score is not None]
    assert constant["validation"] == max(scores), "validation selects, test reports"
    own = read_test(fixed)
    assert own is not None and constant["score"] == own["best"]["score"]
    charged = {event["name"] for event in read_lines(tmp_path / "s/tree.jsonl") if event["event"] == "setup"}
    assert f"fixed/{fixed.name}" in charged
    again = search(tmp_path / "s", *asked)
    assert again == test
    (tmp_path / "s/test.json").unlink()
    assert search(tmp_path / "s", *asked) == test, "what was tuned is not tuned again"


def test_where_every_fixed_schedule_fails_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    runner = "runner._target_=tests.integration.odd_runners.NoArmsRunner"
    test = search(tmp_path / "s", "search.test_constant=true", runner)
    assert test["constant"] is None and test["practitioner"]
    assert test["failed"] == {
        "constant": "1 of 1 fixed schedules failed: The practitioner's configuration. "
        "Stage 1 of 6: its training failed: no luck"
    }
    assert "constant: 1 of 1 fixed schedules failed" in caplog.text
    printed = capsys.readouterr().out
    assert re.search(r"best constant +│ - +│ failed +│ -", printed)
    assert "best constant failed: 1 of 1 fixed schedules failed" in printed.replace("\n", " ")


def test_an_arm_that_did_not_run_to_its_end_is_not_chosen_and_tried_again(tmp_path: Path) -> None:
    asked = ["search.test_constant=true", "search.max_depth=2", "budget.stages=6"]
    runner = "runner._target_=tests.integration.odd_runners.LastStageRunner"
    test = search(tmp_path / "s", *asked, runner)
    (fixed,) = (tmp_path / "s/fixed").iterdir()
    inner = EventStore(fixed / "tree.jsonl", repair=False).tree
    constant, best = test["constant"], inner.best()
    arms = inner.children("0000")
    assert best is not None and best.depth == 1, "it belongs to an arm that failed at its second stage"
    assert (constant["node_id"], constant["about"]) == ("0000", "The base model.")
    assert constant["score"] == test["base"]["score"]
    assert constant["arms"] == len(arms) >= 2
    assert test["failed"]["constant"].startswith(f"{len(arms) - 1} of {len(arms)} fixed schedules failed: ")
    spent = EventStore(tmp_path / "s/tree.jsonl", repair=False).ledger.setup_gpu_seconds
    again = search(tmp_path / "s", *asked, runner)
    inner = EventStore(fixed / "tree.jsonl", repair=False).tree
    assert "failed" not in again
    assert {node.state for node in inner.stages()} == {"completed"}
    assert {len(inner.path(node.node_id)) for node in inner.stages() if not node.children} == {3}
    assert max(node.attempts for node in inner.stages()) == 2
    best = inner.best()
    assert best is not None and again["constant"]["node_id"] == best.node_id != "0000"
    assert EventStore(tmp_path / "s/tree.jsonl", repair=False).ledger.setup_gpu_seconds > spent
    assert search(tmp_path / "s", *asked, runner) == again


def attempts(directory: Path) -> list[str]:
    return sorted(path.name.partition("-training")[2] for path in (directory / "test").glob("*-training*"))


def test_a_practitioner_that_crashed_has_no_score_and_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = "runner._target_=tests.integration.odd_runners.FailsOnceRunner"
    test = search(tmp_path / "s", runner)
    assert test["practitioner"] is None
    assert test["failed"] == {"practitioner": "its training failed: \\u001b[2Jout of luck"}
    assert compute_line(test) == "", "there is nothing to compare"
    printed = capsys.readouterr().out
    assert re.search(r"practitioner +│ - +│ failed +│ -", printed)
    assert "practitioner failed: its training failed" in printed
    assert attempts(tmp_path / "s") == [""]
    again = search(tmp_path / "s", runner)
    assert attempts(tmp_path / "s") == ["", "-2"]
    assert "failed" not in again
    assert abs(again["practitioner"]["flops"] / test["best"]["flops"] - 1) < 0.01
    setups = [event["name"] for event in read_lines(tmp_path / "s/tree.jsonl") if event["event"] == "setup"]
    assert sum("-training" in name for name in setups) == 2, "both attempts are charged"
    assert search(tmp_path / "s", runner) == again
    assert attempts(tmp_path / "s") == ["", "-2"]


@pytest.mark.parametrize(
    ("runner", "reason"), [("AlwaysFailsRunner", "its training failed: "), ("ShortRunner", "short of")]
)
def test_a_practitioner_that_never_trains_to_its_end_is_never_compared(
    tmp_path: Path, runner: str, reason: str
) -> None:
    for number in (1, 2):
        test = search(tmp_path / "s", f"runner._target_=tests.integration.odd_runners.{runner}")
        assert test["practitioner"] is None
        assert reason in test["failed"]["practitioner"]
        assert len(attempts(tmp_path / "s")) == number


def test_a_training_is_as_long_as_was_asked_for_within_half_a_step() -> None:
    point = ValidationPoint(10, 10, 0.5, 0.01, 100, 1.0)
    result = StageResult("completed", [point], 10, 0.5, Path("c"), 1.0, 1.0, flops=100.0)
    assert shortfall(result, Length(flops=104.9), True) is None
    assert shortfall(result, Length(flops=105.1), True) == (
        "its training ended after 10 steps (100 FLOPs), short of 105 FLOPs"
    )
    assert shortfall(result, Length(flops=105.1), False) is None, "of a table, which has no step in between"
    assert shortfall(result, Length(11), True) is not None
    assert shortfall(replace(result, flops=None), Length(flops=200.0), True) is None, "unknown"
    assert shortfall(replace(result, state="stopped"), Length(10), False) == "its training stopped"


def test_fixed_schedules_that_fail_are_not_chosen(tmp_path: Path) -> None:
    runner = "runner._target_=tests.integration.odd_runners.FewArmsRunner"
    asked = ["search.test_constant=true", "search.workers=2", "budget.stages=16"]
    constant = search(tmp_path / "s", *asked, runner)["constant"]
    (fixed,) = (tmp_path / "s/fixed").iterdir()
    inner = EventStore(fixed / "tree.jsonl", repair=False).tree
    states = [node.state for node in inner.children("0000")]
    assert len(states) == constant["arms"] >= 2
    assert set(states[1:]) == {"failed"}
    assert constant["about"] == "The practitioner's configuration."
    assert constant["flops"] == pytest.approx(constant["tuning_flops"])
    told = json.loads((tmp_path / "s/test.json").read_text())["failed"]["constant"]
    assert told.startswith(f"{len(states) - 1} of {len(states)} fixed schedules failed: ")


def test_where_no_fixed_schedule_passes_the_base_model_that_is_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = "runner._target_=tests.integration.odd_runners.HarmfulRunner"
    test = search(tmp_path / "s", "search.test_constant=true", runner)
    constant = test["constant"]
    assert constant["score"] == test["base"]["score"]
    assert (constant["steps"], constant["flops"], constant["gpu_seconds"]) == (0, 0.0, 0.0)
    assert constant["about"] == "The base model."
    assert constant["tuning_flops"] > 0
    printed = capsys.readouterr().out
    assert "the best of" in printed and "fixed schedules: The base model." in printed
    assert "at equal compute, within 1 %" in printed


def test_a_search_that_was_not_asked_for_the_best_constant_can_be_later(tmp_path: Path) -> None:
    assert "constant" not in search(tmp_path / "s")
    assert search(tmp_path / "s", "search.test_constant=true")["constant"]["arms"] >= 1


def test_the_last_screen_shows_all_four_and_how_equal_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = search(tmp_path / "s", "search.test_constant=true")
    printed = capsys.readouterr().out
    for words in (
        "base",
        "practitioner",
        "best constant",
        "best strategy",
        "FLOPs",
        "at equal compute, within",
    ):
        assert words in printed
    assert f"the best of {test['constant']['arms']} fixed schedules" in printed
    assert f"{test['practitioner']['flops']:.3g}" in printed
    summary = json.loads((tmp_path / "s/summary.json").read_text())
    assert summary["test"] == test
    told = [str(text) for text in result_view(summary).renderables[2:]]
    for words in ("along the best path", "best constant", "at equal compute", "completions of up to"):
        assert sum(words in line for line in told) == 1
    assert '"Test score at equal compute"' in (tmp_path / "s/report.html").read_text()


def test_replays_of_a_confirmation_are_compared_at_equal_compute(tmp_path: Path) -> None:
    search(tmp_path / "s", "search.confirm_seeds=2", "search.confirm_top=1")
    found = read_confirmation(tmp_path / "s")
    assert found is not None
    strategy, practitioner = found["strategies"][found["winner"]], found["practitioner"]
    assert practitioner["flops"] == pytest.approx(strategy["flops"], rel=0.1)
    assert practitioner["steps"] > 1.3 * strategy["steps"]


def test_a_replay_of_the_practitioner_that_failed_is_left_out_and_run_again(tmp_path: Path) -> None:
    asked = ["search.confirm_seeds=2", "search.confirm_top=1", "budget.stages=3"]
    asked.append("runner._target_=tests.integration.odd_runners.ConfirmedBadlyRunner")
    search(tmp_path / "s", *asked)
    first = read_confirmation(tmp_path / "s")
    assert first is not None
    assert first["practitioner"]["incomplete"] == len(first["practitioner"]["test"]) == 1
    (ours,) = first["strategies"].values()
    apart = ours["test"][0] - first["practitioner"]["test"][0]
    assert ours["against"]["practitioner"]["difference"] == pytest.approx(apart)
    search(tmp_path / "s", *asked)
    again = read_confirmation(tmp_path / "s")
    assert again is not None
    assert (again["practitioner"]["incomplete"], len(again["practitioner"]["test"])) == (0, 2)
    assert again["practitioner"]["test"][0] == first["practitioner"]["test"][0]
