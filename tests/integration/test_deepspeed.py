"""Stages under every ZeRO stage, precision and memory setting, on one process and on two that talk by
gloo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.integration.conftest import FEW, Stages, last_checkpoint, read_lines, same_bits


@pytest.fixture(scope="module")
def stages(run_stages: Stages) -> Stages:
    """Run stages that have something to learn, given by directory, on `size` processes."""

    def run(size: int, wanted: dict[Path, dict[str, Any]]) -> None:
        run_stages(wanted, size)
        for directory in wanted:
            rows = read_lines(directory / "metrics.jsonl")
            assert all(row["grad_norm"] > 1e-3 and row["reward_std"] > 0 for row in rows), (
                "equality means nothing where nothing is learnt"
            )

    return run


def same_ends(a: Path, b: Path) -> bool:
    return same_bits(last_checkpoint(a), last_checkpoint(b))


def distance(a: Path, b: Path, name: str = "model.safetensors") -> float:
    left, right = load_file(last_checkpoint(a) / name), load_file(last_checkpoint(b) / name)
    assert set(left) == set(right)
    return max(float((left[key] - right[key]).abs().max()) for key in left)


@pytest.fixture(scope="module")
def single(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages of two steps, one after the other, on one process without ZeRO."""
    base = tmp_path_factory.mktemp("single")
    stages(1, {base / "first": {"steps": 2}})
    stages(1, {base / "second": {"steps": 2, "resume_from": str(last_checkpoint(base / "first"))}})
    return base


@pytest.mark.parametrize("size", [1, 2])
def test_resume_is_bit_equal_under_every_zero_stage(
    stages: Stages, single: Path, tmp_path: Path, size: int
) -> None:
    kinds = [0, 1, 2, 3] if size == 2 else [3]
    runs: dict[Path, dict[str, Any]] = {}
    for zero in kinds:
        settings = {"trainer": {"zero_stage": zero}}
        runs[tmp_path / f"long{zero}"] = {"steps": 4, **settings}
        runs[tmp_path / f"first{zero}"] = {"steps": 2, **settings}
        parent = str(tmp_path / f"first{zero}/checkpoints/step_00002")
        runs[tmp_path / f"second{zero}"] = {"steps": 2, "resume_from": parent, **settings}
    stages(size, runs)
    for zero in kinds:
        assert same_ends(tmp_path / f"second{zero}", tmp_path / f"long{zero}"), f"ZeRO {zero}"
        assert distance(tmp_path / f"second{zero}", single / "second") < 1e-4, (
            "the same learning, whatever it is spread over"
        )
        assert distance(tmp_path / f"second{zero}", single / "first") > 1e-3


