"""Files that are made of the event log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero import cli
from llmzero.search import outputs
from llmzero.search.outputs import Outputs
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore


class KilledError(BaseException):
    """The driver's process ends here."""


@pytest.mark.parametrize("step", ["export_strategy", "write_rule", "write_report"])
def test_a_summary_that_says_finished_is_the_last_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Studies and confirmations leave a search alone that has one, so nothing of it may be missing then."""
    config = cli.composed("search", SearchConfig, ["experiment=simulated", "budget.stages=3"])
    config = replace(config, search_dir=str(tmp_path / "s"))

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(outputs, step, killed)
        with pytest.raises(KilledError):
            Session.from_config(config).run()
    assert not (tmp_path / "s/summary.json").exists()
    summary = Session.from_config(config).run()
    assert summary["state"] == "finished"
    assert all((tmp_path / "s" / name).exists() for name in ("strategy.yaml", "rule.yaml", "report.html"))


def test_they_are_written_when_all_free_workers_have_their_next_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["experiment=simulated", "search=random", "search.workers=3", "budget.stages=12"]
    config = replace(cli.composed("search", SearchConfig, overrides), search_dir=str(tmp_path / "s"))
    seen: list[tuple[int, int]] = []

    def look(self: Outputs, store: EventStore) -> None:
        states = [node.state for node in store.tree.stages()]
        seen.append((len(states), states.count("running")))

    monkeypatch.setattr(Outputs, "refresh", look)
    Session.from_config(config).run()
    during = seen[:-1]  # the last is before the final test
    assert len(during) == 12
    assert all(running == 3 for stages, running in during if stages < 12)
