"""Problems from a file of JSON lines, with a verifier of choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmzero.core.documents import read_lines
from llmzero.core.errors import UserError
from llmzero.core.settings import REQUIRED, setting
from llmzero.tasks.base import SPLIT_RANGES, Example, Split, split_of
from llmzero.tasks.generated import content_id
from llmzero.tasks.settings import CheckedTaskSettings
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

    A problem that stands in the file twice counts once. Where lines have a `split` (train, val or test) they go there; else the hash of the
    prompt decides, 60 : 20 : 20. A template makes the prompt from a line's fields; without one the prompt is shown as it is.
    """

    def __init__(self, settings: JsonLinesSettings) -> None:
        super().__init__(settings.verifier, settings.timeout_s, settings.workers)
        self.path = Path(settings.path).expanduser()
        self.prompt_field, self.answer_field = settings.prompt_field, settings.answer_field
        self.template = prompt_template("jsonl", settings.template)
        self.sizes = settings.sizes()
        self._splits = cache(self._read)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the file's order."""
        examples, wanted = self._splits()[name], self.sizes[name]
        if len(examples) < (wanted or 1):
            raise UserError(
                f"{self.path}: split {name} has {len(examples)} problems, and needs {wanted or 1}"
            )
        return examples[:wanted]

    def _read(self) -> dict[str, list[Example]]:
        found: dict[str, dict[str, Example]] = {name: {} for name in SPLIT_RANGES}
        for place, record in read_lines("task.path", self.path):
            example = self._example(place, record)
            home = record.get("split") or split_of(example.id)
            if home not in found:
                raise UserError(f"{place}: split={home!r}: must be one of {', '.join(found)}")
            other = next(
                (name for name, examples in found.items() if name != home and example.id in examples), None
            )
            if other is not None:
                raise UserError(
                    f"{place}: the same prompt stands in split {other}; a problem belongs to one split"
                )
            found[home].setdefault(example.id, example)
        return {name: list(examples.values()) for name, examples in found.items()}

    def _example(self, place: str, record: dict[str, Any]) -> Example:
        for name in (self.prompt_field, self.answer_field):
            if not isinstance(record.get(name), str | int | float):
                raise UserError(
                    f"{place}: needs a text or a number as {name!r}; it has {', '.join(map(repr, record)) or 'nothing'}"
                )
        prompt, answer = str(record[self.prompt_field]), str(record[self.answer_field])
        shown = self._shown(place, {**record, "prompt": prompt})
        meta = {
            key: value for key, value in record.items() if key not in (self.prompt_field, self.answer_field)
        }
        return Example(content_id(" ".join(prompt.split())), shown, answer, meta)

    def _shown(self, place: str, fields: dict[str, Any]) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.template.render(fields))
        except TemplateError as error:
            raise UserError(
                f"{place}: task.template cannot be filled: {error}; it has {', '.join(fields)}"
            ) from error
