"""A progress bar for a stage that runs in the foreground, fed by its heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llmzero.core.stage import StageDir
from llmzero.core.terminal import Terminal

REFRESH_S = 0.5


@contextmanager
def show_progress(stage: StageDir) -> Iterator[None]:
    """Show phase, progress, time left and the last validation score while the block runs."""
    ended = threading.Event()
    columns = (
        TextColumn("{task.description:12}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", markup=False),
    )
    with Progress(*columns, console=Terminal()) as progress:
        watcher = threading.Thread(target=_watch, args=(stage, progress, ended), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _watch(stage: StageDir, progress: Progress, ended: threading.Event) -> None:
    bars = {}
    while not ended.wait(REFRESH_S):
        heartbeat, points = stage.status(), stage.validation()
        phase = {"validation": "training"}.get(
            heartbeat.get("phase", ""), heartbeat.get("phase", "")
        ) or "starting"
        last = f"val {points[-1].score:.3f}" if points else ""
        if phase not in bars:
            bars[phase] = progress.add_task(phase, total=1.0, last=last)
        progress.update(bars[phase], completed=heartbeat.get("progress", 0.0), last=last)
