"""Functions that run in processes of their own and answer requests by lines of JSON."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

from benchmarks.meter import Meter
from benchmarks.setting import Setting

REPOSITORY = Path(__file__).resolve().parents[1]
LOG_TAIL = 4000  # characters of a worker's log that an error shows

Answer = dict[str, Any]
Ask = Callable[[str], Answer]

# --- the process that asks ---


@contextmanager
def worker(function: str, setting: Setting) -> Iterator[Ask]:
    """Run MODULE:FUNCTION with a setting in a process of its own.

    Yields:
        A call that sends the process a request, unless that is empty, and returns its next answer.
    """
    with tempfile.TemporaryFile("w+") as log:
        code = "from benchmarks.worker import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, function, json.dumps(asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        try:
            yield partial(_ask, process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ask(process: subprocess.Popen[str], log: IO[str], request: str) -> Answer:
    assert process.stdin is not None
    assert process.stdout is not None
    if request:
        process.stdin.write(request + "\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            values: Answer = json.loads(line.removeprefix("answer "))
            return values
    log.seek(0)
    raise RuntimeError(f"a worker ended, and this is the end of its log:\n{log.read()[-LOG_TAIL:]}")


# --- the process that answers ---


def main() -> None:
    """Run the function that the command line names, with the setting that it gives."""
    pkgutil.resolve_name(sys.argv[1])(Setting(**json.loads(sys.argv[2])))


def answer(values: Answer) -> None:
    """Send an answer to the process that asks."""
    print(f"\nanswer {json.dumps(values)}", flush=True)


def serve(step: Callable[[], Any], details: Callable[[Any], Answer], shares_gpu: bool) -> None:
    """Answer once when ready, then take a step for every request until there are no more.

    Args:
        step: the work of a request.
        details: what an answer tells of a step's outcome beside its seconds and memory.
        shares_gpu: whether another process works on the same GPU in turn.
    """
    meter = Meter(shares_gpu)
    answer(meter.stop())
    for _ in sys.stdin:
        meter.start()
        outcome = step()
        answer(meter.stop() | details(outcome))
