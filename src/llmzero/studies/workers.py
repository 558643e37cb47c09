"""A pool of processes that call one function again and again; one that is killed loses its call alone."""

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

Call = Callable[[Any], Any]  # of a module's top level, as it is pickled by name
Submit = Callable[[Sequence[Any]], list[Future[Any]]]


class Worker:
    """A process that serves calls of the function until its parent exits."""

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
    """Yield a submit function backed by `at_once` processes that exit with the parent, however it ends.

    They are interrupted when the parent is.
    """
    own = threading.local()  # each thread waits for one worker

    def call(argument: Any) -> Any:
        worker, own.worker = getattr(own, "worker", None) or Worker(function), None
        value = worker.call(argument)
        own.worker = worker  # not where the process ended: the next call starts another
        return value

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
