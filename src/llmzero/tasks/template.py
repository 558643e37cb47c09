"""Prompts are Jinja files: a task's own, in `prompts/` beside this file, or one of the user's.

A user's file may come from somebody else. It is rendered in Jinja's sandbox, which reaches nothing but the
fields of a problem, and in a process with limits of time, memory and size.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzero.core.errors import UserError
from llmzero.tasks.guard import Guard
from llmzero.tasks.guard_process import MEMORY_BYTES, VALUE_BYTES

if TYPE_CHECKING:
    from jinja2 import Template

DIRECTORY = Path(__file__).parent / "prompts"
RENDER_S = 1.0  # that one prompt may take
FILE_BYTES = 2**20  # of a template
LIMITS = (
    f"it takes more than {RENDER_S:g} s or {MEMORY_BYTES // 2**30} GiB, or makes a prompt of more than "
    f"{VALUE_BYTES} bytes"
)


class PromptTemplate:
    """A template of a task's prompts.

    Args:
        file: a Jinja file.
        trusted: whether it is our own, which is rendered in this process.
    """

    def __init__(self, file: Path, source: str, trusted: bool) -> None:
        self.file, self.source = file, source
        self._guard = None if trusted else Guard(rendered, RENDER_S, 1, examples=[("", None)])
        self._rendered(None)

    def render(self, /, **fields: Any) -> str:
        """Return the prompt of a problem.

        Raises:
            UserError: the template uses a name that the task lacks, does what no template may, or makes a
                prompt without end.
        """
        return self._rendered(fields)

    def close(self) -> None:
        """End the process that renders a user's file; the next prompt starts another."""
        if self._guard is not None:
            self._guard.close()

    def _rendered(self, fields: dict[str, Any] | None) -> str:
        call = (self.source, fields)
        result = rendered(*call) if self._guard is None else self._guard([call])[0]
        text, problem = result or (None, LIMITS)
        if text is None:
            names = "" if fields is None else f"; it has {', '.join(fields)}"
            raise UserError(f"task.template={self.file}: cannot be rendered: {problem}{names}")
        return str(text)


def prompt_template(name: str, path: str | None) -> PromptTemplate:
    """Return the template of a task's prompts.

    Args:
        name: the task's own template, a file of `prompts/` without its ending.
        path: a file to use instead; None is the task's own.

    Raises:
        UserError: it cannot be read, or is no template.
    """
    file = Path(path).expanduser() if path else DIRECTORY / f"{name}.jinja"
    try:
        if file.exists() and not (file.is_file() and file.stat().st_size <= FILE_BYTES):
            raise ValueError(f"it is no file of up to {FILE_BYTES} bytes")
        source = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"task.template={file}: cannot be read: {error}") from error
    return PromptTemplate(file, source, trusted=path is None)


def rendered(source: str, fields: dict[str, Any] | None) -> tuple[str | None, str]:
    """Return a template's text, or None and what is wrong with it; without fields only compile it."""
    try:
        template = _compiled(source)
        return "" if fields is None else template.render(fields), ""
    except MemoryError:
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(source)
