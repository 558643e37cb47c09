"""Warm starts: a parent process that has imported what stages import, and forks a fresh process for each.

    with WarmParent(entry_point, environment) as parent:     # begins to import at once, in the background
        stage = parent.start(directory, [rank_environment])  # returns at once; one process a rank
        while stage.poll() is None:                          # -11: ended by signal 11, as Popen.returncode
            stage.signal(signal.SIGTERM)                     # to every process of the stage that lives

- `environment` is what stages have in common: threads of numerical libraries, devices, where the hub's cache
  is. It holds no secret, as everybody of this user can read it in /proc. A rank's environment replaces it,
  and may hold what only this stage gets: its rank, its devices, its keys.
- `held` are descriptors that stay open in the stage's processes alone: a kernel lock on one of them tells
  whether the stage lives, from `start` on, whoever dies meanwhile. They may be closed once `start` has
  returned.
- A stage's processes outlive this one and the parent. Where one of several ends badly, the parent ends the
  others. What a process leaves running in its process group is killed when it has ended.
- The parent ends with this process, at `close()`, or where it is killed: `alive` is False then, `start`
  raises OSError, and a stage that it had not forked yet has the status `UNSEEN`, as has one whose end it
  could not tell any more. Make a new one.
- An entry point's module that cannot be imported fails in the stage's process, as in a cold start. It may
  have a function `prepare_stages(directory)`: the parent calls it before every stage, to do what that and
  those after it have in common. It must start no thread and compute nothing; what it raises is ignored.
- Not for use by several threads at a time.

`warm_parent.py` is the parent's side. A request is one byte with descriptors: of a file in memory with the
request as JSON, then those to hold. So hundreds find room while the parent imports, whatever the size of an
environment, and `start` does not wait for it. Its messages are JSON, framed by `multiprocessing.connection`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import psutil

from llmzero.core.files import append
from llmzero.core.redaction import redacted
from llmzero.core.stage import StageDir
from llmzero.core.text import visible

UNSEEN = 256  # the status of a process whose end nobody has seen
SAID_CHARS = 2000  # of what a parent that died has said, for the logs of stages that it did not begin


class WarmParent:
    """Starts stages by forks of a process that has imported what they need.

    Args:
        entry_point: the function that trains a stage, as package.module.function.
        environment: the parent's environment, without secrets.
        modules: what to import beside the entry point's module.
    """

    def __init__(
        self, entry_point: str, environment: Mapping[str, str], modules: Collection[str] = ()
    ) -> None:
        ours, theirs = socket.socketpair()
        self._socket, self._connection = ours, Connection(os.dup(ours.fileno()))
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as we live
        command = [sys.executable, "-u", "-m", "llmzero.runners.warm_parent", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                [*command, entry_point, *modules],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._stages: dict[int, WarmStage] = {}
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can start stages."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def start(
        self, directory: Path, environments: Sequence[Mapping[str, str]], held: Sequence[int] = ()
    ) -> WarmStage:
        """Start a stage of one process per environment, as soon as the parent has imported.

        Raises:
            OSError: the parent is dead.
        """
        number = self._started = self._started + 1
        request = {
            "number": number,
            "directory": str(directory),
            "environments": [dict(environment) for environment in environments],
            "held": len(held),
        }
        with os.fdopen(os.memfd_create("request"), "wb") as file:
            file.write(json.dumps(request).encode())
            file.flush()
            socket.send_fds(self._socket, [b"0"], [file.fileno(), *held])
        stage = self._stages[number] = WarmStage(self, directory, len(environments))
        self.listen()  # else it might wait for us to listen, while we wait for it to read
        return stage

    def listen(self) -> None:
        """Take in what the parent tells of its stages."""
        with suppress(EOFError, OSError):
            while self._connection.poll():
                message = json.loads(self._connection.recv_bytes())
                stage = self._stages[message["number"]]
                if "pid" in message:
                    stage.begun(message["rank"], message["pid"])
                else:
                    stage.ended(message["rank"], message["status"])
                    if stage.over:
                        del self._stages[message["number"]]
            return
        self._process.wait()

    def last_words(self) -> str:
        """Return the end of what it has printed."""
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - SAID_CHARS))
        return self._said.read().decode(errors="replace")

    def close(self) -> None:
        """Have it end once it has begun the stages that it was asked for; all of them go on."""
        self._connection.close()
        self._socket.close()
        self._said.close()
        if not self._started:
            self._process.kill()  # it may be importing still
            self._process.wait()


def modules_of(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the modules of the parts that a stage is made of."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from modules_of(value)
        elif key == "_target_":
            yield str(value).rpartition(".")[0]


class WarmStage:
    """A stage that a warm parent was asked to start."""

    def __init__(self, parent: WarmParent, directory: Path, processes: int) -> None:
        self._parent, self._directory = parent, directory
        self._processes: list[psutil.Process | None] = [None] * processes
        self._statuses: list[int | None] = [None] * processes
        self._status = 0

    @property
    def pids(self) -> list[int | None]:
        """The processes, in order of rank; None for one that is not forked yet."""
        self._parent.listen()
        return [process.pid if process else None for process in self._processes]

    def poll(self) -> int | None:
        """Return None while it runs; then 0 where all went well, else the status of what ended badly first.

        A status is the exit code, or minus the signal, or `UNSEEN`.
        """
        if not self.over:
            alive = self._parent.alive  # asked first: it may tell of an end and die between two looks
            self._parent.listen()
            if not alive:
                self._look()
        return self._status if self.over else None

    def signal(self, number: int) -> None:
        """Send a signal to those of its processes that live."""
        self._parent.listen()
        for process, status in zip(self._processes, self._statuses, strict=True):
            if process is not None and status is None:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    @property
    def over(self) -> bool:
        """Whether all of its processes have ended."""
        return None not in self._statuses

    def begun(self, rank: int, pid: int) -> None:
        """Note the process of a rank."""
        with suppress(psutil.NoSuchProcess):  # it has ended already, which the next message says
            self._processes[rank] = psutil.Process(pid)

    def ended(self, rank: int, status: int) -> None:
        """Note the end of a rank."""
        self._statuses[rank] = status
        self._status = self._status or status

    def _look(self) -> None:
        """Look for ourselves which processes live, as the parent does not."""
        if self._processes == [None] * len(self._processes):
            said = f"{self._parent.last_words()}\nthe process that starts stages has died\n"
            append(StageDir(self._directory).log_file, visible(redacted(said)))
        for rank, process in enumerate(self._processes):
            if self._statuses[rank] is None and not (process and process.is_running()):
                self.ended(rank, UNSEEN)
