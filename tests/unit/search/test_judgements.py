"""What the stopper decided is read back by the next driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmzero.core.errors import DamagedFileError
from llmzero.search.judgements import Judgements


def decided(step: int, *, stop: bool = False, seconds: float = 0.0) -> dict[str, Any]:
    return {"step": step, "seconds": seconds, "stop": stop, "reason": f"at {step}", "details": {}}


def test_a_validation_that_was_judged_is_found_and_others_are_not(tmp_path: Path) -> None:
    first = Judgements(tmp_path / "stopper.jsonl")
    assert first.about(4) is None
    assert first.latest(100.0) == 0.0
    first.add(decided(4, seconds=3.0))
    first.add(decided(8, seconds=7.5))
    for judgements in (first, Judgements(tmp_path / "stopper.jsonl")):
        assert judgements.about(4) == decided(4, seconds=3.0)
        assert judgements.about(8) == decided(8, seconds=7.5)
        assert judgements.about(12) is None
        assert [judgements.latest(seconds) for seconds in (2.9, 3.0, 7.4, 100.0)] == [0.0, 3.0, 3.0, 7.5], (
            "of a stage that is computed again, those to come do not count"
        )


def test_a_decision_to_stop_stands_for_later_validations(tmp_path: Path) -> None:
    """Its driver was killed before it could act, and the stage has gone on since."""
    Judgements(tmp_path / "stopper.jsonl").add(decided(8, stop=True))
    found = Judgements(tmp_path / "stopper.jsonl")
    assert found.about(4) is None
    assert found.about(8) == found.about(20) == decided(8, stop=True)


def test_decisions_of_earlier_versions_are_read_and_damaged_ones_named(tmp_path: Path) -> None:
    file = tmp_path / "stopper.jsonl"
    file.write_text('{"step": 8, "stop": false, "reason": "early", "details": {}, "gpu_seconds": 7.0}\n')
    assert Judgements(file).about(8) is not None
    assert Judgements(file).latest(9.0) == 0.0
    file.write_text('{"step": 8, "stop": false, "reason": "early", "details": {}}\n{"step": "8"}\n')
    with pytest.raises(DamagedFileError, match=r"stopper\.jsonl:2: cannot be read .*; delete that line"):
        Judgements(file)
