"""One stage as one process, or one of several: read `stage.json`, train, leave a result."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from llmzero.core.errors import UserError
from llmzero.core.files import no_room
from llmzero.core.kept import Kept
from llmzero.core.parts import make
from llmzero.core.processes import identity, interruptible
from llmzero.core.seeds import seed_of
from llmzero.core.settings import read
from llmzero.core.stage import DISK_FULL, StageDir, StageResult, StageSpec
from llmzero.grpo import checkpoint, preflight
from llmzero.grpo.ahead import prepare_stages, task_of
from llmzero.grpo.checkpoint import Position
from llmzero.grpo.distributed import World, join
from llmzero.grpo.failures import cause_of, file_without_room, is_disk_full
from llmzero.grpo.gpus import check_gpus, choice_problem
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.heartbeat import Heartbeat
from llmzero.grpo.loss import loss_of
from llmzero.grpo.phases import Phases
from llmzero.grpo.policy import ADAPTER, Policy, deepspeed_engine, load_model, load_tokenizer, with_adapter
from llmzero.grpo.settings import AlgorithmSettings, TrainerSettings
from llmzero.grpo.trainer import Interrupted, Setup, Trainer
from llmzero.rollout.base import Engine
from llmzero.rollout.kept import close, free, keep, made_for, settle, take

__all__ = ["prepare_stages", "run_stage"]  # the first is for the process that forks stages' processes
log = logging.getLogger(__name__)


def run_stage(
    directory: str | Path,
    *,
    started: float | None = None,
    interrupted: Callable[[], bool] | None = None,
    kept: Kept | None = None,
    trainer: type[Trainer] = Trainer,
) -> StageResult | None:
    """Run the stage that a directory describes and write its result; every process of the stage calls this.

    A stage that was interrupted goes on from its own last complete checkpoint. SIGTERM and SIGUSR2 make it
    write one after the step in hand and leave without a result: None. An exception ends it as `failed`, with
    its error and cause in the result and the traceback in its log.

    Args:
        directory: the stage directory, with its `stage.json`.
        started: when the stage's time began, on `time.time()`'s clock; None is the start of the process.
        interrupted: tells whether to leave, for a caller that goes on after the stage; None listens to the
            signals.
        kept: holds the engine of the stage before in this process, and receives this stage's where the
            stage succeeds; None keeps none.
        trainer: the class that trains, which may look at more than ours.
    """
    stage = StageDir(Path(directory))
    spec = stage.read_spec()
    settings = read(TrainerSettings, spec.config["trainer"], "trainer")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rank, size, _ = identity()
    heartbeat = Heartbeat(stage, size, rank == 0, started)
    heartbeat.beat(phase="starting", progress=0.0)
    phases = Phases()
    try:
        check_gpus(settings)
    except UserError as error:  # told by each process: without a GPU they cannot meet
        close(kept)
        return _ended(stage, heartbeat, _failure(stage, heartbeat, phases, spec, error), leads=rank == 0)
    world = join(settings.collective_timeout_s)
    try:
        listening = nullcontext(interrupted) if interrupted else interruptible()
        with (
            listening as asked_to_leave,
            prepared(spec, stage, world, heartbeat, phases, asked_to_leave, kept, trainer) as ready,
        ):
            result = ready.run()
        del ready  # and with it the policy
        if kept is not None:
            settle(kept)
    except Interrupted:
        close(kept)
        heartbeat.beat(phase="interrupted")
        return None
    except Exception as error:
        close(kept)
        if is_disk_full(error):
            leave_for_room(stage, world, heartbeat, error)
        traceback.print_exc()
        failure = _failure(stage, heartbeat, phases, spec, error)
        result = stage.result() or failure  # the process that failed first knows why; the others only miss it
        if not world.leads:
            stage.write_result(result)
            os._exit(1)  # the others wait for us in a collective call
    return _ended(stage, heartbeat, result, world.leads)


def _failure(
    stage: StageDir, heartbeat: Heartbeat, phases: Phases, spec: StageSpec, error: Exception
) -> StageResult:
    cause = cause_of(error, phases.current, spec.hparams)
    return stage.failure(f"{type(error).__name__}: {error}", heartbeat.seconds, heartbeat.gpu_seconds, cause)


def _ended(stage: StageDir, heartbeat: Heartbeat, result: StageResult, leads: bool) -> StageResult:
    """Leave a stage's result and its last sign of life."""
    if leads:
        stage.write_result(result)
        heartbeat.beat(result.state, phase="", error=result.error)
    return result


