"""`task=jsonl`: problems from a file of JSON lines, with a verifier of choice."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmzero.core.documents import read_lines
from llmzero.core.errors import UserError
from llmzero.core.settings import REQUIRED, setting
from llmzero.tasks.base import Example
from llmzero.tasks.gold import ReadProblems, Rows, verified
from llmzero.tasks.settings import CheckedTaskSettings, unverified
from llmzero.tasks.splits import SPLIT_RANGES, Split, content_id, split_of
from llmzero.tasks.template import prompt_template
from llmzero.tasks.verified import Verified


@dataclass
class JsonLinesSettings(CheckedTaskSettings):
    """`task=jsonl`."""

    path: str = setting(REQUIRED, "the file")
    verifier: str = setting(
        "exact", "exact, numeric, choice, regex, math, or package.module.function; docs/tasks.md"
    )
    prompt_field: str = setting("prompt", "the key of a line's prompt")
    answer_field: str = setting("answer", "the key of a line's answer")
    unverified: str = unverified("refuse")

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        return (
            "Problems of a file; the stated answer is compared with the right one by the verifier"
            f" {self.verifier}. Reward and score: what that gives, 1 at the most."
        )


class JsonLines(ReadProblems, Verified):
    """A file with a problem a line: an object with a prompt, an answer, and whatever else the template uses.

    A problem that stands in the file twice counts once, and may not have two answers. Every right answer has
    to earn full marks for itself, unless `unverified` says otherwise. Lines with a `split` (train, val or
    test) belong to it; of others the hash of the prompt decides, 60 : 20 : 20. A template makes the prompt
    from a line's fields; the task's own shows the prompt as it is.
    """

    def __init__(self, settings: JsonLinesSettings) -> None:
        super().__init__(settings.verifier, settings.timeout_s, settings.workers)
        self.path = Path(settings.path).expanduser()
        self.source = str(self.path)
        self.prompt_field, self.answer_field = settings.prompt_field, settings.answer_field
        self.unverified = settings.unverified
        self.template = prompt_template("jsonl", settings.template)
        self.sizes = settings.sizes()
        self._splits = cache(self._read)

    def _read(self) -> dict[Split, list[Example]]:
        rows, splits = Rows(f"task.path={self.path}", self.unverified), dict[str, Split]()
        for location, record in read_lines("task.path", self.path):
            example = self._example(location, record)
            split = _split(location, record, example.id)
            if splits.setdefault(example.id, split) != split:
                raise UserError(
                    f"{location}: the same prompt stands in split {splits[example.id]}; a problem belongs to "
                    "one split"
                )
            rows.add(location, example)
        examples = [example for _, example in verified(self, rows)]
        return {name: [each for each in examples if splits[each.id] == name] for name in SPLIT_RANGES}

    def _example(self, location: str, record: dict[str, Any]) -> Example:
        """Return a line as a problem; `location` is file and line, for messages."""
        keys = (self.prompt_field, self.answer_field)
        for key in keys:
            value = record.get(key)
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                given = f"{key}={json.dumps(value)[:100]}" if key in record else ""
                names = ", ".join(map(repr, record)) or "nothing"
                raise UserError(f"{location}: needs a text or a number as {key!r}; it has {given or names}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{location}: {key!r} is {value}, which is no number; write it as a text")
            if not str(value).strip():
                raise UserError(f"{location}: {key!r} is empty")
        prompt, answer = (str(record[key]) for key in keys)
        try:
            rendered = self.template.render(**{**record, "prompt": prompt})
        except UserError as error:
            raise UserError(f"{location}: {error}") from error
        meta = {key: value for key, value in record.items() if key not in keys}
        return Example(content_id(" ".join(prompt.split())), rendered, answer, meta)


def _split(location: str, record: dict[str, Any], identity: str) -> Split:
    """Return the split that a line names; where it names none, the one that its prompt belongs to."""
    named = record.get("split")
    if named is None:
        return split_of(identity)
    for name in SPLIT_RANGES:
        if named == name:
            return name
    raise UserError(f"{location}: split={named!r}: must be one of {', '.join(SPLIT_RANGES)}")
