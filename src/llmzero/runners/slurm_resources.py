"""What a stage asks SLURM for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from llmzero.core.documents import is_number
from llmzero.core.errors import UserError
from llmzero.core.hparams import HParams, suggestion
from llmzero.core.settings import setting

SCALED = ("timeout_min", "mem_gb")  # what may grow with hyperparameters
EARLY_SIGNAL_S = 60  # SLURM may send a signal so much earlier than asked for


@dataclass
class JobResources:
    """What a stage asks SLURM for; None leaves it to the cluster."""

    nodes: int = setting(1, "nodes of a stage", low=1)
    gpus_per_node: int = setting(0, "GPUs on each node", low=0)
    tasks_per_node: int | None = setting(None, "processes on each node; null is one a GPU, or one", low=1)
    cpus_per_task: int = setting(4, "cores of a process", low=1)
    mem_gb: float | None = setting(None, "main memory of a node, in GB", low=0)
    timeout_min: int = setting(240, "minutes of one job; a stage that takes longer spans several", low=1)
    signal_delay_s: int = setting(
        120, "seconds before that limit in which the stage writes a checkpoint", low=1
    )
    partition: str | None = setting(None, "partition of the cluster")
    account: str | None = setting(None, "account that is charged")
    qos: str | None = setting(None, "quality of service")
    constraint: str | None = setting(None, "features that nodes must have")
    scale: dict[str, dict[str, Any]] = setting(
        {},
        "which of timeout_min and mem_gb grow with which hyperparameters, and the values that they are for: "
        "{timeout_min: {max_completion_length: 1024}} asks for twice the minutes at 2048; nothing shrinks",
    )
    setup: list[str] = setting([], "lines of shell that a job runs first, e.g. [module load cuda/13.0]")
    extra: dict[str, Any] = setting({}, "further flags of sbatch, e.g. {nice: 100, exclude: node7}")

    def __post_init__(self) -> None:
        for resource, references in self.scale.items():
            if resource not in SCALED:
                raise UserError(f"runner.scale.{resource}: must be one of {', '.join(SCALED)}")
            for name, reference in references.items():
                if not is_number(reference) or not 0 < reference < math.inf:
                    raise UserError(f"runner.scale.{resource}.{name}={reference}: must be a number above 0")
        if self.timeout_min * 60 <= self.signal_delay_s + EARLY_SIGNAL_S:
            raise UserError(
                f"runner.timeout_min={self.timeout_min}: leaves no time to train; "
                f"SLURM may signal {EARLY_SIGNAL_S} s before "
                f"runner.signal_delay_s={self.signal_delay_s}"
            )

    def check_scale(self, hparams: Iterable[str]) -> None:
        """Raise `UserError` where `scale` names a hyperparameter that is not among these."""
        names = list(hparams)
        for resource, references in self.scale.items():
            for name in references:
                if name not in names:
                    raise UserError(
                        f"runner.scale.{resource}.{name}: no such hyperparameter{suggestion(name, names)}"
                    )

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def devices(self) -> int:
        """Devices of a stage; a CPU process counts as one."""
        return self.nodes * self.tasks

    def parameters(self, hparams: HParams, name: str, code: Path | None) -> dict[str, Any]:
        """Return a stage's parameters for submitit's executor.

        Args:
            hparams: the stage's.
            name: of the job.
            code: where the job finds this package; None is where it is installed.
        """
        asked = {
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "gpus_per_node": self.gpus_per_node or None,
            "cpus_per_task": self.cpus_per_task,
            "mem": f"{self._scaled('mem_gb', self.mem_gb, hparams):.0f}GB" if self.mem_gb else None,
            "time": round(self._scaled("timeout_min", self.timeout_min, hparams)),
            "signal_delay_s": self.signal_delay_s,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "job_name": name,
            "setup": [
                *self.setup,
                *([f"export PYTHONPATH={quote(str(code))}:$PYTHONPATH"] if code else []),
            ],
            # srun does not take cpus over from sbatch; block puts neighbouring ranks, which share a vLLM
            # engine, on one node
            "srun_args": [f"--cpus-per-task={self.cpus_per_task}", "--distribution=block"],
            "additional_parameters": {"requeue": True, **self.extra},
        }
        return {key: value for key, value in asked.items() if value is not None}

    def _scaled(self, resource: str, value: float, hparams: HParams) -> float:
        for name, reference in self.scale.get(resource, {}).items():
            value *= max(1.0, hparams[name] / reference)
        return value
