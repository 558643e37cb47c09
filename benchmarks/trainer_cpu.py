#!/usr/bin/env python
"""Our GRPO step and sampler on a CPU, side by side with TRL's GRPOTrainer and transformers' generate.

Two processes hold a trainer each and take steps by turns, on the same model, prompts, group size, completion length and rewards,
with the same learning rate and no reference model. The same is done with the two samplers inside one process. Ratios are theirs
by ours, of medians: above 1 we are faster; peak memory is ours by theirs.

Usage: python benchmarks/trainer_cpu.py   (a quarter of an hour; writes benchmarks/results/trainer_cpu.json)
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/trainer_cpu.json"
MIB = 1024  # kilobytes of `ru_maxrss` in one


@dataclass(frozen=True)
class Setting:
    """What both sides do. `rounds` steps are timed after one that is not."""

    model: str
    difficulty: Literal["nano", "full"]
    prompts: int
    group_size: int
    max_tokens: int
    learning_rate: float
    rounds: int


SETTINGS = {
    "nano": Setting("nano", "nano", 32, 8, 32, 1e-4, 8),
    "smollm2": Setting("smollm2", "full", 4, 8, 32, 1e-6, 3),
}


def main() -> None:
    """Measure everything and write it down."""
    found: dict[str, Any] = {"machine": {"cores": os.cpu_count(), "python": platform.python_version()}, "settings": {}, "ratios": {}}
    for name, setting in SETTINGS.items():
        steps, memory = compare_steps(name)
        sampling = json.loads(subprocess.run(worker("sampling", name), cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout)
        found["settings"][name] = {**asdict(setting), "step_seconds": steps, "peak_memory_mib": memory, "sampling_seconds": sampling}
        found["ratios"] |= {f"{name}_step": ratio(steps), f"{name}_sampling": ratio(sampling[str(setting.max_tokens)])}
        found["ratios"][f"{name}_peak_memory"] = round(memory["ours"] / memory["theirs"], 2)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def ratio(seconds: dict[str, list[float]]) -> float:
    """Return their median by ours."""
    return round(statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"]), 2)


def worker(kind: str, name: str) -> list[str]:
    """Return the command that runs one of the workers below."""
    return [sys.executable, __file__, kind, name]


def compare_steps(name: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Take steps by turns in two processes; return seconds a step and peak memory (MiB) of each."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "cwd": REPOSITORY}
    processes = {side: subprocess.Popen(worker(side, name), **pipes) for side in ("ours", "theirs")}
    seconds: dict[str, list[float]] = {side: [] for side in processes}
    for turn in range(SETTINGS[name].rounds + 1):
        for side, process in processes.items():
            answer = ask(process, "step")
            print(f"{name} step {turn} {side}: {answer:.2f} s", file=sys.stderr)
            seconds[side] += [answer] if turn else []
    memory = {side: ask(process, "memory") for side, process in processes.items()}
    for process in processes.values():
        process.kill()
    return seconds, memory


def ask(process: subprocess.Popen[str], request: str) -> float:
    """Send a request to a worker and return the number it answers with."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            return float(line.removeprefix("answer "))
    raise RuntimeError(f"a worker ended: run `{Path(__file__).name} ours nano` by hand to see why, and answer it with 'step'")


def serve(step: Callable[[], object]) -> None:
    """Answer requests from standard input until it is closed."""
    for line in sys.stdin:
        started = time.perf_counter()
        if line.strip() == "step":
            step()
            answer = time.perf_counter() - started
        else:
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
        print(f"answer {answer}", flush=True)


# --- what both sides work on ---


def model_directory(name: str) -> Path:
    """Return the model's directory: SmolLM2, or the warm-started nano model."""
    if name == "smollm2":
        from benchmarks.smollm2 import smollm2_directory

        return smollm2_directory()
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from llmzero.cli import resolved
    from llmzero.config import register

    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = resolved(compose("train"))
    model, task = instantiate(config["model"]), instantiate(config["task"])
    return Path(model.base_checkpoint(task, config["task"], lambda phase, progress: None))


def countdown(setting: Setting) -> Any:
    """Return the task."""
    from llmzero.tasks.countdown import Countdown

    return Countdown(difficulty=setting.difficulty)


# --- workers ---


