"""The terminal's door: all that commands print passes here, so that no secret passes and no text of others
gives orders.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from llmzero.core.redaction import redact_log, redacted
from llmzero.core.text import visible, visible_line


class GuardedStream:
    """A text stream that leaves out secrets and writes out what a terminal would obey.

    Everything else is the stream's own.

    Args:
        stream: the stream that the text goes to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text; a carriage return at its beginning stays, as progress bars of libraries need it."""
        begin = "\r" if text.startswith("\r") else ""
        self.stream.write(begin + visible(redacted(text.removeprefix("\r"))))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)


class OneLine(logging.Filter):
    """Puts the message of a log record on one line, so that it cannot pass for another record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through."""
        with suppress(TypeError, ValueError):  # logging itself tells of arguments that do not fit
            record.msg, record.args = visible_line(record.getMessage()), None
        return True


class Terminal(Console):
    """A rich console that shows text as it is: no markup, no emoji codes, no escapes but rich's own.

    Titles of panels and columns of progress bars read markup all the same: they take `Text` or markup=False.
    """

    def __init__(self, stream: TextIO | None = None, **options: Any) -> None:
        options = {"soft_wrap": True, **options}
        super().__init__(
            file=unguarded(stream or sys.stdout), markup=False, emoji=False, highlight=False, **options
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text, written out before its width counts."""
        return super().render_str(visible(redacted(text)), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of an object, their text written out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(redacted(segment.text)), segment.style)


def guard_output() -> None:
    """Guard standard output, standard error, the log and those of its handlers that are there, for good."""
    redact_log()
    sys.stdout, sys.stderr = (
        cast("TextIO", GuardedStream(_unfailing(unguarded(stream)))) for stream in (sys.stdout, sys.stderr)
    )
    for handler in (*logging.getLogger().handlers, logging.lastResort):
        if handler and not any(isinstance(each, OneLine) for each in handler.filters):
            handler.addFilter(OneLine())


def _unfailing(stream: TextIO) -> TextIO:
    """Return the stream, which from now on prints a ? for what its encoding lacks, and raises for nothing.

    Results are in files; a terminal that shows ASCII alone must not end the command that wrote them.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="replace")
    return stream


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream behind a guard."""
    return stream.stream if isinstance(stream, GuardedStream) else stream
