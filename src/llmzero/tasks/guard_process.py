"""The processes of a guard: one that has imported everything, and workers that it forks within milliseconds.

`Guard` starts this module in a fresh interpreter. The first process never evaluates what a model wrote, so it
always listens: it forks a worker for every socket that it is sent, ends a worker at once when told to, and
all of them once its parent is gone. Workers die with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import psutil

MEMORY_BYTES = 2 * 1024**3  # of one worker, besides what the first process has loaded
KEPT_BYTES = MEMORY_BYTES // 4  # after which a worker is replaced
VALUE_BYTES = 2**20  # of a value, as JSON
PID = struct.Struct(
    "!i"
)  # to the first process: a worker to end, or any with a socket; from it: a new worker
READY = b"ready"
MORE, LAST = b"+", b"-"  # before a value: whether the worker takes another call
_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
_LOOK_S = 1.0  # between two looks whether the parent lives, for a parent whose socket another process holds
# What a terminal or a batch system sends to whole groups: the trainer decides what it means.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Function = Callable[..., Any]


def main(descriptor: int, parent: int) -> None:
    """Serve the guard at the other end of a socket until it or its process is gone.

    Args:
        descriptor: of the socket. It brings the function and the arguments of first calls, pickled.
        parent: the guard's process.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    logging.disable(logging.WARNING)
    control = socket.socket(fileno=descriptor)
    messages = Connection(os.dup(descriptor))
    try:
        function, examples = pickle.loads(messages.recv_bytes())
        for example in examples:
            function(*example)
    except BaseException as error:
        messages.send_bytes(f"{type(error).__name__}: {error}".encode(errors="replace"))
        return
    gc.freeze()  # a worker's collector would copy every page
    messages.send_bytes(READY)
    messages.close()
    _serve(control, function, parent)


def _serve(control: socket.socket, function: Function, parent: int) -> None:
    workers: set[int] = set()
    own = os.getpid()
    while os.getppid() == parent:
        if not select.select([control], [], [], _LOOK_S)[0]:
            continue
        message, descriptors, *_ = socket.recv_fds(control, PID.size, 1)
        if not message:
            break
        if not descriptors:
            _end(workers, PID.unpack(message)[0])
            continue
        worker = os.fork()
        if worker == 0:
            control.close()
            _work(descriptors[0], function, own)
        os.close(descriptors[0])
        workers.add(worker)
        control.sendall(PID.pack(worker))
    for worker in list(workers):
        _end(workers, worker)


def _end(workers: set[int], worker: int) -> None:
    """Kill a worker and wait for its end; it is our child, so its id means no other process."""
    if worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        workers.remove(worker)


def _work(descriptor: int, function: Function, parent: int) -> None:
    """Answer calls until nobody asks, our parent dies, or a call has taken up too much memory."""
    try:
        _die_with(parent)
        calls = Connection(descriptor)
        memory = psutil.Process().memory_info
        first, goes_on = memory().vms, True
        resource.setrlimit(resource.RLIMIT_AS, (first + MEMORY_BYTES, first + MEMORY_BYTES))
        with suppress(EOFError, OSError, MemoryError):
            while goes_on:
                value = _value(function, pickle.loads(calls.recv_bytes()))
                goes_on = memory().vms - first < KEPT_BYTES  # else the next call may lack it
                calls.send_bytes((MORE if goes_on else LAST) + value)
    finally:
        os._exit(0)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, also where a call never returns to Python.

    Linux only; elsewhere a worker outlives the first process if that one is killed by itself.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_KILLED_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the kernel knew


def _value(function: Function, arguments: tuple[Any, ...]) -> bytes:
    """Return a function's value as JSON: null where it raises, or where it is none that JSON can hold.

    Raises:
        MemoryError: the call met the limit, of which an earlier one may have left little.
    """
    try:
        value = json.dumps(function(*arguments)).encode()
        return value if len(value) <= VALUE_BYTES else b"null"
    except MemoryError:
        raise
    except BaseException:  # whatever it raises is the answer's fault, SystemExit and RecursionError too
        return b"null"
