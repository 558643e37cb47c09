"""Every method on a real driver with simulated stages.

Killed at any event, or continued under a larger budget, it decides as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero import cli
from llmzero.search.judgements import Judgements
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.conftest import read_lines

METHODS = sorted(path.stem for path in (REPOSITORY / "conf/search").glob("*.yaml") if path.stem != "skill")
# They look at how many stages the budget leaves, so a larger one is another search.
FORECASTS = ("llmzero", "fixed")
EVENTS = 7  # that a driver writes, judgements included, before it is killed


class KilledError(BaseException):
    """The driver's process ends here."""


def composed(method: str, *overrides: str) -> SearchConfig:
    grid = ["search.method.parameters={learning_rate: 3, group_size: 2}"] if method == "grid" else []
    common = ["experiment=simulated", "search.max_depth=3", f"search={method}"]
    return cli.composed("search", SearchConfig, [*common, *grid, *overrides])


def run(config: SearchConfig, directory: Path, **budget: Any) -> list[tuple[Any, ...]]:
    """Run a search to its end and return its decisions, in order."""
    config = replace(config, search_dir=str(directory), budget=replace(config.budget, **budget))
    Session.from_config(config).run()
    created = [event for event in read_lines(directory / "tree.jsonl") if event["event"] == "created"]
    return [
        tuple(event[key] for key in ("node_id", "parent_id", "hparams", "proposal", "memo"))
        for event in created
    ]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_or_continued_search_decides_as_an_uninterrupted_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, workers: int
) -> None:
    """Twelve stages, by drivers that are killed again and again, and as five stages and then seven more."""
    config = composed(method, f"search.workers={workers}")
    whole = run(config, tmp_path / "whole", stages=12)
    # Of fixed schedules, no arm begins that the stages left cannot finish.
    assert (
        11 <= len(whole) <= 13 if method == "fixed" else len(whole) == (4 if method == "practitioner" else 13)
    )
    assert run_killed(monkeypatch, config, tmp_path / "killed", stages=12) == whole
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    assert judged(tmp_path / "killed") == judged(tmp_path / "whole")
    if method not in FORECASTS and workers == 1:
        assert run(config, tmp_path / "parts", stages=5) == whole[:6]
        assert run(config, tmp_path / "parts", stages=12) == whole


@pytest.mark.parametrize("method", ["llmzero", "random"])
def test_stages_go_on_in_the_order_of_simulated_time_after_a_kill_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    """Where stages begin shortly before others go on, whichever of them a new driver looks at first."""
    config = composed(method, "search.workers=2", "runner.landscape=deceptive", "seed=1")
    run(config, tmp_path / "whole", stages=12)
    run_killed(monkeypatch, config, tmp_path / "killed", stages=12)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")


def events(directory: Path) -> list[dict[str, Any]]:
    """All events but for the time; a stage whose driver was killed before it began is started again."""
    lines = [{**event, "elapsed": 0.0} for event in read_lines(directory / "tree.jsonl")]
    return [event for event in lines if event["event"] != "started" or event["attempt"] == 1]


def judged(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Every stage's judgements by the early stopper, but for the time."""
    files = sorted(directory.glob("nodes/*/stopper.jsonl"))
    return {file.parent.name: [{**line, "elapsed": 0.0} for line in read_lines(file)] for file in files}


def run_killed(
    monkeypatch: pytest.MonkeyPatch, config: SearchConfig, directory: Path, **budget: Any
) -> list[tuple[Any, ...]]:
    """Run a search to its end by drivers of which each is killed once it has written so many lines.

    They are events, or judgements of the early stopper: `EVENTS` of both.
    """
    written = 0

    def killing(write: Callable[..., None]) -> Callable[..., None]:
        def write_and_die(*line: Any, **fields: Any) -> None:
            nonlocal written
            write(*line, **fields)
            written += 1
            if written % EVENTS == 0:
                raise KilledError

        return write_and_die

    with monkeypatch.context() as patched:
        patched.setattr(EventStore, "append", killing(EventStore.append))
        patched.setattr(Judgements, "add", killing(Judgements.add))
        for attempt in range(100):
            try:
                decisions = run(config, directory, **budget)
            except KilledError:
                continue
            assert attempt > 0
            return decisions
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("method", METHODS)
def test_three_stages_at_a_time_and_no_limit_of_stages(tmp_path: Path, method: str) -> None:
    """Of a search that a limit of device seconds ends."""
    decisions = run(composed(method, "search.workers=3"), tmp_path / "s", stages=None, gpu_seconds=1000)
    assert len(decisions) > 3
    assert {proposal["agent"] for _, _, _, proposal, _ in decisions[1:]} <= {
        method,
        "practitioner",
        "rules",
        "search",
    }
    assert all(proposal["rationale"] for _, _, _, proposal, _ in decisions)
