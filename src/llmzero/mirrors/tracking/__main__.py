"""`python -m llmzero.mirrors.tracking SEARCH_DIR`: mirror a search to W&B, once or while it runs."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import select
import stat
import sys
from pathlib import Path

from llmzero.core.errors import UserError
from llmzero.core.files import open_own
from llmzero.core.terminal import guard_output
from llmzero.mirrors.tracking.inherited import is_of_a_run
from llmzero.mirrors.tracking.mirror import Mirror
from llmzero.mirrors.tracking.names import group_of
from llmzero.mirrors.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)

POLL_S = 1.0
NICENESS = 10  # the stages' processes come first on a shared machine


def mirror_once(mirror: Mirror) -> bool:
    """Mirror what is there; return whether all of it could be."""
    store = mirror.read()
    complete = mirror.write_stages(store)
    return mirror.write_search(store) and complete


def follow(mirror: Mirror) -> bool:
    """Mirror each stage as it finishes, until the search is over; then the search.

    Return whether all is mirrored.

    A driver holds our standard input as a pipe and says by it, or by being gone, that no more is to come: an
    `ended` event may stand in the log of a search that is being continued with a larger budget. Without a
    driver `ended` is the end.
    """
    driven = stat.S_ISFIFO(os.fstat(0).st_mode)
    parent = os.getppid()
    size_read, over = -1, False
    while not over:
        ended = bool(select.select([0] if driven else [], [], [], POLL_S)[0])
        over = ended or os.getppid() != parent
        size = mirror.log_size
        if over or size != size_read:
            size_read, store = size, mirror.read()
            over = over or (store.ended and not driven)
            complete = mirror.write_stages(store)
    return mirror.write_search(store) and complete


def _logged_in() -> bool:
    """Return whether there is a key for the server; asks for one where somebody sits at a terminal."""
    import wandb

    try:
        return bool(wandb.login())
    except wandb.errors.UsageError as error:
        log.error("%s", error)
        return False


def main() -> int:
    """Mirror a search directory to W&B: once, or with `--follow` for as long as the search runs."""
    parser = argparse.ArgumentParser(prog="python -m llmzero.mirrors.tracking", description=main.__doc__)
    parser.add_argument("search_dir", type=Path)
    parser.add_argument("--mode", choices=("offline", "online"), default="offline")
    parser.add_argument("--project", default="llmzero")
    parser.add_argument("--entity")
    parser.add_argument("--fork", action="store_true", help="make a stage's run a fork of its parent's")
    parser.add_argument(
        "--no-checkpoint", dest="checkpoint", action="store_false", help="leave the winning checkpoint out"
    )
    parser.add_argument(
        "--follow", action="store_true", help="mirror stages as they finish, until the search has ended"
    )
    arguments = vars(parser.parse_args())
    run = follow if arguments.pop("follow") else mirror_once
    guard_output()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    guard_output()  # again, for the log's handler
    os.nice(NICENESS)
    search_dir = arguments.pop("search_dir").resolve(strict=True)
    try:
        settings = TrackingSettings(**arguments)
    except UserError as error:
        parser.error(str(error))
    for variable in filter(is_of_a_run, list(os.environ)):
        del os.environ[variable]
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # read by wandb when it is imported
        os.environ[variable] = str(search_dir / "wandb" / "staging")
    if settings.mode == "online" and not _logged_in():
        return 1
    with open_own(search_dir / "tracking.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the mirror of an earlier driver to write its last run
        mirror = Mirror(search_dir, settings)
        complete = run(mirror)
    log.info(
        "%d runs written, group %s of project %s", mirror.written, group_of(search_dir), settings.project
    )
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
