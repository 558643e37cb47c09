"""Runs the cells of a study in processes of their own: on this machine, in workers that are used again, or as jobs of a cluster."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

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
from llmzero.core.errors import UserError
from llmzero.core.files import read_json, write_atomic, write_json
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.studies.study import Cell, Study
from llmzero.studies.workers import workers

POLL_S = 0.1
LOG = "log.txt"  # of a cell
FAILED = 1  # exit code
SLURM_TIMEOUT_MIN = 60 * 24
UNDER_WAY = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING")  # states of a SLURM job


class Job(Protocol):
    """A cell that was handed over: a future of `concurrent.futures`, or a job of submitit."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def result(self) -> str | None:
        """What went wrong in it."""


def run_study(study: Study, config: StudyConfig) -> list[str]:
    """Run what has not finished; return which cells failed, and why. One that fails leaves the others alone."""
    for pair in study.pairs:
        pair.claim()
    left = study.unfinished
    cluster = _cluster(study, config) if config.cluster else workers(run_cell, config.at_once)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, cluster as submit:
        bar = progress.add_task("cells", total=len(study.cells), completed=len(study.cells) - len(left))
        failed: list[str] = []
        for cell, error in _ended(dict(zip(left, submit([cell.config for cell in left]), strict=True))):
            progress.advance(bar)
            if error is not None:
                failed.append(f"{cell}: {error}")
                progress.print(f"failed: {failed[-1]}", markup=False, highlight=False, soft_wrap=True)
    return failed


def run_cell(config: SearchConfig) -> str | None:
    """Run a search to its end, its output in its own log.txt; return what went wrong. An interruption ends the process."""
    directory = Path(config.search_dir)
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


def _ended(jobs: dict[Cell, Job]) -> Iterator[tuple[Cell, str | None]]:
    """Yield the cells as they end, with what went wrong."""
    while jobs:
        done = [cell for cell, job in jobs.items() if job.done()]
        for cell in done:
            yield cell, _error(jobs.pop(cell))
        if not done:
            time.sleep(POLL_S)


def _error(job: Job) -> str | None:
    try:
        return job.result()
    except Exception as error:  # whatever an executor says of a process that is gone
        return str(error) or type(error).__name__


@contextmanager
def _cluster(study: Study, config: StudyConfig) -> Iterator[Any]:
    """Give what submits one job array; its jobs are cancelled when this process is interrupted.

    `jobs.json` names them, as they go on where this process is killed: those that wait or run by then are not submitted again.
    """
    import submitit

    folder, record = study.directory / "jobs", study.directory / "jobs.json"
    known = read_json(record) or {}
    parameters = {
        "timeout_min": SLURM_TIMEOUT_MIN,
        "slurm_array_parallelism": config.at_once,
        **(config.slurm or {}),
    }
    with _refusals_told(config):
        executor = submitit.AutoExecutor(folder, cluster=config.cluster)
        executor.update_parameters(**parameters)
    jobs: dict[str, Any] = {}

    def submit(configs: Sequence[SearchConfig]) -> list[Any]:
        wanted = {config.search_dir: config for config in configs}
        found = {place: submitit.SlurmJob(folder, known[place]) for place in wanted if place in known}
        jobs.update({place: job for place, job in found.items() if job.state in UNDER_WAY})
        new = [place for place in wanted if place not in jobs]
        if new:
            with _refusals_told(config):
                jobs.update(
                    zip(new, executor.map_array(run_cell, [wanted[place] for place in new]), strict=True)
                )
        write_json(record, {place: job.job_id for place, job in jobs.items()})
        return [jobs[place] for place in wanted]

    try:
        yield submit
    except BaseException:
        for job in jobs.values():
            job.cancel()
        raise


@contextmanager
def _refusals_told(config: StudyConfig) -> Iterator[None]:
    """Tell users of options that submitit does not know or SLURM refuses, and of a machine without SLURM."""
    try:
        yield
    except (NameError, TypeError, AssertionError, RuntimeError) as error:  # as submitit raises them
        raise UserError(
            f"cluster={config.cluster} slurm={config.slurm}: {' '.join(str(error).splitlines()[:2])}"
        ) from error


def carry_out(
    study: Study,
    config: StudyConfig,
    name: str,
    found_in: Callable[[Study], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    figures: Callable[[Path, dict[str, Any]], None],
) -> int:
    """Run the searches that have not finished, and write `name`.json, `name`.md and figures of what came out.

    Returns:
        the exit code: 1 where some failed. A dry run only says what there is to do.
    """
    print(describe_study(study), flush=True)
    if config.dry_run:
        return 0
    failed = run_study(study, config)
    found, page = found_in(study), study.directory / f"{name}.md"
    write_json(page.with_suffix(".json"), found)
    write_atomic(page, table(found))
    figures(study.directory, found)
    print(f"{name}: {page}")
    return exit_code(failed)


def describe_study(study: Study) -> str:
    """Return what a study is, in a line."""
    done = len(study.cells) - len(study.unfinished)
    shape = f"{len(study.rows)} x {len(study.tasks)} tasks x {len(study.seeds)} seeds"
    limits = [cell.config.budget.stages for cell in study.cells if cell.config.budget.stages is not None]
    stages = f" of up to {sum(limits)} stages" if len(limits) == len(study.cells) else ""
    return f"study {study.directory}: {', '.join(study.rows)}: {shape} = {len(study.cells)} searches{stages}, {done} of them finished"


def exit_code(failed: Sequence[str]) -> int:
    """Say what failed; return 1 where something did."""
    for cell in failed:
        print(f"failed: {cell}")
    return FAILED if failed else 0
