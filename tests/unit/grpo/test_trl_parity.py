"""The same completions through TRL's GRPOTrainer and through ours: losses and gradients of every parameter
agree.

What differs by design has a test that says how:

- TRL's CISPO bound is the ratio itself, ours is its distance from 1.
- TRL's `delta` is the dual clip only where it lies above 1 + epsilon_high.
- TRL's entropy bonus is always the mean over tokens; ours is weighted as its loss weighs tokens.
- TRL by default multiplies the divergence by the ratio (DeepSeek-V3.2), ours is that of DeepSeekMath, as with
  `use_bias_correction_kl=False`.
- TRL divides by all completions, masked or not, ours by those that count.
- TRL's `bnpo` averages the means of micro-batches, ours does not depend on how a minibatch is cut.
- TRL's deviations have Bessel's correction, ours have none; its batch-wide deviation is that of rewards, ours
  that of advantages.
"""

from __future__ import annotations

import math
import random
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from llmzero.grpo.advantages import group_advantages, whiten
from llmzero.grpo.batch import Sample, collate
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.loss import LOSSES, LossSettings, Totals, grpo_loss, sampler_correction
from llmzero.grpo.nano import character_tokenizer
from llmzero.tasks.base import Reward

# TRL is imported where it is used: else each worker would wait for it while it collects the tests.
CPU = torch.device("cpu")
PROMPTS, GROUP = 2, 4
ROWS = PROMPTS * GROUP
TEMPERATURE, LONGEST = 0.9, 10
LOW, HIGH = 0.15, 0.3
SEQUENCE_LOW, SEQUENCE_HIGH = 0.03, 0.05
REWARDS = [1.0, 0.0, 0.3, 0.2, 0.9, 0.1, 0.8, 0.2]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Rollout:
    prompts: list[list[int]]
    completions: list[list[int]]
    noise: list[list[float]]  # sampler's log-probs less the trainer's


