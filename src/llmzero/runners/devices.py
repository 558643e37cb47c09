"""Which GPUs of this machine a stage gets, beside other stages of this user."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from llmzero.core.errors import UserError
from llmzero.runners.entry import locked

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices(wanted: int) -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them: numbers, or UUIDs.

    Args:
        wanted: how many there are taken to be where neither the environment nor the machine says it.
    """
    visible = os.environ.get(VISIBLE)
    if visible is None:
        here = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return [str(number) for number in range(here or wanted)]
    return [name.strip() for name in visible.split(",") if name.strip()]


class Slots:
    """Deals out GPUs, `size` to a stage, those first that the fewest stages use.

    A stage's processes hold the locks of its devices, in a directory of this user's on this machine. So
    every search here knows what is free, whatever became of those that began stages.

    Args:
        names: the devices.
        size: devices of a stage.

    Raises:
        UserError: there are fewer than that.
    """

    def __init__(self, names: Sequence[str], size: int) -> None:
        self.slots = [tuple(names[first : first + size]) for first in range(0, len(names) - size + 1, size)]
        if not self.slots:
            given = f"{VISIBLE}={','.join(names)} has {len(names)}"
            raise UserError(f"runner.gpus_per_stage={size}: {given}; lower it, or give the command more GPUs")

    def take(self) -> tuple[str, list[TextIO]]:
        """Return a stage's devices, separated by commas, and its locks, for its processes to hold."""
        directory = _own_directory()
        for layer in itertools.count():
            for slot in self.slots:
                with ExitStack() as stack:
                    locks = [locked(directory / f"{name.replace('/', '_')}.{layer}") for name in slot]
                    held = [stack.enter_context(lock) for lock in locks if lock is not None]
                    if len(held) == len(slot):
                        stack.pop_all()
                        return ",".join(slot), held
        raise AssertionError("there is always another layer")


def _own_directory() -> Path:
    """Return this user's directory for locks of devices, on this machine.

    Raises:
        UserError: another user has made it.
    """
    directory = Path(tempfile.gettempdir(), f"llmzero-{os.getuid()}-gpus")
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise UserError(f"{directory}: is not ours; remove it, or set TMPDIR to another directory")
    return directory
