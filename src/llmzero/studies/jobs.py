"""Searches as a job array of a cluster, which outlives its launcher; the next launcher waits for it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import submitit
from submitit.core.utils import DelayedSubmission
from submitit.helpers import Checkpointable

from llmzero.core.errors import UserError
from llmzero.core.files import make_private, read_json, write_json
from llmzero.core.text import visible_line
from llmzero.runners.environment import outside_a_job
from llmzero.runners.sbatch import NotNowError, RefusedError, python_command, submit
from llmzero.runners.slurm import RETRY_S
from llmzero.runners.slurm_queue import Queue, cancel, name_within
from llmzero.search.settings import SearchConfig
from llmzero.tree.lease import LeaseWatch
from llmzero.tree.workspace import Workspace

log = logging.getLogger(__name__)

T = TypeVar("T")
RunSearch = Callable[[SearchConfig], str | None]  # of a module's top level, as a job imports it
Submit = Callable[[Sequence[SearchConfig]], list["SearchJob"]]

POLL_S = 2.0  # between two questions to SLURM, each about all jobs
GRACE_S = 15.0  # after a job's end in which its summary may appear on the shared file system
SETTLING_S = 5.0  # in which the sbatch of a launcher that was killed ends
TICKET = re.compile(r"(llmzero-[0-9a-f]{10}-[0-9a-f]{8})_([0-9]+)")  # an array's name, and a task of it


class ResumableSearch(Checkpointable):
    """What a job runs. At its time limit submitit requeues the job, and the search goes on."""

    def __init__(self, run: RunSearch) -> None:
        self.run = run

    def __call__(self, config: SearchConfig) -> str | None:
        """Run the search, or go on with it."""
        return self.run(config)


class SearchJob:
    """A search's job, as far as SLURM and the search's own files tell of it.

    Submitit's file of a result is a pickle, and that in a directory from anywhere could be anybody's.
    """

    def __init__(self, queue: Queue, job_id: str, search_dir: str) -> None:
        self.job_id, self._queue, self._search_dir = job_id, queue, Path(search_dir)
        self._ended_at: float | None = None
        self._lease = LeaseWatch(Workspace(self._search_dir).lease_file)
        queue.follow(job_id)

    @property
    def alive(self) -> bool:
        """Whether it may still run, or run again."""
        return self._queue.state(self.job_id).alive

    @property
    def finished(self) -> bool:
        """Whether its search is."""
        return (read_json(self._search_dir / "summary.json") or {}).get("state") == "finished"

    def done(self) -> bool:
        """Return whether it has ended, or its search has."""
        if self.finished:
            return True
        if self.alive:
            self._ended_at = None
            return False
        if self._lease.renewed():  # its search is driven, whatever squeue leaves out
            self._ended_at = None
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() - self._ended_at >= GRACE_S

    def result(self) -> str | None:
        """Return what went wrong in it."""
        if self.finished:
            return None
        log_file = self._search_dir / "log.txt"
        lines = log_file.read_text(errors="replace").strip().splitlines() if log_file.is_file() else []
        words = f": {visible_line(lines[-1])}" if lines else ""
        return f"job {self.job_id} ended before the search did{words} (see {log_file})"

    def cancel(self) -> None:
        """End it, or take it out of the queue."""
        cancel(self.job_id)


@contextmanager
def job_array(
    run: RunSearch, directory: Path, cluster: str, at_once: int, resources: Mapping[str, Any]
) -> Iterator[Submit]:
    """Yield a function that submits searches as one job array; an interruption cancels its jobs.

    `jobs.json` in the directory names the jobs, as they go on where the launcher is killed: those that have
    not ended are not submitted again. It is written before SLURM is asked for them, too, by names that SLURM
    is asked for later.

    Args:
        run: called in the job with the search's configuration.
        directory: of the study; submitit's files go to `jobs/`.
        cluster: as submitit names it.
        at_once: jobs that may run at a time.
        resources: of a job, as in conf/search_job.yaml; other keys are those of submitit's `AutoExecutor`.

    Raises:
        UserError: submitit does not know a resource, SLURM refuses it, or there is no SLURM.
    """
    parameters = {"slurm_array_parallelism": at_once, **resources}
    requeues = parameters.pop("max_num_timeout", None)
    with _refusals_explained(cluster, resources):
        limit = {} if requeues is None else {"slurm_max_num_timeout": requeues}
        executor = submitit.AutoExecutor(directory / "jobs", cluster=cluster, **limit)
        executor.update_parameters(**parameters)
    array = _Array(directory, executor._executor)
    jobs: dict[str, SearchJob] = {}

    def submit_all(configs: Sequence[SearchConfig]) -> list[SearchJob]:
        with _refusals_explained(cluster, resources):
            jobs.update(array.earlier([config.search_dir for config in configs]))
            if new := [config for config in configs if config.search_dir not in jobs]:
                jobs.update(array.submitted({config.search_dir: (run, config) for config in new}))
        array.note({name: job.job_id for name, job in jobs.items()})
        return [jobs[config.search_dir] for config in configs]

    try:
        yield submit_all
    except BaseException:
        for job in jobs.values():
            job.cancel()
        raise


class _Array:
    """The jobs of a study's searches, and the file that names them.

    Args:
        directory: of the study.
        executor: of submitit, for its parameters.
    """

    def __init__(self, directory: Path, executor: Any) -> None:
        self._folder, self._record = directory / "jobs", directory / "jobs.json"
        self._prefix, self._executor, self._queue = name_within(directory), executor, Queue(POLL_S)

    def note(self, jobs: Mapping[str, str]) -> None:
        """Write down the ids of jobs, or the names that they are to have, by their search directories."""
        write_json(self._record, {**(read_json(self._record) or {}), **jobs})

    def earlier(self, searches: Sequence[str]) -> dict[str, SearchJob]:
        """Return the jobs that earlier launchers submitted and that have not ended in vain."""
        recorded = read_json(self._record) or {}
        ids = {name: self._id(recorded[name]) for name in searches if name in recorded}
        jobs = {name: SearchJob(self._queue, each, name) for name, each in ids.items() if each is not None}
        # Alive is asked first: a search may finish, and its job end, between the two looks.
        return {name: job for name, job in jobs.items() if job.alive or job.finished}

    def _id(self, recorded: Any) -> str | None:
        """Return the id of a recorded job: its own, or by the name under which it was to be submitted."""
        ticket = TICKET.fullmatch(recorded) if isinstance(recorded, str) else None
        if ticket is None or not ticket[1].startswith(f"{self._prefix}-"):
            return recorded if self._queue.may_be(recorded, self._prefix) else None
        found = _patiently(lambda: self._queue.find(ticket[1]))
        if found is None:
            time.sleep(SETTLING_S)
            found = _patiently(lambda: self._queue.find(ticket[1]))
        return f"{found.partition('_')[0]}_{ticket[2]}" if found else None

    def submitted(self, searches: Mapping[str, tuple[RunSearch, SearchConfig]]) -> dict[str, SearchJob]:
        """Submit an array of searches; return its jobs by search directory.

        Waits where SLURM refuses it for a reason that passes.
        """
        name = f"{self._prefix}-{uuid.uuid4().hex[:8]}"
        make_private(self._folder)
        for number, (run, config) in enumerate(searches.values()):
            call = DelayedSubmission(ResumableSearch(run), config)
            call.set_timeout(self._executor.parameters.get("time", 5), self._executor.max_num_timeout)
            call.dump(self._folder / f"{name}_{number}.pkl")
        tickets = {search: f"{name}_{number}" for number, search in enumerate(searches)}
        self.note(tickets)
        with outside_a_job():
            job_id = _patiently(
                lambda: self._queue.submitted(name, lambda: self._submit(name, len(tickets)), ended=True)
            )
        array = job_id.partition("_")[0]
        return {
            search: SearchJob(self._queue, f"{array}_{number}", search)
            for number, search in enumerate(searches)
        }

    def _submit(self, name: str, tasks: int) -> str:
        """Submit the array; its tasks take their calls from files that are named before there is an id."""
        folder = self._folder.resolve()
        own = f"{quote(str(folder))}/${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_submitted.pkl"
        take = f"[ -e {own} ] || cp {quote(str(folder / name))}_${{SLURM_ARRAY_TASK_ID}}.pkl {own}"
        parameters = {**self._executor.parameters, "job_name": name}
        parameters["setup"] = [*(parameters.get("setup") or []), take]
        return submit(folder, parameters, python_command("submitit.core._submit", str(folder)), tasks)


def _patiently(ask: Callable[[], T]) -> T:
    """Return what SLURM answers, asking again while it cannot, for whatever reason."""
    while True:
        try:
            return ask()
        except NotNowError as error:
            log.warning("SLURM: %s; trying again in %.0f s", visible_line(str(error)), RETRY_S)
            time.sleep(RETRY_S)


@contextmanager
def _refusals_explained(cluster: str, resources: Mapping[str, Any]) -> Iterator[None]:
    """Raise `UserError` for what submitit raises where there is no SLURM or it does not know a resource."""
    try:
        yield
    except (NameError, TypeError, AssertionError, RuntimeError, RefusedError) as error:
        reason = " ".join(str(error).splitlines()[:2])
        raise UserError(f"cluster={cluster} slurm={dict(resources)}: {reason}") from error
