"""At most one driver of a search directory, on all machines that share it.

A lease that is renewed does this, as locks of shared file systems cannot be trusted.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import read_json, reading, write_json
from llmzero.core.shapes import NUMBER, Shape, require

CLAIM: Shape = {
    **dict.fromkeys(("token", "host", "machine"), str),
    "pid": int,
    "began": NUMBER,
    "renewals": int,
}
RENEWAL_S = 5.0
SILENCE_S = 15.0  # after which a lease of another machine is taken over
REMEDY = "delete it once you are sure that no process drives this search; one that does writes it anew"
SETTLING_S = 0.5  # in which a driver that takes it over at the same time becomes visible


class Lease:
    """The file that names the driver of a search.

    Clocks of machines are not compared: a lease is alive while its content changes.

    Args:
        file: in the directory that is to be one driver's.
        key: of the configuration, that names the directory.
    """

    def __init__(self, file: Path, key: str = "search_dir") -> None:
        self.file, self.key = file, key
        self._claim = {"token": uuid.uuid4().hex, **_self()}
        self._renewals = 0
        self._released = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take the lease, renew it in the background, and give it back.

        Raises:
            UserError: another driver holds it.
        """
        self._take()
        renewing = threading.Thread(target=self._renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._released.set()
            renewing.join()
            if self._is_ours():
                self.file.unlink()

    def _take(self) -> None:
        if self._create():
            return
        other = read_lease(self.file) or {}
        if is_alive(self.file):
            where = f"process {other.get('pid')} on {other.get('host')}"
            raise UserError(
                f"{self.key}={self.file.parent}: another process is at work there ({where}); "
                "wait for it or end it"
            )
        self._write()
        time.sleep(SETTLING_S)
        if not self._is_ours():
            raise UserError(f"{self.key}={self.file.parent}: another process has just taken it up")

    def _create(self) -> bool:
        """Make the file, whole at once; return whether there was none."""
        written = self.file.with_name(f".{self.file.name}.{self._claim['token']}.tmp")
        try:
            write_json(written, self._content(0), sync=False)
            os.link(written, self.file)
        except (FileExistsError, FileNotFoundError):  # a driver that holds the lease deletes temporary files
            return False
        finally:
            written.unlink(missing_ok=True)
        return True

    def _write(self) -> None:
        write_json(self.file, self._content(self._renewals), sync=False)

    def _content(self, renewals: int) -> dict[str, Any]:
        return {**self._claim, "directory": _directory(self.file), "renewals": renewals}

    def _is_ours(self) -> bool:
        try:
            claim = read_lease(self.file)
        except DamagedFileError:  # no other driver's, as they write it whole
            return True
        return claim is not None and claim["token"] == self._claim["token"]

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_S):
            if not self._is_ours():  # this process slept for so long that another driver took over
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._renewals += 1
            with suppress(OSError):  # a full disk is reported by whatever fails for it
                self._write()


class LeaseWatch:
    """Sees at each look whether a lease was renewed, where `is_alive` would wait for it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: bytes | None = None

    @property
    def present(self) -> bool:
        """Whether there was a lease at the last look."""
        return self._content is not None

    def renewed(self) -> bool:
        """Look; return whether there is a lease that is another than at the last look."""
        before, self._content = self._content, None
        with suppress(OSError):
            self._content = self._file.read_bytes()
        return self.present and self._content != before


def read_lease(file: Path) -> dict[str, Any] | None:
    """Return who drives a search; None where nobody has said so.

    Raises:
        DamagedFileError: that cannot be read. Somebody may drive it all the same.
    """
    claim = read_json(file, REMEDY)
    with reading(file, REMEDY):
        if claim is not None:
            require(claim, CLAIM)
    return claim


def is_alive(file: Path) -> bool:
    """Return whether a driver holds a lease.

    For one of another machine that takes up to `SILENCE_S`. So it does in a copy of a search whose driver
    runs: that names the driver, who renews the original alone.
    """
    before = read_lease(file)
    if before is None:
        return False
    if before["machine"] != _machine():
        return _changes(file, before)
    here = before.get("directory") in (None, _directory(file))
    return _runs(before["pid"], before["began"]) and (here or _changes(file, before))


def _changes(file: Path, before: Any) -> bool:
    deadline = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline:
        if read_lease(file) != before:
            return True
        time.sleep(0.2)
    return False


def _self() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": process.pid,
        "began": process.create_time(),
    }


def _directory(file: Path) -> str:
    """Name the directory that a file lies in, whatever its path is."""
    status = file.parent.stat()
    return f"{status.st_dev} {status.st_ino}"


def _machine() -> str:
    """Name the set of process ids that ours is one of: of this host, or of this container."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(namespace) if namespace.exists() else ''}".strip()


def _runs(pid: int, began: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
