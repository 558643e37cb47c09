"""Finds the processes of stages, by the lock that they hold."""

from __future__ import annotations

from pathlib import Path

import psutil

MODULES = ("llmzero.runners.warm_parent", "llmzero.runners.entry")


def stage_processes(search_dir: Path) -> list[tuple[psutil.Process, Path]]:
    """Return the processes that run a stage of this search, each with the stage's directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if not any(word in MODULES for word in process.info["cmdline"] or []):
            continue
        try:
            locks = [Path(file.path) for file in process.open_files() if file.path.endswith("/stage.lock")]
        except psutil.Error:  # it has just ended
            continue
        found += [(process, lock.parent) for lock in locks if lock.is_relative_to(search_dir)]
    return found
