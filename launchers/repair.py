#!/usr/bin/env python
"""Repair the event log of a search, tree.jsonl, of which a line was damaged.

What the line said is made again of the files of its stage: its creation of stage.json and
proposal.json, its end of result.json. What else a line may have said, a restarted search finds out
by itself. The damaged log is kept beside the new one. Then the command that began the search goes
on with it.
"""

from __future__ import annotations

from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.tree.lease import is_alive
from llmzero.tree.repair import repair
from llmzero.tree.workspace import workspace_argument


def main() -> None:
    """Repair the log of the directory on the command line and print what was done."""
    workspace = workspace_argument(__doc__)
    if is_alive(workspace.lease_file):
        raise UserError(f"{workspace.path}: a driver is running this search; end it first: launchers/stop.py")
    print("\n".join(repair(workspace)) or f"{workspace.tree_file}: nothing is damaged")


if __name__ == "__main__":
    run_command(main)