def leave_for_room(stage: StageDir, world: World, heartbeat: Heartbeat, error: Exception) -> NoReturn:
    """Leave without a result, as on an interruption: the stage goes on when there is room again.

    Raises:
        OSError: always; it names the file, or the stage's directory.
    """
    file = file_without_room(error) or str(stage.path)
    with suppress(OSError):  # what was written in vain is gone again, so this little fits as a rule
        heartbeat.beat(phase=DISK_FULL, file=file)
    if not world.leads:
        os._exit(1)  # the others wait for us in a collective call
    raise no_room(file) from error


@contextmanager
def prepared(
    spec: StageSpec,
    stage: StageDir,
    world: World,
    heartbeat: Heartbeat,
    phases: Phases,
    interrupted: Callable[[], bool],
    kept: Kept | None = None,
    trainer: type[Trainer] = Trainer,
) -> Iterator[Trainer]:
    """Give the stage's trainer, ready to go on from where the stage stands; keep its engine afterwards."""
    settings = read(TrainerSettings, spec.config["trainer"], "trainer")
    algorithm = read(AlgorithmSettings, spec.config["algorithm"], "algorithm")
    loss = loss_of(algorithm.loss)
    task = task_of(spec.config["task"])
    start, first_step = world.from_leader(
        _starting_point(spec, stage, task, heartbeat) if world.leads else (Path(), 0)
    )
    position = _position(spec, stage, start)
    if not first_step:  # not of this stage
        position = replace(position, stage_flops=0.0)
    policy = _policy(spec, settings, start, position)
    _look_ahead(spec, settings, stage, task, policy, world)
    engine_for = made_for(spec.config["rollout"], policy, world.size)
    before = take(kept, engine_for) if kept is not None else None
    sampler = _engine(spec, settings, task, policy, world, before)
    try:
        position = _restored(spec, start, first_step, policy, world, position)
        reference = _reference(spec, settings, position)
        setup = Setup(
            spec=spec,
            settings=settings,
            algorithm=algorithm,
            loss=loss,
            stage=stage,
            task=task,
            policy=policy,
            sampler=sampler,
            reference=reference,
            world=world,
            heartbeat=heartbeat,
            phases=phases,
            interrupted=interrupted,
        )
        yield trainer(setup, position, first_step)
        if kept is not None:
            keep(kept, sampler, engine_for)
    finally:
        if kept is None or kept.engine is None:
            sampler.close()
        policy.close()


def _starting_point(spec: StageSpec, stage: StageDir, task: Any, heartbeat: Heartbeat) -> tuple[Path, int]:
    """Return the weights to start from and the step of this stage they belong to; forget what was logged
    beyond.
    """
    own = stage.complete_checkpoints()
    first_step = int(own[-1].name.removeprefix("step_")) if own else 0
    stage.truncate_after(first_step if own else -1)
    stage.remove_unfinished()
    if own or spec.resume_from is not None:
        start = own[-1] if own else spec.resume_from or Path()
        if start.parent.name == "checkpoints":  # without its position it would pass for a base model
            checkpoint.position_of(start)
        return start, first_step
    model = make(spec.config["model"], "model")
    base = model.base_checkpoint(task, lambda phase, progress: heartbeat.beat(phase=phase, progress=progress))
    return Path(base), 0


def _position(spec: StageSpec, stage: StageDir, start: Path) -> Position:
    """Return where the weights stand on their path; weights without a position are a base model, and begin
    one.
    """
    if (start / "trainer.json").exists():
        return checkpoint.position_of(start)
    base = start if spec.trains else stage.checkpoint(0)  # the root keeps its own copy of the base model
    return Position(0, 0, 0, 0, spec.seed, str(base), 0, 0.0)


