"""The process that imports what stages need, and forks one for each: `warm.py` starts it and talks to it.

It runs no other thread and computes nothing: what a library's threads hold at a fork stays held for ever in
the forked process.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from llmzero.core.files import append
from llmzero.core.stage import StageDir
from llmzero.core.terminal import guard_output
from llmzero.runners import entry
from llmzero.runners.entry import GRACE_S, NEVER

PREPARE = "prepare_stages"  # the name of a function that an entry point's module may have


@dataclass
class Stage:
    """A stage whose processes run.

    Attributes:
        ranks: of its processes that run.
        deadline: when they are killed, on the monotonic clock, as one has ended badly; `NEVER` while none
            has, or afterwards.
    """

    number: int
    ranks: dict[int, int] = field(default_factory=dict)
    deadline: float = NEVER


class Parent:
    """Forks stages' processes and tells of their ends.

    Args:
        descriptor: of the socket to whoever asks for stages.
        entry_point: the function that trains a stage.
    """

    def __init__(self, descriptor: int, entry_point: str) -> None:
        self.connection, self.entry_point = Connection(descriptor), entry_point
        self.module = entry_point.rpartition(".")[0]
        self.socket = socket.socket(fileno=os.dup(descriptor))
        self.imported: dict[str, str] = {}
        self.stages: list[Stage] = []
        self.children, self.woken = socket.socketpair()
        for end in (self.children, self.woken):
            end.setblocking(False)

    def prepare(self, modules: Sequence[str]) -> None:
        """Import what stages need, and leave it to no collector, which would copy the pages that are shared.

        What cannot be imported fails once more in the stage's process, where there is a log to say it.
        """
        before = dict(os.environ)
        for module in (self.module, *modules):
            with suppress(Exception):
                import_module(module)
        self.imported = {name: value for name, value in os.environ.items() if before.get(name) != value}
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Start stages until nobody can ask any more."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.woken.fileno())
        with suppress(EOFError, OSError):
            while True:
                asked = wait([self.connection, self.children], self._patience())
                if self.children in asked:
                    self.children.recv(4096)
                self._reap()
                self._end_lone_ranks()
                if self.connection in asked:
                    self._take()

    def _patience(self) -> float | None:
        """Return the seconds until a stage's processes are to be killed; None where nothing is due."""
        due = min((stage.deadline for stage in self.stages), default=NEVER)
        return None if due == NEVER else max(0.0, due - time.monotonic())

    def _take(self) -> None:
        """Begin a stage."""
        request = json.loads(self.connection.recv_bytes())
        held: list[int] = []
        if request["held"]:
            _, held, *_ = socket.recv_fds(self.socket, 1, request["held"])
            for descriptor in held:
                os.set_inheritable(descriptor, False)  # by programs; a fork has it
        if len(held) < request["held"]:
            raise EOFError  # whoever asked was killed meanwhile
        self._look_ahead(request["directory"])
        stage = Stage(request["number"])
        try:
            for rank, environment in enumerate(request["environments"]):
                pid = self._fork(request["directory"], environment)
                stage.ranks[pid] = rank
                self._tell(stage, rank, pid=pid)
        except OSError as error:  # no memory, no process left
            append(StageDir(Path(request["directory"])).log_file, f"no process could be started: {error}\n")
            stage.deadline = time.monotonic()
            for rank in range(len(stage.ranks), len(request["environments"])):
                self._tell(stage, rank, status=1)
        if stage.ranks:
            self.stages.append(stage)
        for descriptor in held:
            os.close(descriptor)

    def _look_ahead(self, directory: str) -> None:
        """Do what the stages to come have in common, where the entry point's module knows what that is."""
        with suppress(Exception):  # it fails once more in the stage, which says so
            prepare: Callable[[str], None] | None = getattr(sys.modules.get(self.module), PREPARE, None)
            if prepare is not None:
                prepare(directory)
                gc.freeze()

    def _fork(self, directory: str, environment: dict[str, str]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(directory, environment)
        return pid

    def _become(self, directory: str, environment: dict[str, str]) -> NoReturn:
        """Be a stage's process, which nothing ties to this one but what it has imported."""
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self.connection, self.socket, self.children, self.woken):
                end.close()
            os.environ.clear()
            os.environ.update({**self.imported, **environment})
            # Else all stages would draw the same where nobody seeds, as no two processes do.
            if numpy := sys.modules.get("numpy"):
                numpy.random.seed()
            if torch := sys.modules.get("torch"):
                torch.default_generator.seed()
            entry.run(directory, self.entry_point)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """Take note of processes that have ended, and kill what they have left."""
        while self.stages:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            pid = ended.si_pid  # which means no other process until it is waited for
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            stage = next((stage for stage in self.stages if pid in stage.ranks), None)
            if stage is None:
                continue
            self._tell(stage, stage.ranks.pop(pid), status=status)
            if status and stage.deadline == NEVER:
                stage.deadline = time.monotonic() + GRACE_S
            if not stage.ranks:
                self.stages.remove(stage)

    def _end_lone_ranks(self) -> None:
        """Kill what still waits for a process of its stage that has ended badly."""
        for stage in self.stages:
            if stage.deadline <= time.monotonic():
                stage.deadline = NEVER
                for pid in stage.ranks:
                    os.kill(pid, signal.SIGKILL)

    def _tell(self, stage: Stage, rank: int, **facts: Any) -> None:
        with suppress(OSError):  # nobody listens any more, which is no reason to give up the stage
            self.connection.send_bytes(json.dumps({"number": stage.number, "rank": rank, **facts}).encode())


def main() -> None:
    """Import, and serve."""
    descriptor, entry_point, *modules = sys.argv[1:]
    guard_output()  # before libraries take hold of the streams
    parent = Parent(int(descriptor), entry_point)
    parent.prepare(modules)
    parent.serve()


if __name__ == "__main__":
    main()
