"""Two processes hold a trainer each, ours and TRL's, and take steps by turns: what benchmarks/trainer_cpu.py and trainer_gpu.py share.

Both work on the same model, prompts, group size, completion length and rewards, with the same learning rate and no reference model.
"""

from __future__ import annotations

import json
import os
import pkgutil
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llmzero.grpo.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[1]
SIDES = ("ours", "theirs")
ON_CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "float32"},
}
KIB, MIB = 2**10, 2**20
LOOKS_S = 0.02  # between two looks at a GPU's memory
LOG_TAIL = 4000  # characters of a worker's log that an error shows

Answer = dict[str, Any]
Ask = Callable[[str], Answer]


@dataclass(frozen=True)
class Setting:
    """What both sides do. `rounds` steps are timed after one that is not.

    Attributes:
        model: `nano`, `smollm2`, or `qwen3_0_6b` and `qwen3_small` with weights at random.
        overrides: Hydra's, of our stage.
        trl: keyword arguments of TRL's GRPOConfig.
        task: a class that is made with `difficulty`.
        updates: optimizer steps on each batch of completions.
    """

    model: str
    difficulty: Literal["nano", "full"]
    prompts: int
    group_size: int
    max_tokens: int
    learning_rate: float
    rounds: int
    overrides: Sequence[str] = ("model=hf",)
    trl: Mapping[str, Any] = field(default_factory=lambda: ON_CPU)
    task: str = "llmzero.tasks.countdown.Countdown"
    updates: int = 1


# --- the process that measures ---


def compare_steps(setting: Setting) -> tuple[dict[str, list[Answer]], dict[str, float]]:
    """Take steps by turns in two processes; return what each side answered to the timed ones, and its peak memory in MiB."""
    model_directory(setting.model)  # made before two processes want it at once
    turns: list[tuple[str, Answer]] = []
    with worker("benchmarks.side_by_side:ours", setting) as ours:
        turns.append(("ours", ours("")))
        with worker("benchmarks.side_by_side:theirs", setting) as theirs:
            turns.append(("theirs", theirs("")))
            for turn in range(setting.rounds + 1):
                for side, ask in zip(SIDES, (ours, theirs), strict=True):
                    turns.append((side, ask("step")))
                    print(
                        f"{setting.model} step {turn} {side}: {turns[-1][1]['seconds']:.2f} s",
                        file=sys.stderr,
                    )
    timed = turns[2 * len(SIDES) :]  # without getting ready, and without the first step
    return {side: [answer for name, answer in timed if name == side] for side in SIDES}, own_memory(turns)


def own_memory(turns: Iterable[tuple[str, Answer]]) -> dict[str, float]:
    """Return the most that each process has held, of what its machine or GPU has held over all turns.

    Memory changes hands in its owner's turn alone, so what a turn adds to a GPU belongs to that side.
    """
    held = 0.0
    own: dict[str, float] = defaultdict(float)
    peak: dict[str, float] = defaultdict(float)
    for side, answer in turns:
        peak[side] = max(peak[side], own[side] + answer["peak_mib"] - held)
        own[side] += answer["held_mib"] - held
        held = answer["held_mib"]
    return dict(peak)


def seconds(answers: Mapping[str, Sequence[Answer]]) -> dict[str, list[float]]:
    """Return the seconds of each side's steps."""
    return {side: [answer["seconds"] for answer in found] for side, found in answers.items()}