def ours(name: str) -> None:
    """Take GRPO steps with our trainer."""
    from hydra import compose, initialize_config_dir

    from llmzero.cli import resolved
    from llmzero.config import catalogue_of, register, stage_config
    from llmzero.grpo.distributed import join
    from llmzero.grpo.heartbeat import Heartbeat
    from llmzero.grpo.main import prepared
    from llmzero.grpo.phases import Phases
    from llmzero.stage import StageDir, StageSpec

    setting, directory = SETTINGS[name], model_directory(name)
    register()
    task = [f"task.difficulty={setting.difficulty}", "trainer.validation_every=1000000"]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = resolved(compose("train", ["model=hf", f"model.path={directory}", *task]))
    values = catalogue_of(config).defaults() | {
        "prompts_per_step": setting.prompts,
        "group_size": setting.group_size,
        "max_completion_length": setting.max_tokens,
        "learning_rate": setting.learning_rate,
        "kl_coef": 0.0,
        "epochs": 1,
        "minibatches": 1,
        "temperature": 1.0,
        "warmup_steps": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        spec = StageSpec("bench", None, 1, Path(folder), None, values, 10**6, 0, stage_config(config))
        stage = StageDir(Path(folder))
        stage.write_spec(spec)
        with prepared(spec, stage, join(600.0), Heartbeat(stage), Phases(), lambda: False) as trainer:
            serve(trainer.train_step)


def theirs(name: str) -> None:
    """Take GRPO steps with TRL's trainer, which asks for a step before each of its own."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from llmzero.grpo.policy import encode_prompts, load_tokenizer

    setting, directory = SETTINGS[name], model_directory(name)
    task, tokenizer = countdown(setting), load_tokenizer(directory)
    examples = task.split("train")[: setting.prompts * (setting.rounds + 2)]
    prompts = [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, examples)]
    by_prompt = dict(zip(prompts, examples, strict=True))

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [task.reward(by_prompt[prompt], text).value for prompt, text in zip(prompts, completions, strict=True)]

    class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Waits for a request before every step and answers after it."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            for line in sys.stdin:
                if line.strip() == "step":
                    break
                print(f"answer {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB}", flush=True)
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            print(f"answer {time.perf_counter() - self.started}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=setting.prompts * setting.group_size,
            num_generations=setting.group_size,
            max_completion_length=setting.max_tokens,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            temperature=1.0,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            max_steps=setting.rounds + 2,
            model_init_kwargs={"dtype": "float32"},
        )
        data = Dataset.from_dict({"prompt": prompts})
        trainer = GRPOTrainer(str(directory), reward, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[Turns()])
        trainer.train()


def sampling(name: str) -> None:
    """Print the seconds that our sampler and transformers' generate take for the same prompts, by turns, at several lengths."""
    import torch

    from llmzero.grpo.policy import encode_prompts, load_model, load_tokenizer
    from llmzero.rollout.base import Sampling
    from llmzero.rollout.torch_engine import TorchEngine

    setting, directory = SETTINGS[name], model_directory(name)
    model, tokenizer = load_model(directory, "float32").eval(), load_tokenizer(directory)
    prompts = encode_prompts(tokenizer, countdown(setting).split("train")[: setting.prompts])
    engine = TorchEngine()
    engine.start(_Weights(model, tokenizer))
    tokenizer.padding_side = "left"
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    found: dict[int, dict[str, list[float]]] = {}
    for length in sorted({setting.max_tokens // 2, setting.max_tokens}):
        limits = {"max_new_tokens": length, "do_sample": True, "top_k": 0, "num_return_sequences": setting.group_size}
        found[length] = {"ours": [], "theirs": []}
        for turn in range(setting.rounds + 1):
            seconds = timed(partial(engine.generate, prompts, Sampling(length, 1.0, setting.group_size, turn)))
            with torch.no_grad():
                reference = timed(partial(model.generate, **batch, **limits))
            if turn:
                found[length]["ours"].append(seconds)
                found[length]["theirs"].append(reference)
    print(json.dumps(found))


class _Weights:
    """A model in one piece, as our sampler wants to see it."""

    partitioned = False

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.directory, self.pad_id = model, "", tokenizer.pad_token_id
        self.eos_ids = [tokenizer.eos_token_id]

    def tensors(self) -> Any:
        return self.model.named_parameters()


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return round(time.perf_counter() - started, 4)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    if len(sys.argv) == 3:
        {"ours": ours, "theirs": theirs, "sampling": sampling}[sys.argv[1]](sys.argv[2])
    else:
        main()
