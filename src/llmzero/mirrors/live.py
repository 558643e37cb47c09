"""What is live on a terminal while a command runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live

from llmzero.core.terminal import Terminal

REFRESH_PER_SECOND = 4


class LiveView:
    """A view below a console's lines, drawn anew a few times a second; none where that is no terminal."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live: Live | None = None
        self._drawn = 0.0

    @property
    def is_shown(self) -> bool:
        """Whether there is one now."""
        return self._live is not None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it until the end of the context."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=REFRESH_PER_SECOND, transient=True) as self._live:
            yield
        self._live = None

    def draw(self, view: Callable[[], RenderableType]) -> None:
        """Replace what is shown, unless it was replaced just now."""
        if self._live is not None and time.monotonic() - self._drawn > 1 / REFRESH_PER_SECOND:
            self._drawn = time.monotonic()
            self._live.update(view())
