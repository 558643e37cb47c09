"""An entry point of stages that do as their directories say: they behave, spoil what they can, or crash."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmzero.core.processes import interruptible
from llmzero.core.stage import StageDir, StageResult

WHAT = "what"  # the file that names the function
CUDA_CHECK = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")  # when this is imported
state: dict[str, Any] = {"stages": 0}


def run(directory: str) -> None:
    """Do what the stage's directory says."""
    state["stages"] += 1
    function: Callable[[Path], None] = globals()[Path(directory, WHAT).read_text()]
    function(Path(directory))


def record(directory: Path) -> None:
    """Write down all that a stage before might have changed, and end well."""
    facts = {
        "stages": state["stages"],
        "cuda_check": CUDA_CHECK,
        "pid": os.getpid(),
        "parent_threads": len(os.listdir(f"/proc/{os.getppid()}/task")),
        "own_session": os.getsid(0) == os.getpid(),
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "umask": os.umask(0o22),
        "path": sys.path,
        "handlers": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "limits": [resource.getrlimit(number) for number in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE)],
        "files": sorted(os.readlink(f"/proc/self/fd/{name}") for name in files()),
        "drawn": [random.random(), float(np.random.random())],
    }
    (directory / "facts.json").write_text(json.dumps(facts))
    complete(directory)


def files() -> list[str]:
    """The open descriptors, but for the one that lists them."""
    return [name for name in os.listdir("/proc/self/fd") if Path("/proc/self/fd", name).exists()]


def complete(directory: Path) -> None:
    StageDir(directory).write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))


def spoil(directory: Path) -> None:
    """Change what a process can change, leave a thread and children at work, and end well."""
    state["stages"] = 100
    os.environ.clear()
    os.environ["SPOILT"] = "1"
    os.umask(0)
    sys.path.insert(0, str(directory))
    random.seed(0)
    np.random.seed(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    threading.Thread(target=time.sleep, args=(1000,)).start()
    child = subprocess.Popen(["/bin/sleep", "1000"])
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    (directory / "children.json").write_text(json.dumps([child.pid, forked]))
    os.chdir("/")
    complete(directory)


def segfault(_directory: Path) -> None:
    ctypes.string_at(0)


def take_all_memory(_directory: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    bytearray(2**30)


def fail(_directory: Path) -> None:
    raise ValueError("it is wrong")


def leave(_directory: Path) -> None:
    sys.exit(3)


def wait(directory: Path) -> None:
    """Note each start, and work until the file `go` is there, or a signal says to leave."""
    with interruptible() as interrupted:
        with (directory / "starts").open("a") as starts:
            starts.write(f"{os.getpid()}\n")
        while not (directory / "go").exists():
            time.sleep(0.005)
            if interrupted():
                (directory / "left").touch()
                return
    complete(directory)


def rank_one_fails(directory: Path) -> None:
    """Fail in rank 1, for which the others wait for ever."""
    (directory / f"rank-{os.environ['RANK']}").write_text(str(os.getpid()))
    if os.environ["RANK"] == "1":
        sys.exit(7)
    time.sleep(1000)


def see_and_wait(directory: Path) -> None:
    """Write down which GPUs there are, and work."""
    (directory / "seen.tmp").write_text(json.dumps(os.environ["CUDA_VISIBLE_DEVICES"]))
    (directory / "seen.tmp").rename(directory / "seen")
    wait(directory)
