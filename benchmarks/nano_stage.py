#!/usr/bin/env python
"""Measure the nano stage: start-up, where the time goes, sampling throughput against transformers, peak memory.

Usage: python benchmarks/nano_stage.py   (about a minute; writes benchmarks/results/nano_stage.json)
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/nano_stage.json"
STEPS = 20


def main() -> None:
    """Run all measurements and write them down."""
    with tempfile.TemporaryDirectory() as folder:
        train("steps=0", f"stage_dir={folder}/root")  # warms the cache of base checkpoints
        root = Path(folder) / "root/checkpoints/step_00000"
        stages = {
            "practitioner": stage(folder, root, "practitioner", "values={}"),
            "large_batch": stage(folder, root, "large", "values={prompts_per_step: 64, group_size: 16, minibatches: 4}"),
        }
        report = {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            "driver": {"first_line_seconds": driver_first_line()},
            "import_seconds": imports(),
            "stages": stages,
            "sampling": sampling(root),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def train(*overrides: str) -> float:
    """Run `launchers/train.py` and return its wall seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "launchers/train.py", *overrides], cwd=REPOSITORY, check=True, capture_output=True)
    return time.perf_counter() - started


def stage(folder: str, root: Path, name: str, values: str) -> dict[str, float]:
    """Train one stage; return its wall seconds, the share of each phase, and its throughput."""
    directory = Path(folder) / name
    wall = train(f"steps={STEPS}", f"resume_from={root}", f"stage_dir={directory}", values)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    phases = ("generation", "reward", "logprobs", "update", "validation", "checkpoint")
    spent = {phase: sum(row[f"seconds_{phase}"] for row in rows) for phase in phases}
    tokens = rows[-1]["tokens"]
    return {
        "wall_seconds": round(wall, 2),
        "step_seconds": round(sum(row["step_seconds"] for row in rows) / len(rows), 3),
        "trained_tokens_per_second": round(tokens / sum(row["step_seconds"] for row in rows)),
        "share_generation_and_optimisation": round((spent["generation"] + spent["logprobs"] + spent["update"]) / wall, 3),
        **{f"share_{phase}": round(value / wall, 3) for phase, value in spent.items()},
    }


def imports() -> dict[str, float]:
    """Return the seconds that a fresh process needs to import each half."""
    found = {}
    for half, module in (("search", "llmzero.search.session"), ("training", "llmzero.grpo.main")):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        found[half] = round(time.perf_counter() - started, 2)
    return found


def driver_first_line() -> float:
    """Return the seconds until `launchers/search.py` prints its first line."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "launchers/search.py", "dry_run=true"], cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - started
        process.stdout.read()
    return round(seconds, 2)


def sampling(root: Path) -> dict[str, Any]:
    """Return tokens per second of our sampler and of transformers' generate, same model, prompts and limits, and their ratio."""
    import torch

    from llmzero.grpo.policy import encode_prompts, load_model, load_tokenizer
    from llmzero.rollout.base import Sampling
    from llmzero.rollout.torch_engine import TorchEngine
    from llmzero.tasks.countdown import Countdown

    model, tokenizer = load_model(root, "float32").eval(), load_tokenizer(root)
    prompts = encode_prompts(tokenizer, Countdown().split("val")[:64])
    engine = TorchEngine()
    engine.start(model, [tokenizer.eos_token_id], tokenizer.pad_token_id, 0)
    tokenizer.padding_side = "left"
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")

    def ours() -> int:
        return sum(len(c) for c in engine.generate(prompts, Sampling(16, 1.0, 8)).completions)

    def theirs() -> int:
        out = model.generate(**batch, max_new_tokens=16, do_sample=True, top_k=0, num_return_sequences=8)
        made = out[:, batch["input_ids"].shape[1] :]
        return int((made != tokenizer.pad_token_id).sum())

    def speed(generate: Any) -> float:
        generate()
        started, tokens = time.perf_counter(), 0
        while time.perf_counter() - started < 5:
            tokens += generate()
        return tokens / (time.perf_counter() - started)

    with torch.no_grad():
        mine, reference = speed(ours), speed(theirs)
    return {"tokens_per_second": round(mine), "transformers_tokens_per_second": round(reference), "ratio": round(mine / reference, 2)}


if __name__ == "__main__":
    main()