def _policy(spec: StageSpec, settings: TrainerSettings, start: Path, position: Position) -> Policy:
    """Load the weights and put a DeepSpeed engine around them; with LoRA around the base model and its
    adapter.
    """
    lora = settings.lora
    adapted = (start / ADAPTER).exists()
    if lora.rank and position.global_step and not adapted:
        raise UserError(
            f"trainer.lora.rank={lora.rank}: all weights of {start} were trained; "
            "an adapter goes with a base model or with its own checkpoints"
        )
    model: Any = load_model(position.base if adapted and lora.rank else start, settings.dtype)
    if lora.rank:
        torch.manual_seed(seed_of(position.data_seed))  # a new adapter begins at random
        model = with_adapter(model, lora, start)
    return Policy(deepspeed_engine(model, spec.hparams, settings), load_tokenizer(start), str(start))


def _splits(spec: StageSpec, settings: TrainerSettings) -> list[str]:
    """Return the splits whose prompts the stage samples from."""
    return ["train", settings.evaluation_split] if spec.trains else [settings.evaluation_split]


def _look_ahead(
    spec: StageSpec, settings: TrainerSettings, stage: StageDir, task: Any, policy: Policy, world: World
) -> None:
    """Refuse before the first step what would fail or go wrong at a later one."""
    model: Any = policy.model.get_base_model() if settings.lora.rank else policy.model
    longest = settings.longest(spec.hparams)
    problems = preflight.foreseen(model, policy.tokenizer, task, _splits(spec, settings), longest)
    if problem := choice_problem(settings):
        problems.append(problem)
    if spec.trains or spec.resume_from is None:
        if problem := preflight.generation_problem(model.generation_config):
            problems.append(problem)
            model.generation_config = preflight.special_tokens_of(model.generation_config)
        checkpoint.rehearse(stage.checkpoint(0), policy, world)
    for problem in dict.fromkeys(problems) if world.leads else ():
        log.warning("%s: %s", policy.directory, problem)


def _engine(
    spec: StageSpec, settings: TrainerSettings, task: Any, policy: Policy, world: World, before: Any | None
) -> Engine:
    """Return an engine that samples from the policy and holds all prompts: that of the stage `before`, or a
    new one where that holds less; it may hold more, as there is other room for it.
    """
    longest = settings.longest(spec.hparams)
    splits = [task.split(split) for split in _splits(spec, settings)]
    holds = before is not None and not any(
        preflight.prompts_beyond(policy.tokenizer, split, before.longest - longest) for split in splits
    )
    renewed = not world.any(not holds)  # engines of several processes are started together
    if before is not None and not renewed:
        before.close()
        before = None
        free()
    sampler: Engine = before or make(spec.config["rollout"], "rollout")
    try:
        if before is not None:
            before.renew(policy)
        else:
            sampler.start(policy)
            for split in splits:
                preflight.check_engine(policy.tokenizer, split, longest, getattr(sampler, "longest", None))
    except BaseException:
        sampler.close()
        raise
    return sampler


def _restored(
    spec: StageSpec, start: Path, first_step: int, policy: Policy, world: World, position: Position
) -> Position:
    """Restore the optimizer where the stage carries it on; a stage that begins with a fresh one says so in
    its position.
    """
    carries = first_step > 0 or spec.hparams["optimizer_state"] == "carry"
    if position.optimizer_steps and carries and checkpoint.holds_optimizer(start, policy):
        checkpoint.restore_optimizer(start, policy, world, position.optimizer_steps)
        return position
    if position.optimizer_steps and carries and world.leads:
        log.warning("%s holds no optimizer state of what is trained here: the optimizer starts afresh", start)
    return replace(position, optimizer_steps=0)


def _reference(spec: StageSpec, settings: TrainerSettings, position: Position) -> LogprobModel | None:
    """Load the reference policy: the base model or the parent's checkpoint. A coefficient of 0 needs none.

    With LoRA the base model is the policy without its adapter, so none is loaded either.
    """
    if spec.hparams["kl_coef"] == 0 or not spec.trains:
        return None
    parent = spec.hparams["reference"] == "parent" and spec.resume_from is not None
    if settings.lora.rank and not parent:
        return None
    model = load_model(spec.resume_from if parent and spec.resume_from else position.base, settings.dtype)
    return LogprobModel(model.eval().requires_grad_(False))
