"""The files in which a search and its pilots meet: the queue of stages, and what each pilot tells of itself.

They lie in `<search_dir>/pilots/`. A stage is an empty file whose name says its place in the queue and its
directory; a pilot takes it by renaming it from `queue/` to `taken/`. Names are data: one that is no directory
of a stage below the search directory is left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from llmzero.core.errors import DamagedFileError
from llmzero.core.files import read_json, reading, write_json
from llmzero.core.shapes import NOTHING, NUMBER, NUMBER_OR_NOTHING, Shape, require
from llmzero.core.stage import StageDir

ENTRY = re.compile(r"([0-9]{6,})-([^/@]+)")
TAKEN = re.compile(rf"({ENTRY.pattern})@([0-9]{{4,}})")
PILOT = re.compile(r"[0-9]{4,}")
REMEDY = "delete it; the time of that pilot in which it ran no stage is then not in the ledger"
RECORD: dict[str, Shape] = {
    "job_id": str,
    "state": str,
    "entry": (str, NOTHING),
    "devices": int,
    "held": NUMBER,
    "busy": NUMBER,
    "used": NUMBER,
    "left": NUMBER_OR_NOTHING,
    "stages": [[NUMBER]],
}
State = Literal["idle", "busy", "draining", "ended"]


@dataclass
class Record:
    """What a pilot tells of itself, renewed while it lives.

    Attributes:
        job_id: SLURM's.
        state: `draining` before it is ended by SLURM, `ended` where it has ended by itself.
        entry: the stage that it runs.
        devices: of it; a CPU process counts as one.
        held: seconds since it began, all its times in the queue left out.
        busy: device seconds that stages have used of those.
        used: what the stage that it runs is charged for so far, in other pilots too.
        left: seconds until its time limit; None is no limit.
        stages: of the stages that it ran to their ends, the latest last: what they had left to train, in
            steps or FLOPs, and the seconds that it took.
    """

    job_id: str
    state: State = "idle"
    entry: str | None = None
    devices: int = 1
    held: float = 0.0
    busy: float = 0.0
    used: float = 0.0
    left: float | None = None
    stages: list[list[float]] = field(default_factory=list)

    @property
    def idle(self) -> float:
        """Device seconds that no stage has used."""
        return max(0.0, self.held * self.devices - self.busy)


class PilotFiles:
    """Paths below `<search_dir>/pilots/`, and the queue of stages there.

    Args:
        home: the search directory.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "pilots"
        self.waiting = self.folder / "queue"
        self.taken = self.folder / "taken"
        self.end_file = self.folder / "end"  # its presence asks all pilots to end

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.folder, self.waiting, self.taken):
            folder.mkdir(exist_ok=True)

    # --- the queue ---

    def add(self, stage: Path) -> str:
        """Put a stage at the end of the queue, unless it stands there; return its entry."""
        self.make()
        name = quote(os.path.relpath(stage, self.home), safe="")
        entries = [*self.queued(), *self.holders()]
        for entry in entries:
            if entry.partition("-")[2] == name:
                return entry
        number = 1 + max((int(entry.partition("-")[0]) for entry in entries), default=0)
        entry = f"{number:06d}-{name}"
        (self.waiting / entry).touch()
        return entry

    def entry_of(self, stage: Path) -> str | None:
        """Return the entry of a stage that waits or is taken."""
        name = quote(os.path.relpath(stage, self.home), safe="")
        # Taken last: a pilot may take it between the two looks.
        entries = (*self.queued(), *self.holders())
        return next((entry for entry in entries if entry.partition("-")[2] == name), None)

    def queued(self) -> list[str]:
        """Return the stages that wait, in order."""
        return sorted(name for name in _names(self.waiting) if ENTRY.fullmatch(name))

    def work(self) -> list[str]:
        """Return the stages that wait, in order: of the entries that lead to one, those without a result."""
        found = {entry: self.stage(entry) for entry in self.queued()}
        return [entry for entry, path in found.items() if path and not StageDir(path).result_file.exists()]

    def holders(self) -> dict[str, str]:
        """Return the stages that are taken, each with its pilot."""
        found = (TAKEN.fullmatch(name) for name in sorted(_names(self.taken)))
        return {match[1]: match[4] for match in found if match}

    def stage(self, entry: str) -> Path | None:
        """Return the directory of a stage; None where a name leads to none below the search directory."""
        match = ENTRY.fullmatch(entry)
        path = Path(os.path.normpath(self.home / unquote(match[2]))) if match else self.home
        inside = path != self.home and path.is_relative_to(os.path.normpath(self.home))
        if not inside or not path.resolve().is_relative_to(self.home.resolve()):
            return None
        return path if StageDir(path).has_spec() else None

    def take(self, entry: str, pilot: str) -> bool:
        """Take a stage for a pilot; return whether it is the pilot's now.

        Of several that rename it one succeeds. An answer of the file server's that was lost looks like a
        failure: the new name, which nobody else makes, tells.
        """
        target = self.taken / f"{entry}@{pilot}"
        try:
            os.rename(self.waiting / entry, target)
        except OSError:
            return target.exists()
        return True

    def give_back(self, entry: str, pilot: str) -> None:
        """Put a stage back into the queue, to its old place."""
        with suppress(FileNotFoundError):
            os.rename(self.taken / f"{entry}@{pilot}", self.waiting / entry)

    def finish(self, entry: str, pilot: str) -> None:
        """Take a stage off the list of those that are taken: it has ended, or died."""
        (self.taken / f"{entry}@{pilot}").unlink(missing_ok=True)

    def withdraw(self, entry: str) -> bool:
        """Take a stage that waits out of the queue; return whether no pilot was faster."""
        try:
            (self.waiting / entry).unlink()
        except FileNotFoundError:
            return False
        return True

    # --- the pilots ---

    def pilots(self) -> list[str]:
        """Return the names of all pilots that have told of themselves, in order."""
        return sorted(
            name.removesuffix(".json")
            for name in _names(self.folder)
            if PILOT.fullmatch(name.removesuffix(".json")) and name.endswith(".json")
        )

    def record_file(self, pilot: str) -> Path:
        """Return the file of a pilot's record."""
        return self.folder / f"{pilot}.json"

    def read(self, pilot: str) -> Record | None:
        """Return what a pilot tells; None before it has begun.

        Raises:
            DamagedFileError: it is no record.
        """
        file = self.record_file(pilot)
        content = read_json(file, REMEDY)
        if content is None:
            return None
        with reading(file, REMEDY):
            require(content, RECORD)
            return Record(**{name: content[name] for name in RECORD})

    def write(self, pilot: str, record: Record, renewals: int) -> None:
        """Replace a pilot's record; it is another file each time."""
        write_json(self.record_file(pilot), {**asdict(record), "renewals": renewals}, sync=False)

    def finished(self) -> list[list[float]]:
        """Return lengths and seconds of the stages that pilots have run to their ends."""
        stages: list[list[float]] = []
        for pilot in self.pilots():
            with suppress(DamagedFileError):
                record = self.read(pilot)
                stages += record.stages if record else []
        return [stage for stage in stages if len(stage) == 2]


def _names(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return ()
