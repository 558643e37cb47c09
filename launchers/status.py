#!/usr/bin/env python
"""Show a search, also one that runs elsewhere: tree, queue, stages at work, budget spent, time left."""

from __future__ import annotations

import time

from rich.table import Table

from llmzero.cli import run_command
from llmzero.core.stage import StageDir
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible_line
from llmzero.mirrors.views import budget_line, limit_line, proposing_row, tree_view
from llmzero.runners.base import StageRunner
from llmzero.stored import runner_of, stored_config, value_at
from llmzero.tree.lease import is_alive, read_lease
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Tree
from llmzero.tree.workspace import Workspace, workspace_argument

PHASE_LETTERS = 20  # one that took several lines could pass for another row


def main() -> None:
    """Print the state of a search directory."""
    workspace = workspace_argument(__doc__)
    config = stored_config(workspace.config_file)
    store = EventStore(workspace.tree_file, repair=False)
    console = Terminal()
    console.print(tree_view(store.tree))
    console.print(under_way(workspace, store.tree, runner_of(config, workspace.path)))
    console.print(proposed(workspace, store))
    agent, workers = str(value_at(vars(config), "agent.name")), config.search.workers
    console.print(budget_line(store, config.budget, workers, agent, store.ledger.seconds))
    console.print(limit_line(StageDir(workspace.nodes / ROOT).validation_limit()))
    console.print(driver_line(workspace, store))


def under_way(workspace: Workspace, tree: Tree, runner: StageRunner | None) -> Table:
    """Return the stages that have not ended: what their runner knows of them, phases, and last scores."""
    begun = [node.node_id for node in tree if node.under_way and node.state != "proposing"]
    stages = {node_id: StageDir(workspace.nodes / node_id) for node_id in begun}
    descriptions = runner.describe([stage.path for stage in stages.values()]) if runner else {}
    table = Table.grid(padding=(0, 2))
    for node_id, stage in stages.items():
        heartbeat, points = stage.status(), stage.validation()
        phase = visible_line(heartbeat.get("phase") or "not begun")[:PHASE_LETTERS]
        last = f"val {points[-1].score:.3f}" if points else ""
        table.add_row(
            f"stage {node_id}",
            visible_line(descriptions.get(node_id, "")),
            f"{phase} {heartbeat.get('progress', 0.0):4.0%}",
            last,
            f"{heartbeat.get('seconds', 0.0):.0f} s",
        )
    return table


def proposed(workspace: Workspace, store: EventStore) -> Table:
    """Return the stages that are being proposed, and for how long while there was a driver.

    The log tells up to its last event; every driver begins by writing the configuration.
    """
    told = max(file.stat().st_mtime for file in (workspace.tree_file, workspace.config_file))
    since = time.time() - told if is_alive(workspace.lease_file) else 0.0
    table = Table.grid(padding=(0, 2))
    for node in store.tree:
        if node.state == "proposing":
            table.add_row(*proposing_row(node, store.ledger.seconds + max(0.0, since)))
    return table


def driver_line(workspace: Workspace, store: EventStore) -> str:
    """Return who drives the search, in a line."""
    if is_alive(workspace.lease_file):
        lease = read_lease(workspace.lease_file) or {}
        return visible_line(f"driver: process {lease.get('pid')} on {lease.get('host')}")
    if store.ended:
        files = (workspace.report_file, workspace.summary_file)
        return visible_line(f"finished: {next(file for file in files if file.exists())}")
    return "no driver is running; the command that began the search goes on with it"


if __name__ == "__main__":
    run_command(main)
