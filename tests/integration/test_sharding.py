"""One update does not depend on the number of processes or the ZeRO stage: two processes that talk by gloo
against one, and plain autograd.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from llmzero.grpo.batch import Sample, collate, shared_out
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import LOSSES, LossSettings, Totals, grpo_loss
from tests.conftest import REPOSITORY
from tests.integration.sharding_worker import (
    ALGORITHM,
    BUDGET,
    HPARAMS,
    LEARNING_RATE,
    SHAPES,
    samples_of,
    tiny_model,
)

Runs = dict[int, dict[str, Any]]
STAGES = (0, 1, 2, 3)  # of ZeRO, on two processes; one process has none
METRICS = (
    "loss",
    "grad_norm",
    "entropy",
    "kl",
    "clip_fraction_low",
    "clip_fraction_high",
    "offpolicy_kl",
    "mismatch_kl",
    "mismatch_outside",
)


@pytest.fixture(scope="module")
def runs(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Everything the worker did, by number of processes."""
    directory = tmp_path_factory.mktemp("sharding")
    found: Runs = {}
    for size, stages in ((1, (0,)), (2, STAGES)):
        launcher = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"] if size > 1 else []
        )
        command = [
            sys.executable,
            *launcher,
            "tests/integration/sharding_worker.py",
            str(directory / f"{size}.pt"),
            *map(str, stages),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=900
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        found[size] = torch.load(directory / f"{size}.pt", weights_only=False)
        assert found[size]["size"] == size
    return found


def apart(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).detach().abs().max()) for name in left)


def test_the_samples_need_unequal_numbers_of_passes() -> None:
    """Otherwise the updates would not show what happens to passes that must not count."""
    samples = samples_of(SHAPES["uneven"])
    counting = [sum(counts for _, counts in shared_out(samples, BUDGET, rank, 2)) for rank in range(2)]
    assert len(set(counting)) == 2
    assert min(counting) > 1
    assert [counts for _, counts in shared_out(samples_of(SHAPES["few"])[:1], BUDGET, 1, 2)] == [False]


def test_one_process_takes_the_step_that_plain_autograd_gives(runs: Runs) -> None:
    """All samples as one batch, no DeepSpeed: descent along the gradient of the whole loss."""
    run = runs[1]["sgd-0"]
    samples: list[Sample] = run["uneven"]["samples"]
    assert all(len(s.reference) == len(s.completion) for s in samples)
    model = tiny_model(0)
    batch = collate(samples, torch.device("cpu"))
    logprobs, entropy = LogprobModel(model)(batch.pack, HPARAMS["temperature"])
    tokens = sum(s.tokens for s in samples)
    totals = Totals(sum(s.counts for s in samples), tokens, float(tokens), HPARAMS["max_completion_length"])
    settings = LossSettings(
        LOSSES["grpo"],
        HPARAMS["clip_low"],
        HPARAMS["clip_high"],
        ALGORITHM.dual_clip,
        HPARAMS["kl_coef"],
        "k3",
        HPARAMS["entropy_coef"],
    )
    terms = grpo_loss(
        logprobs=logprobs,
        entropy=entropy,
        old=batch.sampled,
        reference=batch.reference,
        correction=None,
        advantages=batch.advantages,
        mask=batch.counted,
        weights=LOSSES["grpo"].token_weights(batch.counted, totals),
        settings=settings,
    )
    terms.loss.backward()
    assert apart(dict(model.named_parameters()), run["before"]) == 0
    stepped = {
        name: p.detach() - LEARNING_RATE["sgd"] * p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    assert apart(stepped, run["before"]) > 1e-3
    assert apart(stepped, run["uneven"]["weights"]) < 1e-6
    assert run["uneven"]["metrics"]["loss"] == pytest.approx(float(terms.loss.detach()), rel=1e-5)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert run["uneven"]["metrics"]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("zero", STAGES)
def test_the_gradient_does_not_depend_on_processes_or_zero_stage(runs: Runs, zero: int) -> None:
    expected, found = runs[1]["sgd-0"], runs[2][f"sgd-{zero}"]
    previous = found["before"]
    for variant in SHAPES:
        assert apart(found[variant]["weights"], previous) > 1e-3, "a step was taken"
        assert apart(found[variant]["weights"], expected[variant]["weights"]) < 1e-6
        assert found[variant]["updates"] == expected[variant]["updates"] == (2 if variant == "few" else 1)
        previous = found[variant]["weights"]


@pytest.mark.parametrize("zero", STAGES)
def test_clipped_steps_of_adamw_do_not_depend_on_processes_or_zero_stage(runs: Runs, zero: int) -> None:
    """Where a gradient is near zero the sign of AdamW's step is that of rounding errors, hence a mean and not
    a maximum.
    """
    expected, found = runs[1]["adamw-0"], runs[2][f"adamw-{zero}"]
    assert expected["uneven"]["metrics"]["grad_norm"] > 0.1, "the gradient is clipped"
    for variant in SHAPES:
        assert apart(found[variant]["weights"], found["before"]) > 5e-4
        for name, tensor in found[variant]["weights"].items():
            assert float((tensor - expected[variant]["weights"][name]).abs().mean()) < 1e-6, name


@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_metrics_and_scores_do_not_depend_on_processes_or_zero_stage(
    runs: Runs, optimizer: str, zero: int
) -> None:
    for variant in SHAPES:
        expected, found = runs[1][f"{optimizer}-0"][variant], runs[2][f"{optimizer}-{zero}"][variant]
        metrics = {name: expected["metrics"][name] for name in METRICS}
        assert min(metrics[name] for name in ("grad_norm", "kl", "entropy", "mismatch_kl")) > 1e-3
        assert variant != "uneven" or metrics["clip_fraction_low"] * metrics["clip_fraction_high"] > 0
        assert {name: found["metrics"][name] for name in METRICS} == pytest.approx(
            metrics, rel=1e-4, abs=1e-6
        )
        for ours, theirs in zip(found["samples"], expected["samples"], strict=True):
            assert len(ours.reference) == len(ours.completion)
            assert ours.reference == pytest.approx(theirs.reference, abs=1e-5)
            assert len(ours.old) == (len(ours.completion) if variant == "few" else 0)
            assert ours.old == pytest.approx(theirs.old, abs=1e-5)
