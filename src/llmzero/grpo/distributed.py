"""The processes of one stage: who we are, and the few collective calls that the trainer makes."""

from __future__ import annotations

import atexit
import os
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.distributed_c10d import _set_pg_timeout

from llmzero.core.processes import identity

T = TypeVar("T")
PORT = 29400  # first of 4096 ports from which a SLURM job takes its own


@dataclass(frozen=True)
class World:
    """Where a process stands among the `size` processes of its stage; objects travel by `group`, on the
    CPU.
    """

    rank: int
    size: int
    group: Any

    @property
    def leads(self) -> bool:
        """Whether this process writes the stage's files."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_leader(self, value: T) -> T:
        """Return rank 0's value on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Return on every process whether any process says so."""
        return any(self.gather(flag))


def join(timeout_s: float) -> World:
    """Join the stage's process group: NCCL for tensors on GPUs, gloo on CPUs and for objects.

    A collective call that waits longer than `timeout_s` raises, so that the death of one process ends the
    others.
    """
    rank, size, device = identity()
    if torch.cuda.is_available():  # where each process sees its own GPU alone, all of these are the first
        device %= torch.cuda.device_count()
        torch.cuda.set_device(device)
    os.environ["LOCAL_RANK"] = str(device)  # DeepSpeed and vLLM take it for the number of a device
    timeout = timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if size == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
        else:
            _set_meeting_point()
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
        atexit.register(_leave)
    group = _object_group(dist.group.WORLD) if size > 1 else None
    for each in (dist.group.WORLD, group) if group is not None else ():
        _set_pg_timeout(timeout, each)
    return World(rank, size, group)


@cache
def _object_group(_world: Any) -> Any:
    """Return the group by which objects travel among a process group's members; stages that follow one
    another in the same processes share it, as each new one would cost threads and sockets.
    """
    return dist.new_group(backend="gloo")


def _leave() -> None:
    """Join gloo's threads while the interpreter still stands: one that wants its lock afterwards aborts the
    process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def _set_meeting_point() -> None:
    """Set MASTER_ADDR and MASTER_PORT where torchrun has not: the job's first host, and a port that is the
    job's own.
    """
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ.get("SLURM_JOB_NODELIST")
        command = ["scontrol", "show", "hostnames", nodes or ""]
        os.environ["MASTER_ADDR"] = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
            if nodes
            else "127.0.0.1"
        )
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID", "0")
    os.environ.setdefault("MASTER_PORT", str(PORT + int(job) % 4096))
