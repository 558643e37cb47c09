"""Processes of stages that keep an engine, and with it take the stage that comes next.

Such a process is forked from a warm parent and says of its stages: `KEEPS` before there is a result, as
whoever waits for that may ask for the next stage at once; `ENDED`; and `TAKEN` of the next one. All processes
of a stage go on, or none does. A stage that fails, is interrupted or killed ends its processes.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmzero.core.kept import Kept
from llmzero.core.stage import StageDir
from llmzero.runners.devices import VISIBLE
from llmzero.runners.entry import function_of, keeping, log_to

KEEPS, ENDED, TAKEN = b"keeps", b"ended", b"taken"
MOST_DESCRIPTORS = 253  # that the kernel lets one message have
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # they have met already

# --- the stages' process ---


def stages_in_turn(directory: str, entry_point: str, held: Sequence[int], control: socket.socket) -> None:
    """Run a stage, and then others as long as there is an engine for them.

    Args:
        directory: of the first stage.
        entry_point: takes the directory; and `started` and `kept`, where it can keep an engine.
        held: descriptors that are open while the first stage lives.
        control: brings the other stages, until it is closed.
    """
    log_to(StageDir(Path(directory)))
    function = function_of(entry_point)
    kept = Kept()
    if not keeping(function, kept):
        control.close()
        function(directory)
        return
    connection = Connection(os.dup(control.fileno()))

    def announce() -> None:
        with suppress(OSError):
            connection.send_bytes(KEEPS)

    kept.announce = announce
    keywords: dict[str, Any] = {"kept": kept}
    with suppress(EOFError, ConnectionError):  # whoever forked us has ended, or wants no more of us
        while True:
            function(directory, **keywords)
            if kept.engine is None:
                return
            for descriptor in held:
                os.close(descriptor)
            connection.send_bytes(ENDED)
            directory, count = json.loads(connection.recv_bytes())
            _, held, *_ = socket.recv_fds(control, 1, count)
            connection.send_bytes(TAKEN)
            log_to(StageDir(Path(directory)))
            keywords["started"] = time.time()


# --- the process that forks them ---


@dataclass
class Request:
    """A stage that is to be started, with the descriptors to hold while it lives."""

    number: int
    directory: str
    environments: list[dict[str, str]]
    held: list[int]

    @classmethod
    def received(cls, control: socket.socket) -> Request:
        """Return the request that has come.

        Raises:
            EOFError: nobody can ask any more.
        """
        _, descriptors, *_ = socket.recv_fds(control, 1, MOST_DESCRIPTORS)
        if not descriptors:
            raise EOFError
        first, *held = descriptors
        with os.fdopen(first, "rb") as file:
            file.seek(0)
            message = json.load(file)
        for descriptor in held:
            os.set_inheritable(descriptor, False)  # by programs; a fork has it
        if len(held) < message["held"]:
            raise EOFError  # we may open no more files
        return cls(message["number"], message["directory"], message["environments"], held)

    def close(self) -> None:
        """Close the descriptors, which its processes have by now."""
        for descriptor in self.held:
            os.close(descriptor)
        self.held = []


@dataclass
class Worker:
    """A process of a stage, as its parent sees it; `said` is empty while it has said nothing of its stage."""

    rank: int
    control: socket.socket
    connection: Connection
    said: bytes = b""


@dataclass
class Group:
    """The processes of a stage, by id; and the stage that they are given for when they have ended that one,
    with those that have still to take it up.
    """

    environments: list[dict[str, str]]
    workers: dict[int, Worker] = field(default_factory=dict)
    next: Request | None = None
    to_take: set[int] = field(default_factory=set)

    def add(self, pid: int, control: socket.socket) -> None:
        """Add the process of the next rank, with our end of its socket."""
        self.workers[pid] = Worker(len(self.workers), control, Connection(os.dup(control.fileno())))

    @property
    def free(self) -> bool:
        """Whether it can be given a stage."""
        return self.next is None and all(worker.said for worker in self.workers.values())

    def fits(self, environments: Sequence[Mapping[str, str]]) -> bool:
        """Return whether a stage of these environments can run in these processes."""
        return [_apart_from_meeting(each) for each in environments] == [
            _apart_from_meeting(each) for each in self.environments
        ]

    def shares(self, environments: Sequence[Mapping[str, str]]) -> bool:
        """Return whether a stage of these environments would compute on the same devices."""
        return environments[0].get(VISIBLE) == self.environments[0].get(VISIBLE)

    def give(self, request: Request) -> None:
        """Give it a stage, which may be lost where one of the processes has died."""
        self.next, self.to_take = request, set(self.workers)
        message = json.dumps([request.directory, len(request.held)]).encode()
        for worker in self.workers.values():
            with suppress(OSError):
                worker.connection.send_bytes(message)
                socket.send_fds(worker.control, [b"0"], request.held)

    def close(self) -> None:
        """End the processes when they have ended what they do."""
        for worker in self.workers.values():
            worker.connection.close()
            worker.control.close()


def _apart_from_meeting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in MEETING}
