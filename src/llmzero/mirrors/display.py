"""A search in the terminal while it runs: the growing tree, the running stages, budget and time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmzero.core.stage import StageStatus
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible_line
from llmzero.mirrors.live import LiveView
from llmzero.mirrors.views import (
    budget_line,
    confirmation_line,
    node_text,
    proposing_row,
    result_view,
    tree_view,
)
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Tree
from llmzero.tree.workspace import Workspace


class Display:
    """Live on a terminal; elsewhere one line for every stage that starts or ends."""

    def __init__(self, workspace: Workspace, budget: Budget, workers: int, agent: str) -> None:
        self.workspace, self.budget, self.workers, self.agent = workspace, budget, workers, agent
        self.console = Terminal()
        self._view = LiveView(self.console)
        self._seen = 0  # nodes
        self._open: dict[str, str] = {}  # of those seen that have not ended: the state printed last

    @contextmanager
    def live(self, store: EventStore) -> Iterator[None]:
        """Show the search while it runs."""
        self._seen = len(store.tree)
        self._open = {node.node_id: node.state for node in store.tree if node.under_way}
        with self._view.shown():
            yield

    def say(self, text: str) -> None:
        """Print a line above whatever is live."""
        self.console.print(visible_line(text))

    def update(self, store: EventStore, running: Mapping[str, StageStatus], elapsed: float) -> None:
        """Redraw, or print the lines that are new."""
        if not self._view.is_shown:
            self._print_news(store.tree)
        self._view.draw(lambda: Group(tree_view(store.tree), self._running_view(store, running, elapsed)))

    def finish(self, store: EventStore, summary: dict[str, Any]) -> None:
        """Print the tree, the result and where everything lies."""
        self.console.print(tree_view(store.tree))
        self.console.print(result_view(summary))
        if summary["method"] != "replay":
            self.console.print(confirmation_line(summary))
        for what, path in (
            ("report", self.workspace.report_file),
            ("strategy", self.workspace.strategy_file),
        ):
            if path.exists():
                self.console.print(f"{what}: {visible_line(path)}")

    def _print_news(self, tree: Tree) -> None:
        self._open |= {node.node_id: "" for node in tree.since(self._seen)}
        self._seen = len(tree)
        changed = [tree[node_id] for node_id, state in self._open.items() if tree[node_id].state != state]
        for node in changed:
            self._open[node.node_id] = node.state
            now = time.strftime("%H:%M:%S")
            print(f"[{now}] {node_text(node, tree)}", file=self.console.file, flush=True)
            if not node.under_way:
                del self._open[node.node_id]

    def _running_view(
        self, store: EventStore, running: Mapping[str, StageStatus], elapsed: float
    ) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for node_id, status in running.items():
            last = f"val {status.validation[-1].score:.3f}" if status.validation else ""
            bar = ProgressBar(total=1.0, completed=status.progress, width=24)
            table.add_row(
                f"stage {node_id}",
                bar,
                visible_line(f"{status.phase} {status.progress:4.0%}"),
                last,
                f"{status.seconds:.0f} s",
            )
        for node in store.tree:
            if node.state == "proposing":
                name, told = proposing_row(node, elapsed)
                table.add_row(name, "", told)
        return Group(
            table, Text(budget_line(store, self.budget, self.workers, self.agent, elapsed), style="dim")
        )
