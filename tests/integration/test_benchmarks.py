"""The benchmark for GPUs on a CPU, with a tiny model, and the one that kills searches, with few kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.meter import Meter
from benchmarks.side_by_side import own_memory
from benchmarks.trainer_gpu import PHASES, flops_per_token
from llmzero.planning.architecture import Architecture
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks/trainer_gpu.py"
MIB = 2**20
STEP = ("ratio", "tokens_per_second", "completion_tokens_per_second", "generation_share")
UPDATE = (
    "sequence",
    "tokens",
    "tokens_per_second",
    "flops_per_token",
    "peak_memory_mib",
    "published_tokens_per_second",
    "ratio_to_published",
)


def benchmark(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    without_gpu = {**environment, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env=without_gpu,
        timeout=600,
    )


def test_without_a_gpu_it_says_so(environment: dict[str, str]) -> None:
    done = benchmark(environment)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "needs a GPU" in line]
    assert not done.stdout


def test_the_smoke_run_reports_every_figure(environment: dict[str, str]) -> None:
    done = benchmark(environment, "--smoke")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    step, update = report["step"], report["trainer"]
    numbers = [step[name] for name in STEP] + [update[name] for name in UPDATE] + update["update_seconds"]
    numbers += [step["phase_seconds"][phase] for phase in PHASES]
    for side in ("ours", "theirs"):
        assert len(step["step_seconds"][side]) == step["rounds"]
        numbers += [*step["step_seconds"][side], step["peak_memory_mib"][side]]
    assert min(numbers) > 0
    assert step["generation_share"] < 1
    assert 0 <= step["mismatch_kl"] < 1e-6
    assert update["mfu"] is None and update["peak_tflops"] is None and report["machine"]["gpu"] is None


def test_searches_that_are_killed_lose_nothing_and_pay_for_nothing_twice(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A few kills of each kind; the benchmark itself compares all with runs that nobody kills."""
    script, result = REPOSITORY / "benchmarks/kill_searches.py", tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(script), "12", "--result", str(result)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    report = json.loads(result.read_text())
    assert report["problems"] == 0
    assert report["kills"] >= 10
    assert all(kind["kills"] >= 1 and kind["runs"] >= 1 for kind in report["kinds"].values())
    calls = report["calls"]
    assert calls["received"] == calls["delivered"] + calls["cut_by_a_kill"]
    assert 0 <= calls["delivered_but_not_stored"] <= report["kinds"]["agent call"]["kills"]


def test_a_gpus_memory_is_shared_out_by_turns() -> None:
    turns = [
        ("ours", 5, 4),
        ("theirs", 14, 10),
        ("ours", 30, 12),
        ("theirs", 16, 11),
    ]  # side, most and last of what the GPU held
    memory = own_memory([(side, {"peak_mib": peak, "held_mib": held}) for side, peak, held in turns])
    assert memory == {"ours": 4 + 20, "theirs": 10}


def test_a_meter_sees_the_most_that_a_gpu_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that gives memory back where torch is asked to."""
    used = [3 * MIB]
    emptied: list[bool] = []

    def empty_cache() -> None:
        emptied.append(True)
        used[0] = 2 * MIB

    gpu: dict[str, Any] = {
        "is_available": lambda: True,
        "synchronize": lambda: None,
        "mem_get_info": lambda: (100 * MIB - used[0], 100 * MIB),
        "empty_cache": empty_cache,
    }
    for name, function in gpu.items():
        monkeypatch.setattr(torch.cuda, name, function)
    meter = Meter(shares_gpu=True)
    used[0] = 7 * MIB
    measured = meter.stop()
    assert (measured["peak_mib"], measured["held_mib"]) == (7, 2)
    alone = Meter(shares_gpu=False)
    alone.stop()
    assert len(emptied) == 1


def test_operations_are_counted_as_the_docstring_says() -> None:
    """For Qwen3-0.6B at 16k the published 11.9k tokens/s are 17.9 % of an H100's 989 TFLOP/s."""
    import yaml

    qwen = yaml.safe_load((REPOSITORY / "conf/model/qwen3_0_6b.yaml").read_text())["architecture"]
    flops = flops_per_token(Architecture.from_config(qwen), 16_384)
    assert flops == 6 * 596_049_920 + 12 * 28 * 16 * 128 * 16_384
    assert 11_900 * flops / 989e12 == pytest.approx(0.179, abs=5e-4)
    untied = Architecture.from_config({**qwen, "tie_word_embeddings": False})
    assert flops_per_token(untied, 16_384) == flops
