"""Prompts are Jinja files: a task's own, in `prompts/` beside this file, or one of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmzero.core.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Template

DIRECTORY = Path(__file__).parent / "prompts"


def prompt_template(name: str, path: str | None) -> Template:
    """Return the template of a task's prompts; rendering it raises where it uses a name that the task lacks.

    Args:
        name: the task's own template, a file of `prompts/` without its ending.
        path: a file to use instead; None is the task's own.

    Raises:
        UserError: it cannot be read, or is no template.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    file = Path(path).expanduser() if path else DIRECTORY / f"{name}.jinja"
    try:
        return Environment(undefined=StrictUndefined).from_string(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise UserError(f"task.template={file}: {error}") from error
