"""Runs the cells of a study in processes of their own: on this machine, in workers that are used again, or as jobs of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llmzero.cli import INTERRUPTED
from llmzero.errors import UserError
from llmzero.search.session import Session
from llmzero.study import Cell, Study

POLL_S = 0.1
FAILED = 1  # exit code
LOG = "log.txt"  # of a cell
SLURM_TIMEOUT_MIN = 60 * 24

Config = dict[str, Any]


class Job(Protocol):
    """A cell that was handed over: a future of `concurrent.futures`, or a job of submitit."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def result(self) -> str | None:
        """What went wrong in it."""


Submit = Callable[[Sequence[Config]], Sequence[Job]]


def run_study(study: Study, config: Config) -> list[str]:
    """Run what has not finished; return which cells failed, and why. One that fails leaves the others alone."""
    for pair in study.pairs:
        pair.claim()
    left = [cell for cell in study.cells if cell.summary() is None]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    failed: list[str] = []
    with Progress(*columns) as progress:
        bar = progress.add_task("cells", total=len(study.cells), completed=len(study.cells) - len(left))

        def note(cell: Cell, error: str | None) -> None:
            progress.advance(bar)
            if error is not None:
                failed.append(f"{cell}: {error}")
                progress.print(f"failed: {failed[-1]}", markup=False, highlight=False, soft_wrap=True)

        while left:
            left = _run_round(left, _cluster(study, config) if config["cluster"] else _local_pool(config["at_once"]), note)
    return failed


def _run_round(cells: Sequence[Cell], executor: AbstractContextManager[Submit], note: Callable[[Cell, str | None], None]) -> list[Cell]:
    """Run cells and note how they end; return those that never began, because the process of another one ended and the pool with it.

    Raises:
        UserError: none of them began.
    """
    began, again = time.time(), []
    with executor as submit:
        for cell, job in _ended(dict(zip(cells, submit([cell.config for cell in cells]), strict=True))):
            try:
                note(cell, job.result())
            except Exception as error:  # whatever an executor says of a process that is gone
                if isinstance(error, BrokenProcessPool) and not _begun(cell, began):
                    again.append(cell)
                else:
                    note(cell, f"its process ended: {str(error) or type(error).__name__}")
    if len(again) == len(cells):
        raise UserError("study: worker processes end before their searches begin; run one by hand: python launchers/search.py")
    return again


def _begun(cell: Cell, since: float) -> bool:
    log = cell.directory / LOG
    return log.exists() and log.stat().st_mtime >= since


def run_cell(config: Config) -> str | None:
    """Run a search to its end, its output in its own log.txt; return what went wrong. An interruption ends the process."""
    directory = Path(config["search_dir"])
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOG).open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            Session.from_config(config).run()
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)  # else the worker would take up the next cell
        except Exception as error:
            traceback.print_exc()
            return f"{str(error) or type(error).__name__} (see {directory / LOG})"
    return None


def _ended(jobs: dict[Cell, Job]) -> Iterator[tuple[Cell, Job]]:
    """Yield cells with their jobs as they end."""
    while jobs:
        done = [cell for cell, job in jobs.items() if job.done()]
        for cell in done:
            yield cell, jobs.pop(cell)
        if not done:
            time.sleep(POLL_S)


@contextmanager
def _local_pool(at_once: int) -> Iterator[Submit]:
    """Give what submits to worker processes, which end with this process however it ends."""
    pool = ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield lambda configs: [pool.submit(run_cell, config) for config in configs]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGINT)
        raise
    finally:
        pool.shutdown()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _cluster(study: Study, config: Config) -> Iterator[Submit]:
    """Give what submits one job array; its jobs are cancelled when this process is interrupted."""
    import submitit

    executor = submitit.AutoExecutor(study.directory / "jobs", cluster=config["cluster"])
    executor.update_parameters(**{"timeout_min": SLURM_TIMEOUT_MIN, "slurm_array_parallelism": config["at_once"], **config["slurm"]})
    jobs: list[Any] = []

    def submit(configs: Sequence[Config]) -> list[Any]:
        jobs.extend(executor.map_array(run_cell, configs) if configs else [])
        return list(jobs)

    try:
        yield submit
    except BaseException:
        for job in jobs:
            job.cancel()
        raise


def describe_study(study: Study) -> str:
    """Return what a study is, in a line."""
    done = sum(cell.summary() is not None for cell in study.cells)
    shape = f"{len(study.rows)} x {len(study.tasks)} tasks x {len(study.seeds)} seeds"
    return f"study {study.directory}: {', '.join(study.rows)}: {shape} = {len(study.cells)} searches, {done} of them finished"


def exit_code(failed: Sequence[str]) -> int:
    """Say what failed; return 1 where something did."""
    for cell in failed:
        print(f"failed: {cell}")
    return FAILED if failed else 0
