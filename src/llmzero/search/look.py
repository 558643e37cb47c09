"""What `dry_run=true` finds in the data and the model of a search, which only its stages load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.stage import StageSpec
from llmzero.runners.environment import hidden, withheld

LOOKS = "llmzero.grpo.look"  # it needs torch, which a driver does without
KEPT = 2  # checkpoints that a stage keeps: its best and its last
GB = 10**9


def look(spec: StageSpec, stages: int | None, secrets: Collection[str]) -> list[str]:
    """Have another process load what a search's first stage would, but for weights; return lines of a plan.

    Args:
        spec: that stage.
        stages: of the search; None where no budget limits them.
        secrets: environment variables that it does not get.

    Raises:
        UserError: a stage could not use what is there, or the disk has no room for one.
    """
    command = [sys.executable, "-m", LOOKS]
    with hidden(withheld(spec, (), secrets)):
        done = subprocess.run(command, input=json.dumps(spec.to_dict()), capture_output=True, text=True)
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"what the first stage loads cannot be looked at: {problem}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise UserError(found["error"])
    return list(_lines(found, spec.directory, stages))


def _lines(found: dict[str, Any], directory: Path, stages: int | None) -> Iterator[str]:
    yield "  examples     " + ", ".join(f"{count} {name}" for name, count in found["splits"].items())
    if "model" not in found:
        return
    context = f", made for {found['context']} tokens" if found["context"] else ""
    yield f"  weights      {found['model']}, {found['parameters'] / 1e6:,.1f} million parameters{context}"
    yield _disk(found["checkpoint_bytes"], directory, stages)
    for note in dict.fromkeys(found["notes"]):
        yield f"  note         {note}"


def _disk(size: int, directory: Path, stages: int | None) -> str:
    """Return the line on disk space.

    Raises:
        UserError: there is none for the checkpoints of one stage.
    """
    there = next(path for path in directory.absolute().parents if path.exists())
    free = shutil.disk_usage(there).free
    if KEPT * size > free:
        raise UserError(
            f"{there}: {free / GB:.1f} GB are free, but a stage's checkpoints take {KEPT * size / GB:.1f}; "
            "make room, or choose another search_dir"
        )
    line = f"  disk         a checkpoint takes {size / GB:.2f} GB, a stage keeps up to {KEPT}"
    if stages:
        line += f", {stages} stages {KEPT * stages * size / GB:.1f} GB"
    return f"{line}; {free / GB:.1f} GB are free"
