"""`task=jsonl`: problems from a file of JSON lines, with a verifier of choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmzero.core.documents import read_lines
from llmzero.core.errors import UserError
from llmzero.core.settings import REQUIRED, setting
from llmzero.tasks.base import Example
from llmzero.tasks.settings import CheckedTaskSettings
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


class JsonLines(Verified):
    """A file with a problem a line: an object with a prompt, an answer, and whatever else the template uses.

    A problem that stands in the file twice counts once. Lines with a `split` (train, val or test) belong to
    it; of others the hash of the prompt decides, 60 : 20 : 20. A template makes the prompt from a line's
    fields; the task's own shows the prompt as it is.
    """

    def __init__(self, settings: JsonLinesSettings) -> None:
        super().__init__(settings.verifier, settings.timeout_s, settings.workers)
        self.path = Path(settings.path).expanduser()
        self.prompt_field, self.answer_field = settings.prompt_field, settings.answer_field
        self.template = prompt_template("jsonl", settings.template)
        self.sizes = settings.sizes()
        self._splits = cache(self._read)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the file's order.

        Raises:
            UserError: the file cannot be used, or has fewer problems.
        """
        examples, size = self._splits()[name], self.sizes[name]
        if len(examples) < (size or 1):
            raise UserError(f"{self.path}: split {name} has {len(examples)} problems, and needs {size or 1}")
        return examples[:size]

    def _read(self) -> dict[Split, list[Example]]:
        splits: dict[Split, dict[str, Example]] = {name: {} for name in SPLIT_RANGES}
        for location, record in read_lines("task.path", self.path):
            example = self._example(location, record)
            split = record.get("split") or split_of(example.id)
            if split not in splits:
                raise UserError(f"{location}: split={split!r}: must be one of {', '.join(splits)}")
            for name, examples in splits.items():
                if name != split and example.id in examples:
                    raise UserError(
                        f"{location}: the same prompt stands in split {name}; a problem belongs to one split"
                    )
            splits[split].setdefault(example.id, example)
        return {name: list(examples.values()) for name, examples in splits.items()}

    def _example(self, location: str, record: dict[str, Any]) -> Example:
        """Return a line as a problem; `location` is file and line, for messages."""
        keys = (self.prompt_field, self.answer_field)
        for key in keys:
            if not isinstance(record.get(key), str | int | float):
                raise UserError(
                    f"{location}: needs a text or a number as {key!r}; "
                    f"it has {', '.join(map(repr, record)) or 'nothing'}"
                )
        prompt, answer = (str(record[key]) for key in keys)
        try:
            rendered = self.template.render(**{**record, "prompt": prompt})
        except UserError as error:
            raise UserError(f"{location}: {error}") from error
        meta = {key: value for key, value in record.items() if key not in keys}
        return Example(content_id(" ".join(prompt.split())), rendered, answer, meta)
