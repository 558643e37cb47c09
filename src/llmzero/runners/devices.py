"""Which GPUs of this machine a stage gets, beside other stages of this user."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from llmzero.core.errors import UserError
from llmzero.core.stage import StageDir
from llmzero.runners import entry

VISIBLE = "CUDA_VISIBLE_DEVICES"
LETTING_GO_S = 5.0  # that a process may take to end when its stage has ended


def devices(wanted: int) -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them: numbers, or UUIDs; a -1 ends the list.

    Args:
        wanted: how many there are taken to be where neither the environment nor the machine says it.
    """
    visible = os.environ.get(VISIBLE)
    if visible is None:
        here = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return [str(number) for number in range(here or wanted)]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return list(dict.fromkeys(itertools.takewhile(lambda name: not name.startswith("-"), names)))


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
        self._stages: dict[tuple[tuple[str, ...], int], StageDir] = {}
        if not self.slots:
            given = f"{VISIBLE}={','.join(names)} has {len(names)}"
            raise UserError(f"runner.gpus_per_stage={size}: {given}; lower it, or give the command more GPUs")

    def take(self, stage: StageDir) -> tuple[str, list[TextIO]]:
        """Return a stage's devices, separated by commas, and its locks, for its processes to hold.

        Where all are in use, those of a stage that has just left its result are waited for.
        """
        for layer in itertools.count():
            deadline = time.monotonic() + LETTING_GO_S
            while True:
                for slot in self.slots:
                    if held := _locks(slot, layer):
                        self._stages[slot, layer] = stage
                        return ",".join(slot), held
                ours = [self._stages[slot, layer] for slot in self.slots if (slot, layer) in self._stages]
                if time.monotonic() > deadline or not any(map(_lets_go, ours)):
                    break
                time.sleep(entry.LOOK_S)
        raise AssertionError("there is always another layer")


def _locks(slot: Sequence[str], layer: int) -> list[TextIO]:
    """Return the locks of all devices of a slot; none where one is taken.

    A number is that of a GPU of the SLURM job that we may be in: two jobs of one machine have other ones.
    """
    directory, job = _own_directory(), os.environ.get("SLURM_JOB_ID")
    names = [f"{job}-{name}" if job and name.isdigit() else name.replace("/", "_") for name in slot]
    locks = [entry.locked(directory / f"{name}.{layer}") for name in names]
    held = [lock for lock in locks if lock is not None]
    if len(held) == len(slot):
        return held
    for lock in held:
        lock.close()
    return []


def _lets_go(stage: StageDir) -> bool:
    """Return whether a stage has ended whose process is about to end."""
    return stage.result_file.exists() and entry.is_running(stage.path)


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
