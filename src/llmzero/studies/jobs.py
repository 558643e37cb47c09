"""Searches as a job array of a cluster, which outlives its launcher; the next launcher waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import Checkpointable

from llmzero.core.errors import UserError
from llmzero.core.files import read_json, write_json
from llmzero.runners.slurm import outside_a_job
from llmzero.runners.slurm_queue import JOB_ID, JobState
from llmzero.search.settings import SearchConfig

RunSearch = Callable[[SearchConfig], str | None]  # of a module's top level, as a job imports it
Submit = Callable[[Sequence[SearchConfig]], list[Any]]


class ResumableSearch(Checkpointable):
    """What a job runs. At its time limit submitit requeues the job, and the search goes on."""

    def __init__(self, run: RunSearch) -> None:
        self.run = run

    def __call__(self, config: SearchConfig) -> str | None:
        """Run the search, or go on with it."""
        return self.run(config)


class EarlierJob:
    """A search's job that an earlier launcher submitted, as far as the search's own files tell of it.

    Submitit's file of a result is a pickle, and that in a directory from anywhere could be anybody's.
    """

    def __init__(self, folder: Path, job_id: str, search_dir: str) -> None:
        self.job_id, self._search_dir = job_id, Path(search_dir)
        self._job = submitit.SlurmJob(folder, job_id)
        self.cancel = self._job.cancel

    @property
    def alive(self) -> bool:
        """Whether it may still run, or run again."""
        return JobState(self._job.state).alive

    @property
    def _finished(self) -> bool:
        return (read_json(self._search_dir / "summary.json") or {}).get("state") == "finished"

    def done(self) -> bool:
        """Return whether it has ended, or its search has."""
        return self._finished or not self.alive

    def result(self) -> str | None:
        """Return what went wrong in it."""
        if self._finished:
            return None
        return f"job {self.job_id} ended before the search did (see {self._search_dir / 'log.txt'})"


@contextmanager
def job_array(
    run: RunSearch, directory: Path, cluster: str, at_once: int, resources: Mapping[str, Any]
) -> Iterator[Submit]:
    """Yield a function that submits searches as one job array; an interruption cancels its jobs.

    `jobs.json` in the directory names the jobs, as they go on where the launcher is killed: those that have
    not ended are not submitted again.

    Args:
        run: called in the job with the search's configuration.
        directory: of the study; submitit's files go to `jobs/`.
        cluster: as submitit names it.
        at_once: jobs that may run at a time.
        resources: of a job, as in conf/search_job.yaml; other keys are those of submitit's `AutoExecutor`.

    Raises:
        UserError: submitit does not know a resource, SLURM refuses it, or there is no SLURM.
    """
    folder, record = directory / "jobs", directory / "jobs.json"
    parameters = {"slurm_array_parallelism": at_once, **resources}
    requeues = parameters.pop("max_num_timeout", None)
    with _refusals_explained(cluster, resources):
        limit = {} if requeues is None else {"slurm_max_num_timeout": requeues}
        executor = submitit.AutoExecutor(folder, cluster=cluster, **limit)
        executor.update_parameters(**parameters)
    jobs: dict[str, Any] = {}

    def submit(configs: Sequence[SearchConfig]) -> list[Any]:
        recorded = read_json(record) or {}
        earlier = {
            config.search_dir: EarlierJob(folder, job_id, config.search_dir)
            for config in configs
            if isinstance(job_id := recorded.get(config.search_dir), str) and JOB_ID.fullmatch(job_id)
        }
        jobs.update({name: job for name, job in earlier.items() if job.alive})
        new = [config for config in configs if config.search_dir not in jobs]
        if new:
            with _refusals_explained(cluster, resources), outside_a_job():
                submitted = executor.map_array(ResumableSearch(run), new)
            jobs.update(zip([config.search_dir for config in new], submitted, strict=True))
        write_json(record, {name: job.job_id for name, job in jobs.items()})
        return [jobs[config.search_dir] for config in configs]

    try:
        yield submit
    except BaseException:
        for job in jobs.values():
            job.cancel()
        raise


@contextmanager
def _refusals_explained(cluster: str, resources: Mapping[str, Any]) -> Iterator[None]:
    """Raise `UserError` for what submitit raises where there is no SLURM or it does not know a resource."""
    try:
        yield
    except (NameError, TypeError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).splitlines()[:2])
        raise UserError(f"cluster={cluster} slurm={dict(resources)}: {reason}") from error
