"""A confirmation in the terminal: the replays under way, how many have ended, and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmzero.core.stage import StageStatus, ValidationPoint
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible_line
from llmzero.mirrors.live import LiveView
from llmzero.tree.store import EventStore


def _last_step(points: Sequence[ValidationPoint]) -> int:
    return points[-1].step if points else 0


class ReplaysDisplay:
    """Live on a terminal; elsewhere one line for every replay that begins or ends.

    Args:
        steps: GRPO steps of each replay, by its name.
        begun, ended: what is said of one that begins, and of one that has ended.
    """

    def __init__(self, steps: Mapping[str, int], begun: str = "Confirming", ended: str = "Confirmed") -> None:
        self.steps, self.words = steps, (begun, ended)
        self.console = Terminal()
        self._live = LiveView(self.console)
        self._began = time.monotonic()
        self._before: dict[str, float] = {}  # steps that earlier drivers did
        self._running: dict[str, float] = {}  # steps that are done
        self._ended: set[str] = set()

    def live(self) -> AbstractContextManager[None]:
        """Show the replays while they run."""
        return self._live.shown()

    def begin(self, name: str) -> ReplayDisplay:
        """Tell that a replay begins; return what takes note of its progress."""
        self._running[name] = 0.0
        self.console.print(visible_line(f"{self.words[0]} {name} ... ({self._count()})"))
        return ReplayDisplay(self, name)

    def note(self, name: str, done: float) -> None:
        """Take note of the steps that a running replay has done."""
        self._before.setdefault(name, done)
        self._running[name] = done
        self._live.draw(self._view)

    def end(self, name: str) -> None:
        """Tell that a replay has ended; one that had ended before is only counted."""
        self._ended.add(name)
        if self._running.pop(name, None) is None:
            self._before[name] = self.steps[name]
        else:
            self.console.print(visible_line(f"{self.words[1]} {name} ({self._count()})"))

    def _count(self) -> str:
        """Return how many replays have ended, and the time left by the pace of this driver."""
        done = sum(self.steps[name] for name in self._ended) + sum(self._running.values())
        here = done - sum(self._before.values())
        count = f"{len(self._ended)} of {len(self.steps)}"
        if here <= 0 or len(self._ended) == len(self.steps):
            return count
        left = (sum(self.steps.values()) - done) * (time.monotonic() - self._began) / here
        return f"{count}, about {left / 60:.1f} min left"

    def _view(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for name, done in self._running.items():
            bar = ProgressBar(total=self.steps[name], completed=done, width=24)
            table.add_row(visible_line(name), bar, f"{done:.0f} of {self.steps[name]} steps")
        return Group(table, Text(f"confirming: {self._count()}", style="dim"))


class ReplayDisplay:
    """What a replay among others shows by itself: nothing. It passes its progress on."""

    def __init__(self, parent: ReplaysDisplay, name: str) -> None:
        self._parent, self._name = parent, name

    def live(self, store: EventStore) -> AbstractContextManager[None]:
        """Show nothing while the replay runs."""
        return nullcontext()

    def say(self, text: str) -> None:
        """Print nothing."""

    def update(self, store: EventStore, running: Mapping[str, StageStatus], elapsed: float) -> None:
        """Pass on how many steps are done."""
        tree = store.tree
        ended = sum(_last_step(node.result.validation) for node in tree.finished if node.result)
        under_way = sum(
            status.progress * (tree[node_id].steps or 0) or _last_step(status.validation)
            for node_id, status in running.items()
        )
        self._parent.note(self._name, ended + under_way)
