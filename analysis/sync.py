"""Mirrors finished searches into Weights & Biases: `python -m analysis.sync runs/a`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.commands import command_parser
from analysis.load import find_searches
from llmzero.cli import run_command
from llmzero.core.files import reading
from llmzero.core.settings import path_argument, read
from llmzero.mirrors.tracking import WandbTracking
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.tree.workspace import Workspace, read_config

HELP = """\
Mirror searches into Weights & Biases from their directories. Runs that are there are left alone, so doing it
twice adds nothing.

A DIRECTORY is a search, or holds searches, as that of a study does. Project, entity, fork and checkpoint are
those of each search's own configuration unless options say otherwise.
"""
EXAMPLES = """\
examples:
  WANDB_API_KEY=... python -m analysis.sync runs/countdown
  python -m analysis.sync runs/study --mode offline --project elsewhere
"""
SETTINGS = ("project", "entity", "fork", "checkpoint")


@dataclass(frozen=True)
class Target:
    """Where searches are sent; a field that is None is taken from the configuration of each search."""

    mode: str
    project: str | None = None
    entity: str | None = None
    fork: bool | None = None
    checkpoint: bool | None = None

    def tracking(self, search_dir: Path) -> WandbTracking:
        """Return the mirror of a search directory.

        Raises:
            UserError: what its configuration says of tracking is of another type.
        """
        file = Workspace(search_dir).config_file
        with reading(file):
            configured = dict(read_config(file)["tracking"])
            settings = {name: configured[name] for name in SETTINGS if name in configured}
        settings |= {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}
        return WandbTracking(read(TrackingSettings, {"mode": self.mode, **settings}, f"{file}: tracking"))


def searches_in(directories: Iterable[Path]) -> list[Path]:
    """Return the search directories at and below these directories.

    Raises:
        UserError: a directory holds no search.
    """
    return [
        path
        for directory in directories
        for path in find_searches(directory)
        if Workspace(path).config_file.exists()  # a folder of saved tables has none
    ]


def sync(searches: Iterable[Path], target: Target) -> bool:
    """Mirror searches, each in a process of its own; return whether all of them are complete."""
    complete = True
    for search_dir in searches:
        print(f"{search_dir}:", flush=True)
        tracking = target.tracking(search_dir)
        command, environment = tracking.command(search_dir), tracking.environment()
        complete &= subprocess.run(command, env=environment, check=False).returncode == 0
    return complete


def main() -> None:
    """Mirror the searches of the command line; exit with 1 where one is not complete."""
    parser = command_parser("sync", HELP, EXAMPLES)
    parser.add_argument(
        "directories",
        nargs="+",
        type=path_argument,
        metavar="DIRECTORY",
        help="a search, or a folder of searches",
    )
    parser.add_argument(
        "--mode", choices=("online", "offline"), default="online", help="offline: into <search_dir>/wandb"
    )
    parser.add_argument("--project")
    parser.add_argument("--entity")
    parser.add_argument(
        "--fork", action=argparse.BooleanOptionalAction, help="make a stage's run a fork of its parent's"
    )
    parser.add_argument(
        "--checkpoint",
        action=argparse.BooleanOptionalAction,
        help="keep the winning checkpoint as an artifact",
    )
    options = vars(parser.parse_args())
    searches = searches_in(options.pop("directories"))
    if not sync(searches, Target(**options)):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
