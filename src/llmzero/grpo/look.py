"""Looks at what a search's stages will load, without weights: `python -m llmzero.grpo.look < stage.json`.

It prints one JSON object: what it found, or an `error`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.core.settings import read
from llmzero.core.stage import StageSpec
from llmzero.grpo import preflight
from llmzero.grpo.checkpoint import checkpoint_bytes
from llmzero.grpo.models import HfModel
from llmzero.grpo.policy import adapted_modules, check_targets, load_tokenizer, model_without_weights
from llmzero.grpo.settings import TrainerSettings
from llmzero.tasks.base import Task
from llmzero.tasks.splits import SPLIT_RANGES


def look(spec: StageSpec) -> dict[str, Any]:
    """Make what samples, load the task's splits, and of a Hugging Face model its configuration and
    tokenizer; check them.

    Returns:
        `splits`, examples by split; of a Hugging Face model `model`, `parameters`, `context` in tokens,
        `checkpoint_bytes` and `notes`.

    Raises:
        UserError: a stage could not use them.
    """
    settings = read(TrainerSettings, spec.config["trainer"], "trainer")
    task: Task = make(spec.config["task"], "task")
    found: dict[str, Any] = {"splits": {name: len(task.split(name)) for name in SPLIT_RANGES}}
    make(spec.config["rollout"], "rollout").close()
    source = make(spec.config["model"], "model")
    if not isinstance(source, HfModel):
        return found  # its first stage makes it
    model, tokenizer = (
        model_without_weights(source.settings.path, settings.dtype),
        load_tokenizer(source.settings.path),
    )
    notes = preflight.foreseen(model, tokenizer, task, list(SPLIT_RANGES), settings.longest(spec.hparams))
    if problem := preflight.generation_problem(model.generation_config):
        notes.append(problem)
    parameters = model.num_parameters()
    return {
        **found,
        "model": type(model).__name__,
        "parameters": parameters,
        "context": preflight.context_of(model.config),
        "checkpoint_bytes": checkpoint_bytes(parameters, _trained(model, settings), model.dtype.itemsize),
        "notes": notes,
    }


def _trained(model: Any, settings: TrainerSettings) -> int:
    """Return how many weights are trained: all, or those of a LoRA adapter."""
    lora = settings.lora
    if not lora.rank:
        return int(model.num_parameters())
    check_targets(model, lora)
    modules = map(model.get_submodule, adapted_modules(model, lora.targets))
    return sum(lora.rank * (module.in_features + module.out_features) for module in modules)


def main() -> None:
    """Look at the stage that standard input describes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        found = look(StageSpec.from_dict(json.load(sys.stdin), Path()))
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
