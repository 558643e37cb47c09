"""Runs the cells of a study in processes of their own: workers of this machine, or jobs of a cluster."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llmzero.cli import INTERRUPTED
from llmzero.config import StudyConfig
from llmzero.core.files import make_private, open_own, remove_temporary
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible_line
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.studies.jobs import job_array
from llmzero.studies.study import Cell, Study
from llmzero.studies.workers import workers

POLL_S = 0.1
LOG = "log.txt"  # of a cell


class Job(Protocol):
    """A submitted cell: a future of `concurrent.futures`, or a job of submitit."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def result(self) -> str | None:
        """What went wrong in it."""


def run_study(study: Study, config: StudyConfig) -> list[str]:
    """Run the cells that have not finished, and those of a failed baseline; return which failed, and why.

    A failure leaves the others alone.
    """
    make_private(study.directory)
    remove_temporary(study.directory)
    for pair in study.pairs:
        pair.claim()
    still_open = study.open
    resources = {**(config.search_job or {}), **(config.slurm or {})}
    executor = (
        job_array(run_cell, study.directory, config.cluster, config.at_once, resources)
        if config.cluster
        else workers(run_cell, config.at_once)
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    failed: list[str] = []
    with Progress(*columns, console=Terminal()) as progress, executor as submit:
        done = len(study.cells) - len(still_open)
        bar = progress.add_task("cells", total=len(study.cells), completed=done)
        jobs = submit([cell.config for cell in still_open])
        for cell, error in _ended(dict(zip(still_open, jobs, strict=True))):
            progress.advance(bar)
            if error is not None:
                failed.append(f"{cell}: {error}")
                progress.print(visible_line(f"failed: {failed[-1]}"), soft_wrap=True)
    return failed


def run_cell(config: SearchConfig) -> str | None:
    """Run a search to its end with its output in its log.txt; return what went wrong.

    An interruption ends the process.
    """
    directory = Path(config.search_dir)
    directory.mkdir(parents=True, exist_ok=True)
    with open_own(directory / LOG) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            Session.from_config(config).run()
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)  # else the worker would take up the next cell
        except Exception as error:
            traceback.print_exc()
            return f"{str(error) or type(error).__name__} (see {directory / LOG})"
    return None


def _ended(jobs: dict[Cell, Job]) -> Iterator[tuple[Cell, str | None]]:
    """Yield the cells as they end, with what went wrong."""
    while jobs:
        done = [cell for cell, job in jobs.items() if job.done()]
        for cell in done:
            try:
                error = jobs.pop(cell).result()
            except Exception as failure:  # whatever an executor says of a process that is gone
                error = str(failure) or type(failure).__name__
            yield cell, error
        if not done:
            time.sleep(POLL_S)
