"""Functions that may take forever or eat all memory, called in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks.guard_process import MORE, PID, READY, VALUE_BYTES

CALLS_A_WORKER = 10_000  # after which a worker is replaced
WARM_UP_S = 300.0  # for what a function imports and loads with its first calls
QUICK_S = 0.25  # nearly every call needs far less, on a busy machine too
TIMEOUTS_A_WORKER = 12  # that a batch may wait for
STDERR = 2  # the descriptor
UNFINISHED = object()  # in place of a value: the call took too long, or its process died
Call = tuple[int, tuple[Any, ...]]  # its number in the batch, and the arguments
log = logging.getLogger(__name__)


class Guard:
    """Calls a function in processes of their own, each call with a limit of time and memory.

    The calls of a batch get a moment each. Those that are not done by then are made again afterwards, with
    their whole limit, until the batch has waited for `TIMEOUTS_A_WORKER` limits in each of its processes. So
    calls that never end keep no other call from its value: only what is itself slow may go without one.

    Args:
        function: a function of a module, so that another process can import it. Its values are numbers,
            texts, or anything else that JSON can hold.
        timeout_s: seconds that one call may take.
        workers: processes, started with the first call.
        examples: arguments of first calls, which have no limits: what they import and load, every process has
            from its beginning. A process that has to load for longer than `QUICK_S` judges everything twice.
        name: of the function, for messages; None is its import path.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        timeout_s: float,
        workers: int,
        examples: Sequence[tuple[Any, ...]] = (),
        name: str | None = None,
    ) -> None:
        self.function, self.timeout_s, self.examples = function, timeout_s, list(examples)
        self.name = name or f"{function.__module__}.{function.__qualname__}"
        self._workers = [_Worker() for _ in range(workers)]
        self._forks: _Forks | None = None

    def __call__(self, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the values in the order of the arguments; None for a call that fails or exceeds a limit.

        Raises:
            UserError: the function cannot be imported or called at all.
        """
        values: list[Any] = [None] * len(arguments)
        quick = min(QUICK_S, self.timeout_s)
        try:
            slow = self._fill(values, enumerate(arguments), quick)
            if quick < self.timeout_s:
                self._fill(values, [(i, arguments[i]) for i in slow], self.timeout_s, self._budget_s)
        except BaseException:
            self.close()  # a value that is still under way must not be taken for a later call's
            raise
        return values

    @property
    def _budget_s(self) -> float:
        return TIMEOUTS_A_WORKER * self.timeout_s * len(self._workers)

    def _fill(
        self,
        values: list[Any],
        calls: Iterable[Call],
        limit: float,
        budget: float = float("inf"),
    ) -> list[int]:
        """Make numbered calls and put their values in place; return the numbers of those not finished.

        Args:
            values: filled at the calls' numbers.
            calls: numbers and arguments.
            limit: seconds for one call.
            budget: seconds in unfinished calls after which no more are made.
        """
        waiting, unfinished = deque(calls), []
        for number, value, seconds in self._values(waiting, limit):
            if value is not UNFINISHED:
                values[number] = value
                continue
            unfinished.append(number)
            budget -= seconds
            if budget <= 0 and waiting:
                self._warn(len(waiting))
                waiting.clear()
        return sorted(unfinished)

    def _warn(self, left: int) -> None:
        log.warning(
            "%d answers of a batch earn nothing unjudged: checking those before them took longer than "
            "task.timeout_s=%g too often",
            left,
            self.timeout_s,
        )

    def _values(self, waiting: deque[Call], limit: float) -> Iterator[tuple[int, Any, float]]:
        """Make waiting calls, each as soon as a worker is free, until none waits or runs.

        Yields:
            number: of a call that ended.
            value: what it returned, or `UNFINISHED`.
            seconds: that it took.
        """
        free: list[_Worker] = list(self._workers)
        busy: list[_Worker] = []
        while waiting or busy:
            while waiting and free:
                busy.append(self._started(free.pop(), waiting.popleft()))
            first = min(worker.began for worker in busy)
            wait([worker.calls for worker in busy], max(0.0, first + limit - time.monotonic()))
            for worker in list(busy):
                seconds, died = time.monotonic() - worker.began, False
                if worker.calls.poll():
                    value = worker.value()
                    died = value is UNFINISHED
                elif seconds < limit:
                    continue
                else:
                    value = UNFINISHED
                busy.remove(worker)
                free.append(worker)
                if worker.spent or value is UNFINISHED:
                    worker.end()
                if died and worker.made > 1:
                    waiting.appendleft(worker.call)  # perhaps it died of what earlier calls left behind
                else:
                    yield worker.call[0], value, seconds

    def _started(self, worker: _Worker, call: Call) -> _Worker:
        """Begin a call in a worker's process, or in a new one where that has ended."""
        if self._forks is None:
            self._forks = _Forks(self.function, self.examples, self.name)
            self._end = weakref.finalize(self, _end, self._workers, self._forks)  # at exit, at the latest
        try:
            worker.start(call, self._forks)
        except OSError:  # it has died since its last call
            worker.end()
            worker.start(call, self._forks)
        return worker

    def close(self) -> None:
        """End the processes, as also happens where nobody refers to the guard any more."""
        if self._forks is not None:
            self._end()
            self._forks = None


def _end(workers: list[_Worker], forks: _Forks) -> None:
    for worker in workers:
        worker.end()
    forks.close()


class _Forks:
    """The process that has imported the function, and forks workers."""

    def __init__(self, function: Callable[..., Any], examples: list[tuple[Any, ...]], name: str) -> None:
        self.control, theirs = socket.socketpair()
        # The order of sets follows from this seed, and some values from that: they are the same anywhere.
        # A pool of threads that a first call starts would be dead in the workers, and hang them.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {"PYTHONHASHSEED": "0", **os.environ, **threads}
        start = f"import sys; sys.path[:] = {sys.path!r}; from llmzero.tasks.guard_process import main; "
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"{start}main({theirs.fileno()}, {os.getpid()})"],
            stdin=subprocess.DEVNULL,
            stdout=STDERR,  # what a verifier prints is no line of a command that prints lines
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        answer = self._introduce(function, examples)
        if answer != READY.decode():
            self.close()
            raise UserError(f"{name} cannot be called in a process of its own: {answer}")

    def _introduce(self, function: Callable[..., Any], examples: list[tuple[Any, ...]]) -> str:
        messages = Connection(os.dup(self.control.fileno()))
        try:
            messages.send_bytes(pickle.dumps((function, examples)))
            if not messages.poll(WARM_UP_S):
                self.process.kill()
                return f"its first call was not done after {WARM_UP_S:g} s"
            return messages.recv_bytes().decode()
        except (EOFError, OSError):
            return f"its process ended with status {self.process.wait()}"
        finally:
            messages.close()

    def fork(self, descriptor: int) -> int:
        """Return the id of a new worker that answers at a socket."""
        socket.send_fds(self.control, [PID.pack(0)], [descriptor])
        answer = self.control.recv(PID.size, socket.MSG_WAITALL)
        if len(answer) < PID.size:
            raise RuntimeError("the process that starts verifiers was ended from outside")
        return int(PID.unpack(answer)[0])

    def end(self, worker: int) -> None:
        """Kill a worker."""
        self.control.sendall(PID.pack(worker))

    def close(self) -> None:
        """End it, and with it all workers."""
        self.control.close()
        self.process.wait()


class _Worker:
    """A process that makes one call after the other, and the call that it is making."""

    def __init__(self) -> None:
        self.process: int | None = None
        self.spent, self.made, self.began = False, 0, 0.0

    def start(self, call: Call, forks: _Forks) -> None:
        """Begin a call, in a new process where there is none."""
        if self.process is None:
            ours, theirs = socket.socketpair()
            self.calls, self.forks = Connection(ours.detach()), forks
            self.process = forks.fork(theirs.fileno())
            theirs.close()
            self.spent, self.made = False, 0
        self.call, self.made, self.began = call, self.made + 1, time.monotonic()
        self.calls.send_bytes(pickle.dumps(call[1]))

    def value(self) -> Any:
        """Return the value of the call; `UNFINISHED` where the process has died."""
        try:
            answer = self.calls.recv_bytes(VALUE_BYTES + len(MORE))
        except (EOFError, OSError):
            return UNFINISHED
        self.spent = self.made >= CALLS_A_WORKER or not answer.startswith(MORE)
        return json.loads(answer[len(MORE) :])

    def end(self) -> None:
        """End the process."""
        if self.process is not None:
            self.calls.close()
            self.forks.end(self.process)
            self.process = None
