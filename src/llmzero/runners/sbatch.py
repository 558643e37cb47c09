"""One submission to SLURM, and what came of it: a job, a refusal for good, or nothing that is certain."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import join
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.files import write_atomic

TIMEOUT_S = 60.0  # of a call
SHELL_KILLED = 128  # what shells report of a killed command lies above
QUEUED = re.compile(r"Submitted batch job ([0-9]+)")
# What sbatch says where waiting helps: a controller that is busy or down, and limits on the number of jobs.
PASSING = (
    *("timed out", "temporarily", "try again", "submitjob", "zero bytes", "i/o error writing"),
    *("unable to contact", "connection refused", "connection reset", "connect failure", "broken pipe"),
    *("communication connection", "transport endpoint", "interrupted system call", "standby mode"),
    *("unexpected message", "header lengths are longer", "insane message length", "message send failure"),
    *("message receive failure", "no route to host", "network is unreachable", "connect to database"),
    *("presently disabled", "cannot allocate memory"),
)


class RefusedError(Exception):
    """SLURM does not take the job, and never will as it stands."""


class NotNowError(Exception):
    """There is no job id, for a reason that passes. The job may be in the queue all the same."""


def submit(folder: Path, parameters: Mapping[str, Any], command: str, tasks: int | None = None) -> str:
    """Submit a job, or an array of them; return its id.

    Args:
        folder: for its script, `<job name>.sh`, and its output.
        parameters: in submitit's words, `job_name` among them.
        command: of the shell, run by srun.
        tasks: of the array; None is a job that is none.

    Raises:
        UserError: there is no SLURM here.
        RefusedError: see there.
        NotNowError: see there.
    """
    import submitit  # slow to import, and every launcher imports this module for its settings

    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:  # no srun
        raise UserError("there is no SLURM on this machine: no srun on the PATH") from error
    executor.update_parameters(**parameters)
    executor.parameters["map_count"] = tasks
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{parameters['job_name']}.sh"
    script.unlink(missing_ok=True)
    write_atomic(script, executor._make_submission_file_text(command, ""))
    return sbatch(script)


def sbatch(script: Path) -> str:
    """Hand a batch script to SLURM; return the job's id. Raises as `submit` does."""
    try:
        done = subprocess.run(
            ["sbatch", str(script)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError("there is no SLURM on this machine: no sbatch on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise NotNowError(f"no answer in {TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise NotNowError(str(error)) from error
    if done.returncode == 0 and (queued := QUEUED.search(done.stdout)):
        return queued[1]
    words = " ".join(f"{done.stderr} {done.stdout}".split())
    killed = done.returncode < 0 or done.returncode > SHELL_KILLED
    if not words or killed or not done.returncode or any(each in words.lower() for each in PASSING):
        raise NotNowError(words or f"ended with {done.returncode} and without a word")
    raise RefusedError(words)


def python_command(module: str, *arguments: str) -> str:
    """Return the shell's command that runs a module with the Python that runs this."""
    return join([sys.executable, "-u", "-m", module, *arguments])
