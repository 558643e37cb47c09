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
            files = [Path(file.path) for file in process.open_files()]
        except psutil.Error:  # it has just ended
            continue
        # A warm parent has the lock, too, for a moment.
        stages = [
            file.parent for file in files if file.name == "stage.lock" and file.parent / "log.txt" in files
        ]
        found += [(process, stage) for stage in stages if stage.is_relative_to(search_dir)]
    return found
