#!/usr/bin/env python
"""End a search cleanly: its stages write a checkpoint and keep their scores; the driver tests and reports.

Where no driver runs, its stages are ended and its waiting jobs cancelled; the command that began the search
takes up their results.
"""

from __future__ import annotations

from llmzero.cli import run_command
from llmzero.core.files import open_own
from llmzero.core.locations import refuse_links_out
from llmzero.core.stage import StageDir
from llmzero.stored import runner_of, stored_config
from llmzero.tree.lease import is_alive
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace, workspace_argument


def main() -> None:
    """Ask the driver, or else the stages themselves."""
    workspace = workspace_argument(__doc__)
    if is_alive(workspace.lease_file):
        open_own(workspace.stop_file).close()
        print("asked the driver to end the search")
    else:
        print(f"no driver is running; {end_stages(workspace)}")


def end_stages(workspace: Workspace) -> str:
    """Ask running stages to end, and take waiting jobs out of the queue; return what was done."""
    tree = EventStore(workspace.tree_file, repair=False).tree
    begun = [node for node in tree if node.under_way and node.state != "proposing"]
    directories = [workspace.nodes / node.node_id for node in begun]
    stages = [stage for stage in directories if stage.exists()]  # what was not begun needs no end
    for directory in (*stages, workspace.pilots):
        refuse_links_out(directory, workspace.path)
    runner = runner_of(stored_config(workspace.config_file), workspace.path)
    waiting = runner.cancel(stages) if runner else []
    for stage in stages:
        if stage.name not in waiting:
            StageDir(stage).request_stop()
    return f"asked {len(stages) - len(waiting)} stage(s) to end, cancelled {len(waiting)} waiting job(s)"


if __name__ == "__main__":
    run_command(main)
