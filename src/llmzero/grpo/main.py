"""One stage as one process: read `stage.yaml`, train, leave a result."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from llmzero.grpo import checkpoint
from llmzero.grpo.checkpoint import Position
from llmzero.grpo.heartbeat import Heartbeat
from llmzero.grpo.policy import deepspeed_engine, end_tokens, load_model, load_tokenizer
from llmzero.grpo.trainer import Trainer
from llmzero.stage import StageDir, StageResult, StageSpec

log = logging.getLogger(__name__)


def run_stage(directory: str | Path) -> StageResult:
    """Run the stage that a directory describes and write its result.

    A stage that was interrupted goes on from its own last complete checkpoint. An exception ends it as `failed`, with the
    error in its result and the traceback in its log.
    """
    stage = StageDir(Path(directory))
    heartbeat = Heartbeat(stage)
    heartbeat.beat(phase="starting", progress=0.0)
    try:
        result = _train(stage.read_spec(), stage, heartbeat)
    except Exception as error:
        traceback.print_exc()
        result = stage.failure(f"{type(error).__name__}: {error}", heartbeat.seconds, heartbeat.gpu_seconds)
    stage.write_result(result)
    heartbeat.beat(result.state, phase="", error=result.error)
    return result


def _train(spec: StageSpec, stage: StageDir, heartbeat: Heartbeat) -> StageResult:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    settings = spec.config["trainer"]
    torch.manual_seed(spec.seed)
    task = instantiate(spec.config["task"])
    start, first_step = _starting_point(spec, stage, task, heartbeat)
    stage.truncate_after(first_step)
    model = load_model(start, settings["dtype"])
    tokenizer = load_tokenizer(start)
    sampler = instantiate(spec.config["rollout"])
    sampler.start(model, end_tokens(model, tokenizer), tokenizer.pad_token_id, spec.seed)
    engine = deepspeed_engine(model, spec.hparams, settings)
    reference = start if spec.steps else stage.checkpoints / "step_00000"  # the root keeps its own copy of the base model
    position = Position(0, 0, 0, spec.seed, str(reference), 0)
    if (start / "trainer.json").exists():
        position = checkpoint.position_of(start)
        checkpoint.restore(start, engine, sampler)
    return Trainer(
        spec=spec,
        stage=stage,
        task=task,
        engine=engine,
        tokenizer=tokenizer,
        sampler=sampler,
        position=position,
        first_step=first_step,
        heartbeat=heartbeat,
    ).run()


def _starting_point(spec: StageSpec, stage: StageDir, task: Any, heartbeat: Heartbeat) -> tuple[Path, int]:
    """Return the weights to start from and the step of this stage they belong to."""
    own = stage.complete_checkpoints()
    if own:
        return own[-1], int(own[-1].name.removeprefix("step_"))
    if spec.resume_from is not None:
        return spec.resume_from, 0
    model = instantiate(spec.config["model"])
    base = model.base_checkpoint(task, spec.config["task"], lambda phase, progress: heartbeat.beat(phase=phase, progress=progress))
    return Path(base), 0
