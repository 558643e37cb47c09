"""What the early stopper decided about a stage, kept beside it, so that no validation is judged twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmzero.core.files import append_jsonl, read_records
from llmzero.core.shapes import NUMBER, require

REMEDY = "delete that line, and the stopper is asked again"


class Judgements:
    """The decisions about one stage, in `stopper.jsonl`: an earlier driver's are as good as this one's.

    Raises:
        DamagedFileError: the file holds something else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._records = read_records(file, _checked, REMEDY)

    def about(self, step: int) -> Mapping[str, Any] | None:
        """Return what was decided about the validation of a step, or before it to stop; None if nothing."""
        decided = [record for record in self._records if record["step"] == step]
        to_stop = [record for record in self._records if record["step"] < step and record["stop"]]
        return next(iter([*to_stop, *decided]), None)

    def latest(self, seconds: float) -> float:
        """Return when the stage was judged last, in its own seconds, of which so many have passed; or 0."""
        moments = (record.get("seconds", 0.0) for record in self._records)
        return max((moment for moment in moments if moment <= seconds), default=0.0)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a decision: its `step`, the stage's `seconds`, whether to `stop`, and the evidence."""
        append_jsonl(self._file, [record])
        self._records.append(dict(record))


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    require(record, {"step": int, "seconds?": NUMBER, "stop": bool, "reason": str, "details": dict})
    return record
