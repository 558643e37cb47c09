"""The final test and the confirmation at equal compute, on the simulator, whose steps cost compute, too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmzero.cli import composed
from llmzero.mirrors.views import compute_line, result_view
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
    asked = ["search.test_constant=true", "search.workers=2"]
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
    assert "all fixed schedules failed" in caplog.text
    assert "best constant" not in capsys.readouterr().out


def test_fixed_schedules_that_fail_are_not_chosen(tmp_path: Path) -> None:
    runner = "runner._target_=tests.integration.odd_runners.FewArmsRunner"
    asked = ["search.test_constant=true", "search.workers=2"]
    constant = search(tmp_path / "s", *asked, runner)["constant"]
    (fixed,) = (tmp_path / "s/fixed").iterdir()
    inner = EventStore(fixed / "tree.jsonl", repair=False).tree
    states = [node.state for node in inner.children("0000")]
    assert len(states) == constant["arms"] >= 2
    assert set(states[1:]) == {"failed"}
    assert constant["about"] == "The practitioner's configuration."
    assert constant["flops"] == pytest.approx(constant["tuning_flops"])


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
