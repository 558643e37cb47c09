"""A machine-wide limit on calls under way at one time, over all processes of this user."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1


@contextmanager
def slot(endpoint: str, slots: int) -> Iterator[None]:
    """Wait for one of an endpoint's slots and hold it. Each is a locked file, which the kernel frees.

    Args:
        endpoint: any text that names it; processes that give the same one share its slots.
        slots: how many there are.
    """
    folder = Path(tempfile.gettempdir()) / f"llmzero-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stem = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
    while True:
        for i in range(slots):
            with (folder / f"{stem}-{i}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(POLL_S)