def ratio(seconds: Mapping[str, Sequence[float]]) -> float:
    """Return their median by ours."""
    return round(statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"]), 2)


@contextmanager
def worker(function: str, setting: Setting) -> Iterator[Ask]:
    """Run MODULE:FUNCTION in a process of its own; give a call that sends it a request, unless that is empty, and returns its next answer."""
    with tempfile.TemporaryFile("w+") as log:
        command = [
            sys.executable,
            "-c",
            "from benchmarks.side_by_side import work; work()",
            function,
            json.dumps(asdict(setting)),
        ]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=REPOSITORY, start_new_session=True
        )
        try:
            yield partial(_ask, process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ask(process: subprocess.Popen[str], log: IO[str], request: str) -> Answer:
    assert process.stdin is not None
    assert process.stdout is not None
    if request:
        process.stdin.write(request + "\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            found: Answer = json.loads(line.removeprefix("answer "))
            return found
    log.seek(0)
    raise RuntimeError(f"a worker ended, and this is the end of its log:\n{log.read()[-LOG_TAIL:]}")


# --- the processes that work ---


def work() -> None:
    """Run the function that the command line names, with the setting that it gives."""
    pkgutil.resolve_name(sys.argv[1])(Setting(**json.loads(sys.argv[2])))


def answer(found: Answer) -> None:
    """Send an answer to the process that measures."""
    print(f"\nanswer {json.dumps(found)}", flush=True)


def serve(step: Callable[[], Any], details: Callable[[Any], Answer], shares_gpu: bool) -> None:
    """Say that we are ready; take a step at every request, and answer with its seconds, memory and details, until there are no more."""
    meter = Meter(shares_gpu)
    answer(meter.stop())
    for _ in sys.stdin:
        meter.start()
        found = step()
        answer(meter.stop() | details(found))


class Meter:
    """Seconds and memory of a turn; the first turn begins when the meter is made.

    On a GPU memory is what the device holds of all processes, contexts included: at most, and at the end. On a CPU it is the most
    that this process has ever held, and 0. One that shares its GPU gives what torch only keeps for later back at the end of a turn.
    """

    def __init__(self, shares_gpu: bool) -> None:
        import torch

        self._cuda = torch.cuda if torch.cuda.is_available() else None
        self._shares_gpu = shares_gpu
        self.start()

    def start(self) -> None:
        """Begin a turn."""
        self._over, self._peak = threading.Event(), 0.0
        self._watching = threading.Thread(target=self._watch, daemon=True)
        if self._cuda:
            self._watching.start()
        self._started = time.perf_counter()

    def stop(self) -> Answer:
        """End a turn and return its measurements."""
        if self._cuda:
            self._cuda.synchronize()
        spent = time.perf_counter() - self._started
        if not self._cuda:
            return {
                "seconds": spent,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB,
                "held_mib": 0.0,
            }
        self._over.set()
        self._watching.join()
        if self._shares_gpu:
            self._cuda.empty_cache()
        return {"seconds": spent, "peak_mib": self._peak, "held_mib": self._used()}

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._over.wait(LOOKS_S)
            self._peak = max(self._peak, self._used())

    def _used(self) -> float:
        assert self._cuda
        free, total = self._cuda.mem_get_info()
        return float(total - free) / MIB


def model_directory(name: str) -> Path:
    """Return the directory of a setting's model, making it where the cache has none."""
    if name == "smollm2":
        from benchmarks.smollm2 import smollm2_directory

        return smollm2_directory()
    if name == "nano":
        return _nano_directory()
    from benchmarks.random_qwen3 import random_qwen3_directory

    return random_qwen3_directory(small=name == "qwen3_small")


def _nano_directory() -> Path:
    from llmzero.cli import composed
    from llmzero.config import TrainConfig
    from llmzero.core.parts import make

    config = composed("train", TrainConfig)
    model, task = make(config.model, "model"), make(config.task, "task")
    return Path(model.base_checkpoint(task, lambda phase, progress: None))


def task_of(setting: Setting) -> Any:
    """Return the task."""
    from llmzero.core.parts import make

    return make({"_target_": setting.task, "difficulty": setting.difficulty}, "task")


# --- ours ---


def ours(setting: Setting) -> None:
    """Take GRPO steps with our trainer."""
    with our_trainer(setting) as trainer:
        serve(trainer.train_step, partial(_details, trainer), shares_gpu=True)


@contextmanager
def our_trainer(setting: Setting) -> Iterator[Trainer]:
    """Give our trainer, ready for its first step."""
    from llmzero.core.stage import StageDir, StageSpec
    from llmzero.grpo.distributed import join
    from llmzero.grpo.heartbeat import Heartbeat
    from llmzero.grpo.main import prepared
    from llmzero.grpo.phases import Phases

    task = [
        f"task._target_={setting.task}",
        f"task.difficulty={setting.difficulty}",
        "trainer.validation_every=1000000",
    ]
    from llmzero.cli import composed
    from llmzero.config import TrainConfig

    config = composed(
        "train", TrainConfig, [*setting.overrides, f"model.path={model_directory(setting.model)}", *task]
    )
    values = config.catalogue.defaults() | _values(setting)
    with tempfile.TemporaryDirectory() as folder:
        spec = StageSpec("bench", None, 1, Path(folder), None, values, 10**6, 0, config.stage_groups)
        stage = StageDir(Path(folder))
        stage.write_spec(spec)
        with prepared(spec, stage, join(600.0), Heartbeat(stage), Phases(), lambda: False) as trainer:
            yield trainer


def _values(setting: Setting) -> dict[str, Any]:
    return {
        "prompts_per_step": setting.prompts,
        "group_size": setting.group_size,
        "max_completion_length": setting.max_tokens,
        "learning_rate": setting.learning_rate,
        "kl_coef": 0.0,
        "epochs": 1,
        "minibatches": setting.updates,
        "temperature": 1.0,
        "warmup_steps": 0,
    }


def _details(trainer: Trainer, metrics: dict[str, float]) -> Answer:
    """Return a step's metrics, the seconds of its phases, and its tokens."""
    from llmzero.grpo.policy import encode_prompts

    prompts, group = trainer.hparams["prompts_per_step"], trainer.hparams["group_size"]
    examples = trainer.collector.data.take(trainer.position.prompts_seen - prompts, prompts)
    prompt_tokens = group * sum(map(len, encode_prompts(trainer.policy.tokenizer, examples)))
    completion_tokens = round(metrics["completion_length_mean"] * prompts * group)
    return {
        **metrics,
        **trainer.phases.take(),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
    }


# --- theirs ---


def theirs(setting: Setting) -> None:
    """Take GRPO steps with TRL's trainer."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from llmzero.grpo.policy import encode_prompts, load_tokenizer

    directory = model_directory(setting.model)
    task, tokenizer = task_of(setting), load_tokenizer(directory)
    examples = task.split("train")[: setting.prompts * (setting.rounds + 2)]
    prompts = [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, examples)]
    by_prompt = dict(zip(prompts, examples, strict=True))

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [
            task.reward(by_prompt[prompt], text).value
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    with tempfile.TemporaryDirectory() as folder:
        settings, data = (
            GRPOConfig(output_dir=folder, **trl_arguments(setting)),
            Dataset.from_dict({"prompt": prompts}),
        )
        turns = [_turns(setting.updates)]
        trainer = GRPOTrainer(
            str(directory),
            reward,
            args=settings,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=turns,
        )
        trainer.train()


def trl_arguments(setting: Setting) -> dict[str, Any]:
    """Return keyword arguments of TRL's GRPOConfig that make its step the same as ours."""
    return {
        "per_device_train_batch_size": setting.prompts * setting.group_size // setting.updates,
        "steps_per_generation": setting.updates * setting.trl.get("gradient_accumulation_steps", 1),
        "num_generations": setting.group_size,
        "max_completion_length": setting.max_tokens,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "loss_type": "grpo",
        "temperature": 1.0,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "max_steps": setting.updates * (setting.rounds + 2),
        **setting.trl,
    }


def _turns(updates: int) -> Any:
    """Return a callback that makes TRL's trainer wait for a request before every batch and answer after its updates, as `serve` does."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.meter = Meter(shares_gpu=True)
            answer(self.meter.stop())

        def on_step_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % updates == 0:
                sys.stdin.readline()
                self.meter.start()

        def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % updates == 0:
                answer(self.meter.stop())

    return Turns()