def test_a_stage_resumes_at_another_world_size_and_zero_stage(
    stages: Stages, single: Path, tmp_path: Path
) -> None:
    """From one process to two and back; the sampled tokens are the same, so the whole step must be, but for
    rounding.
    """
    parent = str(last_checkpoint(single / "first"))
    stages(
        2,
        {
            tmp_path / f"to{zero}": {"steps": 2, "resume_from": parent, "trainer": {"zero_stage": zero}}
            for zero in (1, 2, 3)
        },
    )
    for zero in (1, 2, 3):
        assert distance(tmp_path / f"to{zero}", single / "second") < 1e-4
        assert distance(tmp_path / f"to{zero}", single / "second", "optimizer.safetensors") < 1e-4
        ours, theirs = (
            read_lines(tmp_path / f"to{zero}/metrics.jsonl"),
            read_lines(single / "second/metrics.jsonl"),
        )
        for mine, other in zip(ours, theirs, strict=True):
            for name in ("reward_mean", "entropy", "kl", "grad_norm", "loss", "completion_length_mean"):
                assert mine[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
    first_on_two = {tmp_path / "first": {"steps": 2, "trainer": {"zero_stage": 3}}}
    stages(2, first_on_two)
    stages(
        1,
        {
            tmp_path / "back": {
                "steps": 2,
                "resume_from": str(last_checkpoint(tmp_path / "first")),
                "trainer": {"zero_stage": 2},
            }
        },
    )
    assert distance(tmp_path / "back", single / "second") < 1e-4


MEMORY: dict[str, dict[str, Any]] = {
    "activation_checkpointing": {"activation_checkpointing": True},
    "offload_optimizer": {"offload_optimizer": True, "zero_stage": 2},
    "offload_parameters": {"offload_parameters": True, "offload_optimizer": True, "zero_stage": 3},
    "small_micro_batches": {"micro_batch_tokens": 60},
    "one_micro_batch": {"micro_batch_tokens": 10**6},
}


def test_what_saves_memory_changes_nothing_else(stages: Stages, single: Path, tmp_path: Path) -> None:
    stages(1, {tmp_path / name: {"steps": 2, "trainer": settings} for name, settings in MEMORY.items()})
    for name in MEMORY:
        assert distance(tmp_path / name, single / "first") < 1e-4, name


@pytest.mark.parametrize("size", [1, 2])
def test_an_adapter_is_trained_alone_and_merged_into_the_checkpoint(
    stages: Stages, root: Path, tmp_path: Path, size: int
) -> None:
    lora = {"lora": {"rank": 4, "alpha": 8.0, "targets": "all-linear"}, "zero_stage": 3 if size == 2 else 0}
    hparams = {"kl_coef": 0.05, "minibatches": 1}
    parent = str(tmp_path / "first/checkpoints/step_00002")
    runs: dict[Path, dict[str, Any]] = {
        tmp_path / "long": {"steps": 4, "trainer": lora, "hparams": hparams},
        tmp_path / "first": {"steps": 2, "trainer": lora, "hparams": hparams},
        tmp_path / "second": {"steps": 2, "trainer": lora, "hparams": hparams, "resume_from": parent},
    }
    stages(size, runs)
    assert same_ends(tmp_path / "second", tmp_path / "long")
    rows = read_lines(tmp_path / "long/metrics.jsonl")
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-7), "the reference is the model without its adapter"
    assert rows[-1]["kl"] > 1e-5
    assert max(row["mismatch_kl"] for row in rows) < 1e-8, "the sampler has the adapter merged in"
    base, merged = (
        load_file(root / "model.safetensors"),
        load_file(last_checkpoint(tmp_path / "long") / "model.safetensors"),
    )
    moved = {name for name in base if float((base[name] - merged[name]).abs().max()) > 1e-5}
    assert moved
    assert all("proj" in name for name in moved), "embeddings and norms stay"
    adapter = load_file(last_checkpoint(tmp_path / "long") / "adapter/adapter_model.safetensors")
    assert sum(t.numel() for t in adapter.values()) < sum(t.numel() for t in base.values()) / 4
    AutoModelForCausalLM.from_pretrained(last_checkpoint(tmp_path / "long"))


def test_bfloat16_keeps_float32_master_weights_over_a_resume(stages: Stages, tmp_path: Path) -> None:
    half = {"dtype": "bfloat16"}
    parent = str(tmp_path / "first/checkpoints/step_00002")
    slow = {"learning_rate": 1e-5}
    runs: dict[Path, dict[str, Any]] = {
        tmp_path / "long": {"steps": 4, "trainer": half, "hparams": slow},
        tmp_path / "first": {"steps": 2, "trainer": half, "hparams": slow},
        tmp_path / "second": {"steps": 2, "trainer": half, "hparams": slow, "resume_from": parent},
    }
    stages(1, runs)
    assert same_ends(tmp_path / "second", tmp_path / "long"), (
        "updates too small for bfloat16 would be lost without master weights"
    )
    state = load_file(last_checkpoint(tmp_path / "second") / "optimizer.safetensors")
    assert any(name.endswith(".master") for name in state)


def test_whole_weights_go_on_from_an_adapter_but_not_the_other_way(
    run_stages: Stages, tmp_path: Path
) -> None:
    lora = {"lora": {"rank": 4, "alpha": 8.0, "targets": "all-linear"}}
    parents = {name: str(tmp_path / name / "checkpoints/step_00001") for name in ("adapter", "whole")}
    runs: dict[Path, dict[str, Any]] = {
        tmp_path / "adapter": {"steps": 1, "trainer": lora},
        tmp_path / "whole": {"steps": 1, "resume_from": parents["adapter"]},
        tmp_path / "refused": {"steps": 1, "trainer": lora, "resume_from": parents["whole"]},
    }
    run_stages(runs)
    found = {
        name: json.loads((tmp_path / name / "result.json").read_text())
        for name in ("adapter", "whole", "refused")
    }
    assert [found[name]["state"] for name in found] == ["completed", "completed", "failed"]
    assert "all weights of" in found["refused"]["error"]
    position = json.loads((Path(parents["whole"]) / "trainer.json").read_text())["position"]
    assert (position["global_step"], position["optimizer_steps"]) == (2, FEW["minibatches"]), (
        "its optimizer began afresh"
    )
