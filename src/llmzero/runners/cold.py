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
        self._status, self._deadline = 0, entry.NEVER

    def poll(self) -> int | None:
        """Return None while one runs; then 0 where all went well, else the status of what ended badly first.

        Those that wait for one that has ended badly are killed, as is what a process has left running.
        """
        for process in self._processes:
            if process.returncode is None and _has_ended(process.pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
                if status and not self._status:
                    self._status, self._deadline = status, time.monotonic() + entry.GRACE_S
        running = [process for process in self._processes if process.returncode is None]
        if time.monotonic() > self._deadline:
            for process in running:
                process.kill()
        return None if running else self._status


def _has_ended(pid: int) -> bool:
    """Return whether a child of ours has ended; its id means it alone until it is waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
