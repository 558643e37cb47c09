"""What a spectator sees in the terminal: the growing tree, the running stages, budget and time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as RichTree

from llmzero.core.stage import StageStatus
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from llmzero.tree.workspace import Workspace

STATE_STYLES = {
    "queued": "dim",
    "running": "cyan",
    "completed": "green",
    "stopped": "yellow",
    "failed": "red",
}
REFRESH_PER_SECOND = 4
SHOWN_NODES = 40


class Display:
    """Live on a terminal; elsewhere one line for every stage that starts or ends."""

    def __init__(self, workspace: Workspace, budget: Budget, workers: int, agent: str) -> None:
        self.workspace, self.budget, self.workers, self.agent = workspace, budget, workers, agent
        self.console = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._seen = 0  # nodes
        self._open: dict[
            str, str
        ] = {}  # of those seen, the ones that have not ended, with the state that was told last
        self._drawn = 0.0

    @contextmanager
    def live(self, store: EventStore) -> Iterator[None]:
        """Show the search while it runs."""
        self._seen = len(store.tree)
        self._open = {node.node_id: node.state for node in store.tree if not node.final}
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=REFRESH_PER_SECOND, transient=True) as self._live:
            yield
        self._live = None

    def say(self, text: str) -> None:
        """Print a line above whatever is live."""
        self.console.print(text)

    def update(self, store: EventStore, running: Mapping[str, StageStatus], elapsed: float) -> None:
        """Redraw, or print the lines that are new."""
        if self._live is None:
            self._print_news(store.tree)
        elif time.monotonic() - self._drawn > 1 / REFRESH_PER_SECOND:
            self._drawn = time.monotonic()
            self._live.update(Group(tree_view(store.tree), self._running_view(store, running, elapsed)))

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
                self.console.print(f"{what}: {path}")

    def _print_news(self, tree: Tree) -> None:
        new = tree.since(self._seen)
        self._seen += len(new)
        for node in [*(tree[node_id] for node_id in self._open), *new]:
            if self._open.get(node.node_id) != node.state:
                self._open[node.node_id] = node.state
                print(f"[{tree_time()}] {node_text(node, tree)}", file=self.console.file, flush=True)
            if node.final:
                self._open.pop(node.node_id, None)

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
                f"{status.phase} {status.progress:4.0%}",
                last,
                f"{status.seconds:.0f} s",
            )
        return Group(
            table, Text(budget_line(store, self.budget, self.workers, self.agent, elapsed), style="dim")
        )


def budget_line(store: EventStore, budget: Budget, workers: int, agent: str, elapsed: float) -> str:
    """Return what a search has spent and how long it may still take, in a line."""
    ledger = store.ledger
    stages = f"{ledger.stages}/{budget.stages}" if budget.stages else str(ledger.stages)
    line = f"agent {agent} | stages {stages} | {elapsed:.0f} s | {ledger.gpu_seconds:.0f} gpu-seconds"
    if ledger.llm_calls:
        line += f" | {ledger.llm_calls} LLM calls, {ledger.llm_tokens} tokens, ${ledger.llm_dollars:.2f}"
    if ledger.stages and budget.stages:
        seconds = sum(n.result.seconds for n in store.tree.stages() if n.result) / ledger.stages
        rounds = (budget.stages - ledger.stages) / workers
        line += f" | about {seconds * rounds / 60:.1f} min left"
    return line


def tree_view(tree: Tree) -> RichTree:
    """Return the tree with scores, states and changes, the best path in bold; of a large tree that path and the newest stages."""
    best = tree.best() if len(tree) else None
    path = {node.node_id for node in tree.path(best.node_id)} if best else set()
    newest = tree.since(max(0, len(tree) - SHOWN_NODES))
    shown = path | {above.node_id for node in newest for above in tree.path(node.node_id)}
    views: dict[str | None, RichTree] = {}
    for node in (tree[node_id] for node_id in sorted(shown, key=int)):
        style = STATE_STYLES[node.state] + (" bold" if node.node_id in path else "")
        label = Text(("* " if node.node_id in path else "") + node_text(node, tree), style=style)
        parent = views.get(node.parent_id)
        views[node.node_id] = parent.add(label) if parent else RichTree(label)
    return next(iter(views.values()), RichTree("no stages yet"))


def node_text(node: Node, tree: Tree) -> str:
    """Return a node in one line: id, state, score, diagnosis and changes."""
    score = f"{node.score:.3f}" if node.score is not None else "  -  "
    if node.parent_id is None:
        return f"{node.node_id} {score} {node.state}: the base model"
    unchanged = "practitioner's configuration" if node.hparams == tree.root.hparams else "unchanged"
    changes = ", ".join(f"{name}={value}" for name, value in changed(node, tree).items()) or unchanged
    diagnosis = "+".join(node.proposal.get("diagnosis", ()))
    error = f" ({node.result.error})" if node.result and node.result.error else ""
    return f"{node.node_id} {score} {node.state}: {diagnosis + ' -> ' if diagnosis else ''}{changes}{error}"


def changed(node: Node, tree: Tree) -> dict[str, Any]:
    """Return a node's hyperparameters that differ from its parent's."""
    parent = tree[node.parent_id].hparams if node.parent_id else {}
    return {name: value for name, value in node.hparams.items() if parent.get(name) != value}


def result_view(summary: dict[str, Any]) -> Table:
    """Return base, practitioner and best side by side."""
    table = Table(title=f"search {escape(summary['search_id'])}: {summary['state']}", title_justify="left")
    for column in ("", "validation", "test", "steps", "gpu-seconds"):
        table.add_column(column)
    test = summary["test"] or {}
    validation = {"base": summary["base_score"], "best": summary["best"] and summary["best"]["score"]}
    for name in ("base", "practitioner", "best"):
        found = test.get(name)
        measured = f"{found['score']:.3f} ± {found['stderr']:.3f}" if found else "-"
        value = validation.get(name)
        spent = (str(found["steps"]), f"{found['gpu_seconds']:.0f}") if found else ("-", "-")
        table.add_row(name, f"{value:.3f}" if value is not None else "-", measured, *spent)
    return table


def confirmation_line(summary: dict[str, Any]) -> str:
    """Return what the confirmation of a search found, in a line."""
    confirmation = summary["confirmation"]
    if confirmation is None:
        return "one seed; not confirmed: search.confirm_seeds=3 runs the best strategies and the practitioner's configuration on fresh seeds"
    winner = confirmation["strategies"][confirmation["winner"]]
    p = winner["against"]["practitioner"]["p_welch"]
    parts = {
        confirmation["winner"]: winner,
        "practitioner": confirmation["practitioner"],
        "base": confirmation["base"],
    }
    scores = ", ".join(
        f"{name} {part['mean']:.3f}" + (f" ± {part['stderr']:.3f}" if part["stderr"] is not None else "")
        for name, part in parts.items()
    )
    grown = summary["nodes"]["total"] - 1 - confirmation["stages"]
    later = f"; {grown} stages later the search is not confirmed" if grown else ""
    return (
        f"test on {len(confirmation['seeds'])} fresh seeds: {scores}"
        + (f"; against practitioner p = {p:.2g}" if p is not None else "")
        + later
    )


def tree_time() -> str:
    """Return the time of day for a line of progress."""
    return time.strftime("%H:%M:%S")
