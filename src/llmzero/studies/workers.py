"""Processes of this machine that call one function again and again. One that is killed takes nothing along but the call in hand."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from llmzero.cli import INTERRUPTED

SPAWN = multiprocessing.get_context("spawn")

Call = Callable[[Any], Any]  # by its name in a module, as it is sent to another process
Submit = Callable[[Sequence[Any]], list[Future[Any]]]


class Worker:
    """A process that calls the function for as long as this one lives."""

    def __init__(self, function: Call) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()  # else the end of the process would not be the end of the pipe

    def call(self, argument: Any) -> Any:
        """Return what the function returns.

        Raises:
            RuntimeError: the process ended meanwhile.
        """
        try:
            self._pipe.send(argument)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(f"its process ended: exit code {self._process.exitcode}") from error


@contextmanager
def workers(function: Call, at_once: int) -> Iterator[Submit]:
    """Give what hands calls over to so many workers. They end with this process, however it ends, and are interrupted with it."""
    own = threading.local()  # each thread waits for one worker

    def call(argument: Any) -> Any:
        worker, own.worker = getattr(own, "worker", None) or Worker(function), None
        answer = worker.call(argument)
        own.worker = worker
        return answer

    threads = ThreadPoolExecutor(at_once)
    try:
        yield lambda arguments: [threads.submit(call, argument) for argument in arguments]
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGINT)
        raise
    finally:
        threads.shutdown()


def _serve(calls: Connection, function: Call) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()
    try:
        while True:
            calls.send(function(calls.recv()))
    except (EOFError, KeyboardInterrupt):
        return
