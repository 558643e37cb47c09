"""Cold starts: every process of a stage imports for itself what it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from llmzero.core.files import open_own
from llmzero.core.stage import StageDir
from llmzero.runners import entry

GRACE_S = 10.0  # for the other processes of a stage to end by themselves where one has ended badly


class ColdStage:
    """The processes of a stage, one per environment, started from nothing.

    Args:
        held: descriptors that stay open in these processes alone.

    Raises:
        UserError: a link lies where the stage's log should.
    """

    def __init__(
        self,
        directory: Path,
        entry_point: str,
        environments: Sequence[Mapping[str, str]],
        held: Sequence[int] = (),
    ) -> None:
        command = [sys.executable, "-u", "-m", entry.__name__, str(directory), entry_point]
        with open_own(StageDir(directory).log_file) as log:
            self._processes = [
                subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=held,
                    start_new_session=True,
                )
                for environment in environments
            ]
        self._failed_at: float | None = None

    def poll(self) -> int | None:
        """Return None while one runs; then 0 where all went well, else the status of one that ended badly.

        Those that wait for one that has ended badly are killed, as is what a process has left running.
        """
        for process in self._processes:
            if process.returncode is None and _has_ended(process.pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                if process.wait() and self._failed_at is None:
                    self._failed_at = time.monotonic()
        running = [process for process in self._processes if process.returncode is None]
        if not running:
            return next((process.returncode for process in self._processes if process.returncode), 0)
        if self._failed_at is not None and time.monotonic() > self._failed_at + GRACE_S:
            for process in running:
                process.kill()
        return None


def _has_ended(pid: int) -> bool:
    """Return whether a child of ours has ended; its id means it alone until it is waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
