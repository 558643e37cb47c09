"""The sampler against the model itself, on a model with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmzero.core.seeds import seed_of
from llmzero.grpo.nano import character_tokenizer
from llmzero.grpo.policy import encode_prompts
from llmzero.rollout.base import Sampling, copies_before, prompt_seeds
from llmzero.rollout.decoder import is_known
from llmzero.rollout.settings import TorchEngineSettings
from llmzero.rollout.torch_engine import TorchEngine
from llmzero.rollout.vllm_engine import request_seeds
from llmzero.tasks.base import Example

EOS, PAD = 1, 0
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [4, 4]]


def random_model(**changes: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 17,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "initializer_range": 0.5,
    }
    return Qwen3ForCausalLM(Qwen3Config(**settings | changes)).eval()


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return random_model()


@dataclass
class Whole:
    """Weights of a model in one piece; where they are `partitioned` an engine must make its own copy."""

    model: Any
    directory: str = ""
    partitioned: bool = False

    @property
    def eos_ids(self) -> list[int]:
        return [EOS]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.model.named_parameters()


def started(model: Qwen3ForCausalLM, max_rows: int = 1024) -> TorchEngine:
    engine = TorchEngine(TorchEngineSettings(max_rows))
    engine.start(Whole(model))
    return engine


def expected_logprobs(
    model: Any, prompt: list[int], completion: list[int], temperature: float
) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / (temperature or 1.0), -1).gather(-1, torch.tensor(completion)[:, None])[
        :, 0
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("max_rows", [1, 5, 1024])
def test_logprobs_are_those_of_a_full_forward_pass(
    model: Qwen3ForCausalLM, temperature: float, max_rows: int
) -> None:
    rollouts = started(model, max_rows).generate(PROMPTS, Sampling(12, temperature, n=3))
    assert len({len(c) for c in rollouts.completions}) > 1, (
        "rows of several lengths, so that slots are freed and filled again"
    )
    for i, completion in enumerate(rollouts.completions):
        expected = expected_logprobs(model, rollouts.prompts[i // 3], completion, temperature)
        torch.testing.assert_close(torch.tensor(rollouts.logprobs[i]), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "bfloat16", "other"])
def test_every_family_samples_from_its_own_distribution(kind: str) -> None:
    """Known families in float32 take the short way, all others that of transformers' modules."""
    shape = {
        "vocab_size": 17,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    special = {
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape, **special)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape, **special)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**shape, **special, sliding_window=None)),
        "bfloat16": lambda: random_model().bfloat16(),
        "other": lambda: GlmForCausalLM(GlmConfig(**shape, **special, head_dim=8)),
    }
    model = kinds[kind]().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    assert is_known(model) is (kind in ("llama", "qwen2", "mistral"))
    rollouts = started(model).generate(PROMPTS, Sampling(12, 0.7, n=3))
    assert len({len(c) for c in rollouts.completions}) > 1
    for i, (completion, found) in enumerate(zip(rollouts.completions, rollouts.logprobs, strict=True)):
        expected = expected_logprobs(model, PROMPTS[i // 3], completion, 0.7)
        torch.testing.assert_close(
            torch.tensor(found), expected.float(), rtol=1e-4, atol=0.2 if kind == "bfloat16" else 1e-4
        )


def test_sliding_windows_are_kept() -> None:
    sliding = random_model(use_sliding_window=True, sliding_window=3, max_window_layers=0)
    assert set(sliding.config.layer_types) == {"sliding_attention"}
    rollouts = started(sliding).generate(PROMPTS, Sampling(12, 1.0, n=4))
    assert max(map(len, rollouts.completions)) > 6
    for i, completion in enumerate(rollouts.completions):
        expected = expected_logprobs(sliding, rollouts.prompts[i // 4], completion, 1.0)
        torch.testing.assert_close(torch.tensor(rollouts.logprobs[i]), expected, atol=2e-5, rtol=1e-4)


def test_a_model_with_an_attention_of_its_own_is_refused() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=17,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.3,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=None,
        attn_implementation="eager",
    )
    with pytest.raises(ValueError, match="rollout=torch cannot sample from Gemma2ForCausalLM"):
        started(Gemma2ForCausalLM(config))


def test_greedy_decoding_is_that_of_transformers(model: Qwen3ForCausalLM) -> None:
    rollouts = started(model).generate(PROMPTS, Sampling(10, 0.0))
    for prompt, completion in zip(PROMPTS, rollouts.completions, strict=True):
        reference = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)[
            0, len(prompt) :
        ].tolist()
        assert completion == reference


def test_a_completion_ends_at_the_first_end_token_or_at_the_limit(model: Qwen3ForCausalLM) -> None:
    rollouts = started(model).generate(PROMPTS, Sampling(12, 1.5, n=50))
    reasons = set(rollouts.finish_reasons)
    assert reasons == {"stop", "length"}
    for completion, reason in zip(rollouts.completions, rollouts.finish_reasons, strict=True):
        assert EOS not in completion[:-1]
        assert (completion[-1] == EOS) == (reason == "stop")
        assert len(completion) == 12 or reason == "stop"


def test_the_seed_decides_the_draws_whatever_was_drawn_before_and_runs_beside(
    model: Qwen3ForCausalLM,
) -> None:
    first = started(model).generate(PROMPTS, Sampling(8, 1.0, n=2, seed=5))
    narrow = started(model, max_rows=2)
    narrow.generate(PROMPTS, Sampling(8, 1.0, n=2))
    assert narrow.generate(PROMPTS, Sampling(8, 1.0, n=2, seed=5)).completions == first.completions
    assert narrow.generate(PROMPTS, Sampling(8, 1.0, n=2, seed=6)).completions != first.completions
    assert narrow.generate(PROMPTS[2:], Sampling(8, 1.0, n=2, seed=5)).completions == first.completions[4:]


def test_copies_of_a_prompt_get_completions_of_their_own(model: Qwen3ForCausalLM) -> None:
    """Of which the first are those of the prompt alone; on however many processes the batch is shared out."""
    batch = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    engine, sampling = started(model), Sampling(8, 1.0, n=4, seed=5)
    together = engine.generate(batch, sampling).completions
    assert together[:8] == engine.generate(PROMPTS[:2], sampling).completions
    assert len(set(map(str, together))) > 16
    copies = copies_before(batch)
    assert copies == (0, 0, 1, 2, 1)
    for size in (2, 3):
        shares = [
            engine.generate(batch[rank::size], replace(sampling, copies=copies[rank::size])).completions
            for rank in range(size)
        ]
        apart = [shares[i % size][i // size * 4 :][:4] for i in range(len(batch))]
        assert [row for rows in apart for row in rows] == together


def test_seeds_of_copies_are_nobody_elses_and_those_of_other_prompts_stay() -> None:
    batch = [[5, 6], [5], [5, 6], [5], [5], [5, 1]]
    seeds = prompt_seeds(Sampling(8, seed=3), batch)
    assert len(set(seeds)) == len(batch)
    assert [seeds[0], seeds[1], seeds[5]] == [seed_of(3, 5, 6), seed_of(3, 5), seed_of(3, 5, 1)]
    assert [seed >> 1 for seed in seeds] == request_seeds(Sampling(8, seed=3), batch)


def test_no_prompts_give_no_completions(model: Qwen3ForCausalLM) -> None:
    assert started(model).generate([], Sampling(8, n=3)).completions == []


def test_finished_rows_take_no_further_steps(model: Qwen3ForCausalLM) -> None:
    """Every row costs as many forward passes of one token as its completion has tokens but one; a prompt is
    run once for its group.
    """
    engine, rows = started(model), []
    hook = model.lm_head.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    rollouts = engine.generate(PROMPTS, Sampling(12, 1.0, n=8))
    hook.remove()
    assert len({len(c) for c in rollouts.completions}) > 3
    assert rows[0] == len(PROMPTS)
    assert sum(rows[1:]) == sum(len(c) - 1 for c in rollouts.completions)


def test_the_model_is_left_as_it_was(model: Qwen3ForCausalLM) -> None:
    model.train()
    before = model.config._attn_implementation
    started(model).generate(PROMPTS, Sampling(2))
    assert (model.training, model.config._attn_implementation) == (True, before)
    model.eval()


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_that_cannot_be_run_as_it_is_gets_a_copy_that_follows_it(
    tmp_path: Path, adapted: bool
) -> None:
    source = random_model()
    source.save_pretrained(tmp_path)
    if adapted:
        source.peft_config = {}  # what says that a model has an adapter
    weights = Whole(source, str(tmp_path), partitioned=not adapted)
    engine = TorchEngine(TorchEngineSettings())
    engine.start(weights)
    before = engine.generate(PROMPTS, Sampling(6, 0.0))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    assert engine.generate(PROMPTS, Sampling(6, 0.0)) == before, "the copy is the sampler's own"
    engine.load_weights(weights)
    after = engine.generate(PROMPTS, Sampling(6, 0.0))
    expected = expected_logprobs(source, PROMPTS[0], after.completions[0], 0.0)
    torch.testing.assert_close(torch.tensor(after.logprobs[0]), expected, atol=2e-5, rtol=1e-4)
    assert after != before


def test_samples_follow_the_policys_distribution(model: Qwen3ForCausalLM) -> None:
    rollouts = started(model, max_rows=5000).generate([PROMPTS[0]], Sampling(1, 1.0, n=4000))
    counts = torch.bincount(torch.tensor([c[0] for c in rollouts.completions]), minlength=17) / 4000
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([PROMPTS[0]])).logits[0, -1], -1)
    assert float((counts - expected).abs().max()) < 0.04


def test_prompts_are_put_into_the_models_chat_template_where_it_has_one() -> None:
    tokenizer = character_tokenizer("abcdefghijklmnopqrstuvwxyz0123456789+=:,<>")
    example = Example("x", "1,2=3:", "1+2")
    assert [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, [example])] == ["1,2=3:"]
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    assert [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, [example])] == ["<user>1,2=3:<a>"]
