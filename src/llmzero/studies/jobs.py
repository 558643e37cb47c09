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
from llmzero.runners.slurm_queue import JobState
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
            config.search_dir: submitit.SlurmJob(folder, recorded[config.search_dir])
            for config in configs
            if config.search_dir in recorded
        }
        jobs.update({name: job for name, job in earlier.items() if JobState(job.state).alive})
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
