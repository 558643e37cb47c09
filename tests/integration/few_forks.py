"""A process that imports this can fork once; its second fork fails, and then it can again."""

from __future__ import annotations

import errno
import os

_fork, _calls = os.fork, []


def fork() -> int:
    _calls.append(None)
    if len(_calls) == 2:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return _fork()


os.fork = fork
