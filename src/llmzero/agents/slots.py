"""A limit on calls under way at one time from this machine, over all processes of this user."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from llmzero.core.errors import UserError
from llmzero.core.files import FULL

log = logging.getLogger(__name__)

POLL_S = 0.1
# What a file system says that cannot lock, and a folder in which this user may not write.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
# Also where their disk is full the search goes on: its own directory may lie on another.
NO_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, *FULL)


@contextmanager
def slot(endpoint: str, slots: int, timeout_s: float) -> Iterator[None]:
    """Wait for one of an endpoint's slots and hold it. Each is a locked file, which the kernel frees.

    Where files cannot be locked there is no limit, as it is a courtesy to the endpoint; a warning says so.

    Args:
        endpoint: any text that names it; processes that give the same one share its slots.
        slots: how many there are.
        timeout_s: seconds to wait at most.

    Raises:
        TimeoutError: all are held for longer than that.
        UserError: others than this user have access to the folder of the locks.
        OSError: the folder holds something else than locks.
    """
    with ExitStack() as held:
        folder = _folder()
        if folder is not None:
            held.callback(os.close, folder)
            lock = _locked(folder, endpoint, slots, time.monotonic() + timeout_s)
            if lock is not None:
                held.callback(os.close, lock)
        yield


def _folder() -> int | None:
    """Return a descriptor of the folder of the locks, made where it is missing; None where it cannot be."""
    for place in _places():
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            return _own_folder(place / "llmzero-slots")
        except OSError as error:
            if error.errno not in NO_FOLDER:
                raise
    _warn("no folder can be made for their locks, neither in $XDG_RUNTIME_DIR nor in ~/.cache")
    return None


def _places() -> list[Path]:
    """Return where the folder may lie: the directory of the session, if there is one, and the cache."""
    runtime, cache_home = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("XDG_CACHE_HOME")
    session = [Path(runtime)] if runtime and Path(runtime).is_dir() else []
    return [*session, Path(cache_home) if cache_home else Path(os.path.expanduser("~"), ".cache")]


def _own_folder(path: Path) -> int:
    """Return a descriptor of a folder that belongs to this user alone: what it names later is no matter."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError as error:
        raise UserError(f"{path}: is no folder, or a link to one; remove it") from error
    status = os.fstat(folder)
    owner, mode = status.st_uid, stat.S_IMODE(status.st_mode)
    if owner != os.geteuid() or mode & 0o077:
        os.close(folder)
        raise UserError(
            f"{path}: holds the locks that limit calls of language models and must belong to you alone, but "
            f"its owner is {owner} and its mode {mode:04o}; remove it, or set XDG_RUNTIME_DIR to a directory "
            "of your own"
        )
    return folder


def _locked(folder: int, endpoint: str, slots: int, deadline: float) -> int | None:
    """Return the descriptor of a file that is locked now; None where files cannot be locked.

    A cache on a shared disk is seen by other machines, which have slots of their own.
    """
    stem = hashlib.sha256(f"{platform.node()} {endpoint}".encode()).hexdigest()[:16]
    while True:
        for i in range(slots):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                lock = os.open(f"{stem}-{i}.lock", flags, 0o600, dir_fd=folder)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                _warn("the disk of their locks is full")
                return None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError as error:
                os.close(lock)
                if error.errno in NO_LOCKS:
                    _warn("the file system of their locks has none")
                    return None
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"all {slots} slots for calls at one time (llm.max_at_once) are taken")
        time.sleep(POLL_S)


@cache
def _warn(reason: str) -> None:
    """Warn once."""
    log.warning("llm.max_at_once: calls at one time are not limited: %s", reason)
