"""The Weights & Biases mirror of a search: a run for each stage and one for the search, made from its files.

Mirroring is a process of its own (`python -m llmzero.mirrors.tracking SEARCH_DIR`), so that a slow, failing
or missing W&B delays no search. It only reads what the search writes. Run again it adds what is missing;
`tracking.json` remembers what is there, and without that file everything is mirrored anew, under the same run
ids. This module is the driver's side of it.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from llmzero.core.errors import UserError
from llmzero.core.files import open_own
from llmzero.mirrors.tracking.inherited import is_of_a_run
from llmzero.mirrors.tracking.names import group_of
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.runners.environment import secret_names

log = logging.getLogger(__name__)


class WandbTracking:
    """Starts the mirroring process beside a search, and ends it.

    Args:
        settings: where the runs go, and what they hold.
        secrets: environment variables with secrets of the driver's, whatever their names.
    """

    def __init__(self, settings: TrackingSettings, secrets: Collection[str] = ()) -> None:
        self.settings, self.secrets = settings, secrets
        self._search_dir = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, search_dir: Path) -> None:
        """Start mirroring. A mirror that cannot be started is worth a warning, and no search."""
        self._search_dir = search_dir.resolve()
        command = [*self.command(self._search_dir), "--follow"]
        try:
            with open_own(self._search_dir / "tracking.log") as output:
                # A session of its own: Ctrl-C at the driver ends the driver, and lets a run under way be
                # mirrored to its end.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=self.environment(),
                    start_new_session=True,
                )
        except (OSError, UserError) as error:
            log.warning("W&B: mirroring could not be started (%s)", error)

    def finish(self, timeout_s: float) -> None:
        """Tell the mirror that no more is to come, and wait at most `timeout_s` for it to be complete."""
        if self._process is None:
            return
        try:
            self._process.communicate(b"\n", timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode:
            log.warning(
                "W&B: mirroring failed or took too long, see %s; `%s` completes it",
                self._search_dir / "tracking.log",
                shlex.join(["python", *self.command(self._search_dir)[1:]]),
            )
        elif self.settings.mode == "online":
            log.info(
                "W&B: the runs are in project %s, group %s", self.settings.project, group_of(self._search_dir)
            )
        else:
            folder = self._search_dir / "wandb"
            sync = f"wandb sync {shlex.quote(str(folder))}/offline-run-*"
            log.info("W&B: the runs are in %s; `%s` sends them", folder, sync)

    def environment(self) -> dict[str, str]:
        """Return the environment of the mirroring process.

        Of all secrets it gets W&B's alone, and nothing of a run that the driver is part of.
        """
        withheld = {name for name in secret_names(self.secrets) if not name.startswith("WANDB_")}
        return {
            name: value
            for name, value in os.environ.items()
            if name not in withheld and not is_of_a_run(name)
        }

    def command(self, search_dir: Path) -> list[str]:
        """Return the command that mirrors what a search directory holds."""
        settings = self.settings
        entity = ["--entity", settings.entity] if settings.entity else []
        flags = ["--fork"] * settings.fork + ["--no-checkpoint"] * (not settings.checkpoint)
        arguments = [str(search_dir), "--mode", settings.mode, "--project", settings.project, *entity, *flags]
        return [sys.executable, "-m", "llmzero.mirrors.tracking", *arguments]


class NoTracking:
    """Mirrors nothing."""

    def start(self, search_dir: Path) -> None:
        """Do nothing."""

    def finish(self, timeout_s: float) -> None:
        """Do nothing."""
