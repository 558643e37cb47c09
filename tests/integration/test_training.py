"""What a stage does where training goes wrong or prompts teach nothing: real stages, with parts that
misbehave on purpose.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from llmzero.grpo.data import DataOrder
from tests.integration.checkpoints import read_whole
from tests.integration.conftest import FEW, Stages, last_checkpoint, read_lines, same_bits
from tests.integration.odd_parts import NO_MACHINE_HAS, Dull

PROMPTS, GROUP = FEW["prompts_per_step"], FEW["group_size"]
PLAIN = {
    "minibatches": 1,
    "kl_coef": 0.0,
    "entropy_coef": 0.0,
}  # only rewards give gradients, and a step is one update
KINDS: dict[str, dict[str, Any]] = {
    **{f"zero_{stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)},
    "bfloat16": {"dtype": "bfloat16"},
    "offload": {"zero_stage": 2, "offload_optimizer": True},
}


def part(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"tests.integration.odd_parts.{name}", **settings}


def result(stage: Path) -> dict[str, Any]:
    return json.loads((stage / "result.json").read_text())


def column(stage: Path, name: str) -> list[Any]:
    return [row[name] for row in read_lines(stage / "metrics.jsonl")]


# --- gradients that are not finite ---


@pytest.fixture(scope="module")
def poisoned(run_stages: Stages, spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each kind of sharding: one good step; five steps of which two are bad; two bad ones in a row, where
    one is forgiven.
    """
    base = tmp_path_factory.mktemp("poisoned")
    wanted: dict[Path, dict[str, Any]] = {}
    for kind, settings in KINDS.items():
        common = {"hparams": PLAIN, "algorithm": {"advantage": "mean"}}
        trainer = {**settings, "max_skipped_updates": 1, "validation_every": 1}
        wanted[base / kind / "good"] = {"steps": 1, "trainer": trainer, **common}
        for name, steps in {"apart": [2, 4], "in_a_row": [2, 3]}.items():
            task = part("Poisoned", steps=steps, prompts_per_step=PROMPTS, data_seed=spec["seed"])
            wanted[base / kind / name] = {"steps": 5, "trainer": trainer, "task": task, **common}
    run_stages(wanted)
    return base


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_whose_gradient_is_not_finite_is_skipped_and_counted(poisoned: Path, kind: str) -> None:
    stage = poisoned / kind / "apart"
    assert result(stage)["state"] == "completed", "two bad updates, but not in a row"
    assert column(stage, "skipped_updates") == [0, 1, 0, 1, 0]
    assert [value is None for value in column(stage, "reward_mean")] == [False, True, False, True, False], (
        "infinity is no JSON"
    )
    assert [norm > 1e-3 for norm in column(stage, "grad_norm")] == [True, False, True, False, True]
    assert read_whole(last_checkpoint(stage))["optimizer_steps"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_more_bad_updates_in_a_row_than_allowed_fail_the_stage_and_leave_its_weights(
    poisoned: Path, kind: str, spec: dict[str, Any]
) -> None:
    stage = poisoned / kind / "in_a_row"
    found = result(stage)
    assert found["state"] == "failed"
    assert "2 updates in a row (trainer.max_skipped_updates=1)" in found["error"]
    values = {name: spec["hparams"][name] for name in ("learning_rate", "max_grad_norm", "clip_high")}
    assert found["cause"] == {"kind": "not_finite", "phase": "update", "hparams": values}
    assert column(stage, "skipped_updates") == [0, 1]
    assert last_checkpoint(stage).name == "step_00002"
    position = read_whole(last_checkpoint(stage))
    assert (position["global_step"], position["optimizer_steps"]) == (2, 1)
    assert same_bits(last_checkpoint(stage), last_checkpoint(poisoned / kind / "good")), (
        "the skipped update changed nothing"
    )


# --- dynamic sampling ---


def replayed(order: DataOrder, task: Dull, rounds: int, steps: int) -> list[dict[str, int]]:
    """How many prompts each step has to sample, in how many calls, how many of them teach nothing, and how
    many it keeps.
    """
    found, cursor = [], 0
    for _ in range(steps):
        step = {"sampled": 0, "calls": 0, "dull": 0, "kept": 0}
        while step["kept"] < PROMPTS and step["calls"] <= rounds:
            fresh = order.take(cursor + step["sampled"], PROMPTS - step["kept"])
            dull = sum(task.dull(example) for example in fresh)
            for name, more in {
                "sampled": len(fresh),
                "calls": 1,
                "dull": dull,
                "kept": len(fresh) - dull,
            }.items():
                step[name] += more
        cursor += step["sampled"]
        found.append(step)
    return found


def test_prompts_that_teach_nothing_are_replaced_up_to_the_bound_and_the_cursor_moves_on(
    run_stages: Stages, spec: dict[str, Any], tmp_path: Path
) -> None:
    def stage(steps: int, share: float, **more: Any) -> dict[str, Any]:
        return {
            "steps": steps,
            "task": part("Dull", share=share),
            "algorithm": {"dynamic_sampling": 2},
            "hparams": PLAIN,
            **more,
        }

    resumed = stage(3, 0.4, resume_from=str(tmp_path / "first/checkpoints/step_00003"))
    run_stages(
        {
            tmp_path / "long": stage(6, 0.4),
            tmp_path / "first": stage(3, 0.4),
            tmp_path / "second": resumed,
            tmp_path / "hopeless": stage(2, 1.0),
        }
    )
    for name, share in {"long": 0.4, "hopeless": 1.0}.items():
        task = Dull(share, **{key: value for key, value in spec["task"].items() if key != "_target_"})
        rows, position = (
            read_lines(tmp_path / name / "metrics.jsonl"),
            read_whole(last_checkpoint(tmp_path / name)),
        )
        expected = replayed(DataOrder(task.split("train"), spec["seed"]), task, 2, len(rows))
        assert [row["prompts_sampled"] for row in rows] == [step["sampled"] for step in expected]
        assert [row["zero_variance_groups"] * row["prompts_sampled"] for row in rows] == pytest.approx(
            [step["dull"] for step in expected]
        )
        assert position["prompts_seen"] == sum(step["sampled"] for step in expected)
        assert position["sampler_calls"] == sum(step["calls"] for step in expected)
        filled = [step["kept"] == PROMPTS for step in expected]
        assert set(filled) == ({True, False} if name == "long" else {False}), (
            "the bound is met in some steps and not in others"
        )
        lengths = [row["completion_length_mean"] * row["prompts_sampled"] * GROUP for row in rows]
        trained = [
            after - before for before, after in itertools.pairwise([0, *(row["tokens"] for row in rows)])
        ]
        assert all(some < everything for some, everything in zip(trained, lengths, strict=True)), (
            "what teaches nothing is not trained on"
        )
        assert [row["grad_norm"] > 1e-3 for row in rows] == [step["kept"] > 0 for step in expected]
    assert same_bits(last_checkpoint(tmp_path / "second"), last_checkpoint(tmp_path / "long"))


# --- completions that were cut ---


def test_cut_completions_count_or_do_not_or_are_punished(run_stages: Stages, tmp_path: Path) -> None:
    """By DAPO's loss on the first update, where every ratio is 1: minus the mean advantage of the tokens that
    count.
    """
    longest, buffer = 5, 3
    wanted: dict[Path, dict[str, Any]] = {}
    for overlong in ("keep", "mask", "soft"):
        algorithm = {
            "loss": "dapo",
            "advantage": "mean",
            "overlong": overlong,
            "overlong_buffer": buffer / longest,
        }
        task, hparams = (
            part("Journal", journal=str(tmp_path / f"{overlong}.jsonl")),
            {**PLAIN, "max_completion_length": longest},
        )
        wanted[tmp_path / overlong] = {"steps": 1, "algorithm": algorithm, "task": task, "hparams": hparams}
    run_stages(wanted)
    for overlong in ("keep", "mask", "soft"):
        tried, *sampled = read_lines(tmp_path / f"{overlong}.jsonl")[: 1 + PROMPTS * GROUP]
        assert tried["completion"] == "", "rewards are tried out before the first step"
        cut = [len(row["completion"]) == longest for row in sampled]
        lengths = [
            len(row["completion"]) + (not was_cut) for row, was_cut in zip(sampled, cut, strict=True)
        ]  # characters and the end token
        (row,) = read_lines(tmp_path / overlong / "metrics.jsonl")
        assert 0.1 < row["truncated_fraction"] == fmean(cut) < 0.9
        assert row["completion_length_mean"] == fmean(lengths)
        assert row["reward_mean"] == pytest.approx(fmean(row["reward"] for row in sampled)), (
            "the penalty is no part of the reward"
        )
        penalty = [
            -max(0, length - (longest - buffer)) / buffer if overlong == "soft" else 0.0 for length in lengths
        ]
        values = [row["reward"] + minus for row, minus in zip(sampled, penalty, strict=True)]
        means = [fmean(values[i : i + GROUP]) for i in range(0, len(values), GROUP)]
        counted = [
            length * (overlong != "mask" or not was_cut) for length, was_cut in zip(lengths, cut, strict=True)
        ]
        weighted = sum(
            (value - means[i // GROUP]) * tokens
            for i, (value, tokens) in enumerate(zip(values, counted, strict=True))
        )
        assert abs(weighted) > 1e-2
        assert row["loss"] == pytest.approx(-weighted / sum(counted), rel=1e-4)


# --- out of memory ---


def test_out_of_memory_is_told_with_its_cause_and_loses_no_checkpoint(
    run_stages: Stages, spec: dict[str, Any], tmp_path: Path
) -> None:
    drivers = {
        "generation": ("max_completion_length", "group_size", "prompts_per_step"),
        "update": ("max_completion_length", "kl_coef"),
    }
    hungry = {
        phase: {
            "steps": 4,
            "trainer": {"validation_every": 2},
            "rollout": part("Hungry", phase=phase, step=4),
        }
        for phase in drivers
    }
    children = {
        f"after_{phase}": {"steps": 2, "resume_from": str(tmp_path / phase / "checkpoints/step_00002")}
        for phase in drivers
    }
    run_stages(
        {tmp_path / name: changes for name, changes in {"whole": {"steps": 4}, **hungry, **children}.items()}
    )
    for phase, names in drivers.items():
        found = result(tmp_path / phase)
        assert found["state"] == "failed"
        values = {name: spec["hparams"][name] for name in names}
        assert found["cause"] == {
            "kind": "out_of_memory",
            "phase": phase,
            "requested_bytes": NO_MACHINE_HAS,
            "hparams": values,
        }
        assert json.loads((tmp_path / phase / "status.json").read_text())["state"] == "failed"
        assert column(tmp_path / phase, "step") == [1, 2, 3]
        assert (Path(found["checkpoint"]).name, Path(found["last_checkpoint"]).name) == (
            "step_00002",
            "step_00002",
        )
        read_whole(last_checkpoint(tmp_path / phase))
        assert same_bits(last_checkpoint(tmp_path / f"after_{phase}"), last_checkpoint(tmp_path / "whole")), (
            "nothing that follows is different"
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_stage_that_is_to_have_a_gpu_does_not_train_on_a_cpu(run_stages: Stages, tmp_path: Path) -> None:
    run_stages({tmp_path / "stage": {"steps": 1, "trainer": {"gpus": 1}}})
    found = result(tmp_path / "stage")
    assert found["state"] == "failed"
    assert "hardware.gpus_per_stage=1 (trainer.gpus): no GPU can be used" in found["error"]
    assert json.loads((tmp_path / "stage/status.json").read_text())["state"] == "failed"
    assert not (tmp_path / "stage/metrics.jsonl").exists()


# --- a loss from outside the repository ---


def test_a_loss_from_outside_the_repository_trains_and_one_that_is_nowhere_ends_the_stage(
    run_stages: Stages, spec: dict[str, Any], tmp_path: Path
) -> None:
    outside = "tests.integration.odd_parts"
    losses = {"ours": "grpo", "halved": f"{outside}.HALVED", "nowhere": f"{outside}.NO_SUCH_LOSS"}
    run_stages(
        {
            tmp_path / name: {"steps": 1, "hparams": PLAIN, "algorithm": {"loss": loss}}
            for name, loss in losses.items()
        }
    )
    (ours,), (halved,) = column(tmp_path / "ours", "grad_norm"), column(tmp_path / "halved", "grad_norm")
    assert ours > 1e-3
    assert halved == pytest.approx(ours / 2, rel=1e-4)
    refused = result(tmp_path / "nowhere")
    assert refused["state"] == "failed"
    assert f"algorithm.loss={outside}.NO_SUCH_LOSS: cannot be imported" in refused["error"]
    assert not (tmp_path / "nowhere/metrics.jsonl").exists()
