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
import traceback
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
from llmzero.runners.lasting import ENDED, TAKEN, Group, Request, Worker, stages_in_turn

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
        self.groups: list[Group] = []
        self.children, self.woken = socket.socketpair()
        for end in (self.children, self.woken):
            end.setblocking(False)

    def prepare(self, modules: Sequence[str]) -> None:
        """Import what stages need, and leave it to no collector, which would copy the pages that are shared.

        What cannot be imported fails once more in the stage's process, where there is a log to say it.
        """
        before = dict(os.environ)
        # Else a library that asks for GPUs while it is imported spoils CUDA for all that is forked. DeepSpeed
        # sets it in cold stages.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
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
                asked = wait([self.connection, self.children, *self._controls()], self._patience())
                if self.children in asked:
                    self.children.recv(4096)
                self._reap()
                self._end_lone_ranks()
                for control, group in self._controls().items():
                    if control in asked and group in self.groups:
                        self._listen(group, control)
                if self.connection in asked:
                    self._take()

    def _patience(self) -> float | None:
        """Return the seconds until a stage's processes are to be killed; None where nothing is due."""
        due = min((stage.deadline for stage in self.stages), default=NEVER)
        return None if due == NEVER else max(0.0, due - time.monotonic())

    def _take(self) -> None:
        """Begin a stage, in processes that have an engine for it, or in new ones."""
        request = Request.received(self.socket)
        free = [group for group in self.groups if group.free]
        fitting = next((group for group in free if group.fits(request.environments)), None)
        if fitting is not None:
            fitting.give(request)
            return
        for group in free:
            if group.shares(request.environments):
                self._drop(group)
        self._begin(request)

    def _begin(self, request: Request) -> None:
        """Begin a stage in new processes."""
        self._look_ahead(request.directory)
        stage, group = Stage(request.number), Group(request.environments)
        self.groups.append(group)
        try:
            for rank, environment in enumerate(request.environments):
                ours, theirs = socket.socketpair()
                with theirs:
                    pid = self._fork(request, environment, ours, theirs)
                group.add(pid, ours)
                stage.ranks[pid] = rank
                self._tell(stage, rank, pid=pid)
        except OSError as error:  # no memory, no process left
            append(StageDir(Path(request.directory)).log_file, f"no process could be started: {error}\n")
            stage.deadline = time.monotonic()
            self._drop(group)
            for rank in range(len(stage.ranks), len(request.environments)):
                self._tell(stage, rank, status=1)
        if stage.ranks:
            self.stages.append(stage)
        request.close()

    def _controls(self) -> dict[Connection, Group]:
        """Return the connections to all processes."""
        return {worker.connection: group for group in self.groups for worker in group.workers.values()}

    def _listen(self, group: Group, control: Connection) -> None:
        """Take in what a process says of its stage, or that it has ended."""
        pid = next(pid for pid, worker in group.workers.items() if worker.connection is control)
        try:
            self._note(group, pid, control.recv_bytes())
        except (EOFError, OSError):
            self._drop(group)

    def _note(self, group: Group, pid: int, message: bytes) -> None:
        worker = group.workers[pid]
        worker.said = message
        if message == ENDED:
            self._ended(pid, 0)
        elif message == TAKEN:
            self._taken(group, pid, worker)

    def _taken(self, group: Group, pid: int, worker: Worker) -> None:
        """Note that a process has taken up the stage that its group was given."""
        assert group.next is not None
        worker.said = b""
        stage = next((each for each in self.stages if each.number == group.next.number), None)
        if stage is None:
            stage = Stage(group.next.number)
            self.stages.append(stage)
        stage.ranks[pid] = worker.rank
        self._tell(stage, worker.rank, pid=pid)
        group.to_take.remove(pid)
        if not group.to_take:
            group.next.close()
            group.next = None

    def _drop(self, group: Group) -> None:
        """Give a group no further stage; what it was given and has not taken up begins in new processes."""
        self.groups.remove(group)
        for pid, worker in group.workers.items():
            with suppress(EOFError, OSError):
                while worker.connection.poll():
                    self._note(group, pid, worker.connection.recv_bytes())
        group.close()
        if group.next is None:
            return
        self.stages = [stage for stage in self.stages if stage.number != group.next.number]
        for pid in group.workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._begin(group.next)

    def _look_ahead(self, directory: str) -> None:
        """Do what the stages to come have in common, where the entry point's module knows what that is."""
        with suppress(Exception):  # it fails once more in the stage, which says so
            prepare: Callable[[str], None] | None = getattr(sys.modules.get(self.module), PREPARE, None)
            if prepare is not None:
                prepare(directory)
                gc.freeze()

    def _fork(
        self, request: Request, environment: dict[str, str], ours: socket.socket, theirs: socket.socket
    ) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become(request, environment, theirs)
        return pid

    def _become(self, request: Request, environment: dict[str, str], control: socket.socket) -> NoReturn:
        """Be a stage's process, which nothing ties to this one but what it has imported."""
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self.connection, self.socket, self.children, self.woken):
                end.close()
            for group in self.groups:
                group.close()
                if group.next is not None:  # which we would keep locked
                    group.next.close()
            os.environ.clear()
            os.environ.update({**self.imported, **environment})
            # Else all stages would draw the same where nobody seeds, as no two processes do.
            if numpy := sys.modules.get("numpy"):
                numpy.random.seed()
            if torch := sys.modules.get("torch"):
                torch.default_generator.seed()
            entry.run(lambda: stages_in_turn(request.directory, self.entry_point, request.held, control))
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """Take note of processes that have ended, and kill what they have left."""
        while self.stages or self.groups:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            pid = ended.si_pid  # which means no other process until it is waited for
            for group in [group for group in self.groups if pid in group.workers]:
                self._drop(group)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        """Tell how a process has ended its stage, if it was at one."""
        stage = next((stage for stage in self.stages if pid in stage.ranks), None)
        if stage is None:
            return
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


def main() -> NoReturn:
    """Import, and serve; what threads an import has left is not waited for."""
    descriptor, entry_point, *modules = sys.argv[1:]
    guard_output()  # before libraries take hold of the streams
    parent = Parent(int(descriptor), entry_point)
    try:
        parent.prepare(modules)
        parent.serve()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
