"""The sampler against the model itself, on a model with random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmzero.grpo.nano import character_tokenizer
from llmzero.grpo.policy import encode_prompts
from llmzero.rollout.base import Rollouts, Sampling
from llmzero.rollout.torch_engine import TorchEngine
from llmzero.tasks.base import Example

EOS, PAD = 1, 0
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [4, 4]]


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=17,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.5,
    )
    return Qwen3ForCausalLM(config).eval()


def started(model: Qwen3ForCausalLM, seed: int = 0, max_rows: int = 1024) -> TorchEngine:
    engine = TorchEngine(max_rows)
    engine.start(model, [EOS], PAD, seed)
    return engine


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_are_those_of_a_full_forward_pass(model: Qwen3ForCausalLM, temperature: float) -> None:
    rollouts = started(model).generate(PROMPTS, Sampling(12, temperature, n=3))
    assert len({len(c) for c in rollouts.completions}) > 1, "rows of several lengths, so that compaction is at work"
    for i, completion in enumerate(rollouts.completions):
        prompt = rollouts.prompts[i // 3]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits / (temperature or 1.0), -1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(rollouts.logprobs[i]), expected, atol=2e-5, rtol=1e-4)


def test_greedy_decoding_is_that_of_transformers(model: Qwen3ForCausalLM) -> None:
    rollouts = started(model).generate(PROMPTS, Sampling(10, 0.0))
    for prompt, completion in zip(PROMPTS, rollouts.completions, strict=True):
        reference = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)[0, len(prompt) :].tolist()
        assert completion == reference


def test_a_completion_ends_at_the_first_end_token_or_at_the_limit(model: Qwen3ForCausalLM) -> None:
    rollouts = started(model).generate(PROMPTS, Sampling(12, 1.5, n=50))
    reasons = set(rollouts.finish_reasons)
    assert reasons == {"stop", "length"}
    for completion, reason in zip(rollouts.completions, rollouts.finish_reasons, strict=True):
        assert EOS not in completion[:-1]
        assert (completion[-1] == EOS) == (reason == "stop")
        assert len(completion) == 12 or reason == "stop"


def test_the_random_state_resumes_the_same_draws(model: Qwen3ForCausalLM) -> None:
    engine = started(model)
    engine.generate(PROMPTS, Sampling(8, 1.0, n=2))
    state = engine.get_state()
    first = engine.generate(PROMPTS, Sampling(8, 1.0, n=2))
    other = started(model, seed=99)
    other.set_state(state)
    assert other.generate(PROMPTS, Sampling(8, 1.0, n=2)) == first
    assert engine.generate(PROMPTS, Sampling(8, 1.0, n=2)) != first


def test_samples_follow_the_policys_distribution(model: Qwen3ForCausalLM) -> None:
    rollouts = started(model, max_rows=5000).generate([PROMPTS[0]], Sampling(1, 1.0, n=4000))
    counts = torch.bincount(torch.tensor([c[0] for c in rollouts.completions]), minlength=17) / 4000
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([PROMPTS[0]])).logits[0, -1], -1)
    assert float((counts - expected).abs().max()) < 0.04


def test_chunks_change_nothing_but_memory(model: Qwen3ForCausalLM) -> None:
    def greedy(rows: int) -> Rollouts:
        return started(model, max_rows=rows).generate(PROMPTS, Sampling(9, 0.0))

    assert greedy(1).completions == greedy(1000).completions


def test_prompts_are_put_into_the_models_chat_template_where_it_has_one() -> None:
    tokenizer = character_tokenizer("abcdefghijklmnopqrstuvwxyz0123456789+=:,<>")
    example = Example("x", "1,2=3:", "1+2")
    assert [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, [example])] == ["1,2=3:"]
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    assert [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, [example])] == ["<user>1,2=3:<a>"]
