"""Runs every stage as a process of its own on this machine, forked from one that has imported it all."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from llmzero.core.settings import setting
from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners import entry
from llmzero.runners.base import ENTRY_POINT, StageRunner
from llmzero.runners.cold import ColdStage
from llmzero.runners.devices import VISIBLE, Slots, devices
from llmzero.runners.directory import DirectoryHandle
from llmzero.runners.environment import PASS_ENV, of_all_stages, of_stage
from llmzero.runners.warm import WarmParent, WarmStage, modules_of

log = logging.getLogger(__name__)


@dataclass
class LocalRunnerSettings:
    """`runner=local`."""

    entry_point: str = setting(ENTRY_POINT, "the function that trains a stage, as package.module.function")
    warm: bool = setting(
        True,
        "fork stages from a process that has imported what they need; false starts each from nothing, "
        "for an entry point whose module begins threads or computes when it is imported",
    )
    workers: int | None = setting(
        None, "stages that share the machine's cores side by side; null is search.workers", low=1
    )
    threads: int | None = setting(None, "CPU threads of a process; null shares the cores out evenly", low=1)
    gpus_per_stage: int = setting(
        0, "GPUs that a stage may see, of those in CUDA_VISIBLE_DEVICES; 0 hides them all", low=0
    )
    processes_per_stage: int | None = setting(
        None, "data-parallel processes of a stage; null is one a GPU, or one", low=1
    )
    pass_env: list[str] = setting([], PASS_ENV)


class LocalRunner(StageRunner):
    """Stages as processes of this machine.

    Args:
        workers: stages that run side by side, where the settings do not say.
        secrets: environment variables with secrets of the driver's, whatever their names.
    """

    def __init__(
        self, settings: LocalRunnerSettings, workers: int = 1, secrets: Collection[str] = ()
    ) -> None:
        self.settings, self.secrets = settings, secrets
        self.processes_per_node = settings.processes_per_stage or max(1, settings.gpus_per_stage)
        workers = settings.workers or workers
        share = workers * self.processes_per_node
        self.threads = settings.threads or max(1, (os.cpu_count() or 1) // share)
        size = settings.gpus_per_stage
        self._slots = Slots(devices(workers * size), size) if size else None

    def warm_up(self, stage_config: Mapping[str, Any]) -> None:
        """Begin to import what stages need; say so where they will leave GPUs alone."""
        if self._slots is None and (unused := devices(0)):
            log.warning(
                "runner.gpus_per_stage=0: stages train on the CPU, and no GPU of this machine is used (%s); "
                "hardware=one_80gb, or one like it, trains on them (docs/memory.md)",
                ", ".join(unused),
            )
        if self.settings.warm:
            self._parent(stage_config)

    def start(self, spec: StageSpec) -> LocalHandle:
        """Start the stage's processes, which survive the driver; one that runs already is watched."""
        lock = entry.locked(spec.directory / entry.LOCK)
        if lock is None:
            return LocalHandle(spec)
        with ExitStack() as stack:
            held = [stack.enter_context(lock)]
            visible = ""
            if self._slots:
                visible, locks = self._slots.take(StageDir(spec.directory))
                held += [stack.enter_context(lock) for lock in locks]
            environments = list(self._environments(spec, visible))
            descriptors = [file.fileno() for file in held]
            if self.settings.warm:
                return LocalHandle(spec, self._begin_warm(spec, environments, descriptors))
            entry_point = self.settings.entry_point
            return LocalHandle(spec, ColdStage(spec.directory, entry_point, environments, descriptors))

    def attach(self, spec: StageSpec) -> LocalHandle | None:
        """Return a handle of a stage that has ended or still runs; None where it died without a result."""
        ended = StageDir(spec.directory).result_file.exists()
        return LocalHandle(spec) if ended or entry.is_running(spec.directory) else None

    def _environments(self, spec: StageSpec, visible: str) -> Iterator[dict[str, str]]:
        """Yield the environment of each of the stage's processes."""
        common = {
            **of_stage(spec, self.settings.pass_env, self.secrets),
            **entry.thread_limits(self.threads),
            VISIBLE: visible,
        }
        if self.processes_per_node == 1:
            yield common
            return
        size = str(self.processes_per_node)
        common |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        for rank in map(str, range(self.processes_per_node)):
            yield {**common, "RANK": rank, "LOCAL_RANK": rank}

    def _begin_warm(
        self, spec: StageSpec, environments: Sequence[Mapping[str, str]], held: Sequence[int]
    ) -> WarmStage:
        with suppress(OSError):
            return self._parent(spec.config).start(spec.directory, environments, held)
        parent = self._parent(spec.config)  # a new one, as that has just died
        return parent.start(spec.directory, environments, held)

    def _parent(self, stage_config: Mapping[str, Any]) -> WarmParent:
        """Return the warm parent of this process's stages of our kind, a new one where it has died."""
        common = {**of_all_stages(self.secrets), **entry.thread_limits(self.threads)}
        if self._slots is None:
            common[VISIBLE] = ""
        key = (self.settings.entry_point, *sorted(common.items()))
        parent = _parents.get(key)
        if parent is None or not parent.alive:
            modules = sorted(modules_of(stage_config))
            parent = _parents[key] = WarmParent(self.settings.entry_point, common, modules)
        return parent


class LocalHandle(DirectoryHandle):
    """A stage on this machine.

    Args:
        processes: those of the stage, where they were started by this one.
    """

    def __init__(self, spec: StageSpec, processes: WarmStage | ColdStage | None = None) -> None:
        super().__init__(spec)
        self._directory, self._processes = spec.directory, processes

    def alive(self) -> bool:
        """Whether one of its processes runs, or is to be forked."""
        if self._processes:
            self._processes.poll()  # which looks after those that are left
        return entry.is_running(self._directory)

    def lost(self) -> str:
        """Return what became of a stage without a result: signal 9 is the kernel's, for want of memory."""
        status = self._processes.poll() if self._processes else None
        if status is None or status >= 0:
            return super().lost()
        return f"{super().lost()}, of signal {-status} ({signal.strsignal(-status)})"


_parents: dict[tuple[object, ...], WarmParent] = {}  # of all searches that this process runs


def _free_port() -> int:
    """Return a port that the stage's processes can meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