Found = tuple[float, dict[str, Tensor]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    tokenizer = character_tokenizer("0123456789+-=")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    """Completions of 2 to 10 tokens; those of odd rows end by themselves (token 1), the others were cut."""
    rng = random.Random(5)
    prompts = [[rng.randrange(3, 16) for _ in range(n)] for n in (3, 5)]
    completions = []
    for row in range(ROWS):
        tokens = [rng.randrange(3, 16) for _ in range(rng.randrange(2, LONGEST))]
        completions.append([*tokens, 1 if row % 2 else 4])
    noise = [[rng.gauss(0, 0.3) for _ in completion] for completion in completions]
    return Rollout([prompts[row // GROUP] for row in range(ROWS)], completions, noise)


@cache
def loaded(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def load(checkpoint: Path) -> Any:
    return deepcopy(loaded(checkpoint))


@torch.no_grad()
def moved(model: Any, seed: int) -> Any:
    """Move the weights, as updates do; names decide, so that it is the same on both sides."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        parameter.add_(0.04 * torch.randn(parameter.shape, generator=generator))
    return model


def value_of(completions: Any, value: list[float], **_: Any) -> list[float]:
    return value


def trl_trainer(
    checkpoint: Path,
    rollout: Rollout,
    directory: Path,
    sampled: list[list[float]] | None = None,
    **options: Any,
) -> Any:
    """A real trainer whose generation is replaced by the given completions."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    accumulation = options.pop("gradient_accumulation_steps", 1)
    config = GRPOConfig(
        output_dir=str(directory),
        use_cpu=True,
        use_bias_correction_kl=options.pop("use_bias_correction_kl", False),
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        per_device_train_batch_size=ROWS // options.get("steps_per_generation", accumulation),
        gradient_accumulation_steps=accumulation,
        num_generations=GROUP,
        num_iterations=2,  # more updates than one: the old policy's log-probs are kept
        max_completion_length=LONGEST,
        temperature=TEMPERATURE,
        **options,
    )
    data = Dataset.from_dict({"prompt": ["1+1="] * 8, "value": [0.0] * 8})
    trainer = GRPOTrainer(
        model=load(checkpoint),
        reward_funcs=value_of,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = accumulation  # train() would set it
    trainer._generate = lambda _: (
        rollout.prompts,
        rollout.completions,
        None,
        [""] * ROWS,
        sampled,
        {},
        None,
        None,
    )
    trainer.use_vllm = sampled is not None
    if trainer.ref_model is not None:
        moved(trainer.ref_model, seed=2)
    trainer.model.train()
    return trainer


def trl_batch(trainer: Any) -> dict[str, Any]:
    batch: dict[str, Any] = trainer._generate_and_score_completions(
        [{"prompt": "", "value": reward} for reward in REWARDS]
    )
    return batch


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def theirs(trainer: Any, batch: dict[str, Any], parts: int = 1) -> Found:
    from trl.trainer.utils import split_tensor_dict

    moved(trainer.model, seed=1)
    total = 0.0
    for part in split_tensor_dict(batch, parts):
        loss = trainer.compute_loss(trainer.model, part)
        loss.backward()
        total += float(loss.detach())
    return total, gradients(trainer.model)


@torch.no_grad()
def scored(model: LogprobModel, samples: list[Sample]) -> list[list[float]]:
    batch = collate(samples, CPU)
    logprobs, _ = model(batch.pack, TEMPERATURE)
    return [row[: len(s.completion)] for row, s in zip(logprobs.tolist(), samples, strict=True)]


def our_samples(
    checkpoint: Path, rollout: Rollout, advantages: Tensor, with_reference: bool, masked: bool = False
) -> list[Sample]:
    samples = [
        Sample(
            prompt,
            completion,
            [0.0] * len(completion),
            "stop",
            Reward(0.0, {}),
            0.0,
            advantage,
            counts=not masked or completion[-1] == 1,
        )
        for prompt, completion, advantage in zip(
            rollout.prompts, rollout.completions, advantages.tolist(), strict=True
        )
    ]
    for sample, old, noise in zip(
        samples, scored(LogprobModel(load(checkpoint)), samples), rollout.noise, strict=True
    ):
        sample.old, sample.sampled = old, [a + b for a, b in zip(old, noise, strict=True)]
    if with_reference:
        for sample, reference in zip(
            samples, scored(LogprobModel(moved(load(checkpoint), seed=2)), samples), strict=True
        ):
            sample.reference = reference
    return samples


def ours(
    checkpoint: Path,
    samples: list[Sample],
    settings: LossSettings,
    correction: tuple[Any, ...] | None = None,
    updates: int = 1,
    rows: Any = slice(None),
) -> tuple[Found, dict[str, float]]:
    model = moved(load(checkpoint), seed=1)
    chosen = samples[rows]
    totals = Totals(
        sum(s.counts for s in chosen),
        sum(s.tokens for s in chosen),
        sum(s.tokens for s in samples) / updates,
        LONGEST,
    )
    batch = collate(chosen, CPU)
    logprobs, entropy = LogprobModel(model)(batch.pack, TEMPERATURE)
    terms = grpo_loss(
        logprobs=logprobs,
        entropy=entropy,
        old=batch.old,
        reference=batch.reference,
        correction=sampler_correction(batch.old - batch.sampled, batch.counted, *correction)
        if correction
        else None,
        advantages=batch.advantages,
        mask=batch.counted,
        weights=settings.loss.token_weights(batch.counted, totals),
        settings=settings,
    )
    terms.loss.backward()
    return (float(terms.loss.detach()), gradients(model)), {
        name: float(value) for name, value in terms.sums.items()
    }


def options_of(loss: str) -> dict[str, Any]:
    """What TRL calls our loss of that name with the bounds of `settings_of`."""
    if loss == "gspo":
        return {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": SEQUENCE_LOW,
            "epsilon_high": SEQUENCE_HIGH,
        }
    if loss == "cispo":
        return {"loss_type": "cispo", "epsilon_high": 1 + HIGH}
    return {"loss_type": loss, "epsilon": LOW, "epsilon_high": HIGH}


def settings_of(loss: str, **changes: Any) -> LossSettings:
    low, high = (SEQUENCE_LOW, SEQUENCE_HIGH) if loss == "gspo" else (LOW, HIGH)
    return LossSettings(LOSSES[loss], low, high, **changes)


def distance(found: Found, expected: Found) -> float:
    """The largest relative difference of the loss and of any parameter's gradient."""
    assert found[1].keys() == expected[1].keys()
    scale = max(float(g.norm()) for g in expected[1].values())
    assert scale > 1e-2
    assert all(float(g.norm()) > 1e-3 * scale for g in expected[1].values()), "every parameter takes part"
    apart = [float((found[1][name] - g).norm() / g.norm()) for name, g in expected[1].items()]
    return max([*apart, abs(found[0] - expected[0]) / max(0.1, abs(expected[0]))])


def both(
    loss: str,
    checkpoint: Path,
    rollout: Rollout,
    directory: Path,
    options: dict[str, Any],
    changes: dict[str, Any],
) -> tuple[Found, Found, Any]:
    trainer = trl_trainer(checkpoint, rollout, directory, **{**options_of(loss), **options})
    batch = trl_batch(trainer)
    samples = our_samples(checkpoint, rollout, batch["advantages"], "kl_coef" in changes)
    found, sums = ours(checkpoint, samples, settings_of(loss, **changes))
    return found, theirs(trainer, batch), sums


@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients_are_those_of_trl(
    loss: str, beta: float, checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    changes = {"kl_coef": beta} if beta else {}
    found, expected, sums = both(loss, checkpoint, rollout, tmp_path, {"beta": beta}, changes)
    assert sums["clip_fraction_high"] > 0
    assert loss == "cispo" or sums["clip_fraction_low"] > 0
    assert sums["kl"] > 0.1 or not beta
    assert distance(found, expected) < TOLERANCE


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo", "gspo"])
def test_a_dual_clip_above_the_upper_bound_is_trls_delta(
    loss: str, checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    bound = 1 + SEQUENCE_HIGH + 0.01 if loss == "gspo" else 1 + HIGH + 0.01
    found, expected, _ = both(loss, checkpoint, rollout, tmp_path, {"delta": bound}, {"dual_clip": bound})
    without, *_ = both(loss, checkpoint, rollout, tmp_path, {}, {})
    assert distance(without, expected) > 1e-2, "the bound must hold some token back"
    assert distance(found, expected) < TOLERANCE


def test_a_dual_clip_below_the_upper_bound_differs_from_trls_delta(
    checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    """TRL then lets the loss of a bad token grow on to 1 + epsilon_high, without a gradient; the paper's
    bound is c.
    """
    found, expected, _ = both("grpo", checkpoint, rollout, tmp_path, {"delta": 1.1}, {"dual_clip": 1.1})
    assert distance(found, expected) > 1e-2


def test_an_entropy_bonus_is_trls_where_all_tokens_weigh_the_same(
    checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    found, expected, _ = both(
        "bnpo", checkpoint, rollout, tmp_path, {"entropy_coef": 0.3}, {"entropy_coef": 0.3}
    )
    assert distance(found, expected) < TOLERANCE
    found, expected, _ = both(
        "grpo", checkpoint, rollout, tmp_path, {"entropy_coef": 0.3}, {"entropy_coef": 0.3}
    )
    assert distance(found, expected) > 1e-2


def test_the_divergence_is_not_multiplied_by_the_ratio_as_trls_is_by_default(
    checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    found, expected, _ = both(
        "grpo", checkpoint, rollout, tmp_path, {"beta": 0.2, "use_bias_correction_kl": True}, {"kl_coef": 0.2}
    )
    assert distance(found, expected) > 1e-2


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["truncate", "mask"])
@pytest.mark.parametrize("loss", ["dapo", "gspo"])
def test_the_samplers_correction_is_trls(
    loss: str, kind: str, level: str, checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    """With a divergence, which the correction must leave alone. Where TRL truncates it has a lower bound too,
    unless that is None. A token that is masked has a gradient by the ratio of its completion in TRL, and has
    none here.
    """
    low, high = 0.8, 1.25
    sampled = [s.sampled for s in our_samples(checkpoint, rollout, torch.zeros(ROWS), with_reference=False)]
    options = {
        **options_of(loss),
        "beta": 0.2,
        "vllm_importance_sampling_mode": f"{level}_{kind}",
        "vllm_importance_sampling_clip_max": high,
        "vllm_importance_sampling_clip_min": low if kind == "mask" else None,
    }
    trainer = trl_trainer(checkpoint, rollout, tmp_path, sampled, **options)
    batch = trl_batch(trainer)
    samples = our_samples(checkpoint, rollout, batch["advantages"], with_reference=True)
    ratios = batch["importance_sampling_ratio"]
    assert bool((ratios == (high if kind == "truncate" else 0)).any()), "some ratio is bounded"
    assert bool(((ratios > low) & (ratios < high) & (ratios != 1)).any()), "and some is not"
    found, _ = ours(checkpoint, samples, settings_of(loss, kl_coef=0.2), (kind, level, low, high))
    if (loss, kind, level) == ("gspo", "mask", "token"):
        assert distance(found, theirs(trainer, batch)) > 1e-2
    else:
        assert distance(found, theirs(trainer, batch)) < TOLERANCE


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "cispo", "gspo"])
def test_accumulated_micro_batches_give_trls_gradient(
    loss: str, checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    trainer = trl_trainer(checkpoint, rollout, tmp_path, gradient_accumulation_steps=2, **options_of(loss))
    batch = trl_batch(trainer)
    samples = our_samples(checkpoint, rollout, batch["advantages"], with_reference=False)
    assert (
        distance(ours(checkpoint, samples, settings_of(loss))[0], theirs(trainer, batch, parts=2)) < TOLERANCE
    )


def test_a_token_mean_over_micro_batches_differs_from_trls_mean_of_means(
    checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    trainer = trl_trainer(checkpoint, rollout, tmp_path, gradient_accumulation_steps=2, **options_of("bnpo"))
    batch = trl_batch(trainer)
    samples = our_samples(checkpoint, rollout, batch["advantages"], with_reference=False)
    assert len({sum(s.tokens for s in half) for half in (samples[:4], samples[4:])}) == 2
    expected = theirs(trainer, batch, parts=2)
    assert distance(ours(checkpoint, samples, settings_of("bnpo"))[0], expected) > 1e-2
    halves = [
        ours(checkpoint, samples, settings_of("bnpo"), rows=rows)[0] for rows in (slice(0, 4), slice(4, 8))
    ]
    mean = (
        (halves[0][0] + halves[1][0]) / 2,
        {name: (g + halves[1][1][name]) / 2 for name, g in halves[0][1].items()},
    )
    assert distance(mean, expected) < TOLERANCE


@pytest.mark.parametrize("loss", LOSSES)
def test_one_of_two_minibatches_has_trls_gradient(
    loss: str, checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    """`dapo` and `cispo` divide by the tokens of the rollout batch over its updates, the others by what the
    minibatch has.
    """
    from trl.trainer.utils import split_tensor_dict

    trainer = trl_trainer(checkpoint, rollout, tmp_path, steps_per_generation=2, **options_of(loss))
    batch = trl_batch(trainer)
    samples = our_samples(checkpoint, rollout, batch["advantages"], with_reference=False)
    found, _ = ours(checkpoint, samples, settings_of(loss), updates=2, rows=slice(0, 4))
    assert distance(found, theirs(trainer, split_tensor_dict(batch, 2)[0])) < TOLERANCE


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_completions_are_left_out_of_the_mean_unlike_trls(
    loss: str, checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    """Half of the completions are masked: TRL's mean over all of them is half of ours over those that
    count.
    """
    trainer = trl_trainer(checkpoint, rollout, tmp_path, mask_truncated_completions=True, **options_of(loss))
    batch = trl_batch(trainer)
    assert int((batch["completion_mask"].sum(1) > 0).sum()) == ROWS // 2
    samples = our_samples(checkpoint, rollout, batch["advantages"], with_reference=False, masked=True)
    (value, gradient), _ = ours(checkpoint, samples, settings_of(loss))
    share = 0.5 if loss in ("grpo", "gspo", "dr_grpo") else 1.0
    assert (
        distance((value * share, {name: g * share for name, g in gradient.items()}), theirs(trainer, batch))
        < TOLERANCE
    )


def trl_advantages(checkpoint: Path, rollout: Rollout, directory: Path, scale: str) -> Tensor:
    advantages: Tensor = trl_batch(trl_trainer(checkpoint, rollout, directory, scale_rewards=scale))[
        "advantages"
    ]
    return advantages


def test_advantages_are_trls_up_to_its_correction_of_the_deviation(
    checkpoint: Path, rollout: Rollout, tmp_path: Path
) -> None:
    rewards = torch.tensor(REWARDS)
    centred = group_advantages(rewards, GROUP, "mean")
    torch.testing.assert_close(centred, trl_advantages(checkpoint, rollout, tmp_path, "none"))
    scaled, theirs_scaled = (
        group_advantages(rewards, GROUP, "mean_std"),
        trl_advantages(checkpoint, rollout, tmp_path, "group"),
    )
    torch.testing.assert_close(scaled * math.sqrt((GROUP - 1) / GROUP), theirs_scaled, rtol=2e-4, atol=0)
    batchwide, white = trl_advantages(checkpoint, rollout, tmp_path, "batch"), whiten(centred)
    torch.testing.assert_close(batchwide, centred / (rewards.std() + 1e-4))
    torch.testing.assert_close(white, centred / (centred.std(correction=0) + 1e-4))
    assert float((white / batchwide).max()) > 1.05
