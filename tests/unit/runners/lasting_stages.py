"""An entry point whose stages keep an engine: `what` in the stage directory says how they go."""

from __future__ import annotations

import os
import time
from pathlib import Path

from llmzero.core.kept import Kept


def run(directory: str, *, started: float | None = None, kept: Kept) -> None:
    """Note this process, its engine and what it was told; then do what the stage is for."""
    stage, rank = Path(directory), os.environ.get("RANK", "0")
    what = (stage / "what").read_text()
    written = stage / f"writing{rank}"
    written.write_text(f"{os.getpid()} {kept.engine} {started is not None}")
    written.rename(stage / f"facts{rank}")
    while "RANK" in os.environ and not (stage / f"facts{1 - int(rank)}").exists():
        time.sleep(0.005)  # as processes that compute together do
    if what == "wait":
        while not (stage / "go").exists():
            time.sleep(0.005)
    if what == "fail":
        raise RuntimeError("a failed stage")
    kept.engine = None if what == f"give up {rank}" else f"of-{stage.name}"
    if kept.engine:
        kept.announce()
    (stage / f"done{rank}").touch()
    if what == "linger":  # the result is there, and the process still has things to do
        time.sleep(0.5)
    print("printed", stage.name)
