"""What stages have in common is done once, in the process from which they are forked.

Nothing here starts a thread or computes with tensors: what threads hold at a fork is held for ever in the
forked process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from llmzero.core.parts import make
from llmzero.core.stage import StageDir
from llmzero.grpo import checkpoint
from llmzero.tasks.base import Task
from llmzero.tasks.generated import Generated

# What libraries import when it is first needed, which is in every stage.
LATE = (
    "deepspeed.comm.mori",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.triton_ops",
    "encodings.unicode_escape",
    "llmzero.rollout.torch_engine",
    "torch.profiler._cupti_monitor",
)
TASKS = 4  # whose problems are kept

for name in LATE:
    with suppress(ImportError):  # of another version
        import_module(name)
_tasks: dict[str, Task] = {}


def prepare_stages(directory: str | Path) -> None:
    """Do once what every stage like that of a directory would do anew: import its model's module, draw its
    problems, ask for the commit of the code.

    What cannot be done here fails in the stage itself, which says so.
    """
    checkpoint.commit()
    with suppress(Exception):
        spec = StageDir(Path(directory)).read_spec()
        if spec.resume_from is not None:
            model = AutoConfig.from_pretrained(str(spec.resume_from), trust_remote_code=False)
            MODEL_FOR_CAUSAL_LM_MAPPING[type(model)]  # imports the model's module
        config = spec.config["task"]
        # A template of the user's is rendered by another process.
        if _is_ours(config) and not config.get("template"):
            task = task_of(config)
            if isinstance(task, Generated):
                task.split("train")
                task.split(spec.config["trainer"]["evaluation_split"])


def task_of(config: Mapping[str, Any]) -> Task:
    """Return the task of a configuration: where its problems are generated, the one whose problems this
    process, or the one that it was forked from, has drawn before.
    """
    key = json.dumps(config, sort_keys=True)
    task: Task = _tasks[key] if key in _tasks else make(config, "task")
    if isinstance(task, Generated) and _is_ours(config):
        if len(_tasks) >= TASKS:
            _tasks.pop(next(iter(_tasks)))
        _tasks[key] = task
    return task


def _is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a task is one of ours. A stranger's may start threads, and remember what a stage did to it."""
    return str(config["_target_"]).startswith("llmzero.")
