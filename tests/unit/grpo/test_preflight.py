"""What is refused, or said, before a stage's first step: real directories of models, changed file by file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from llmzero.core.errors import UserError
from llmzero.grpo import checkpoint, preflight
from llmzero.grpo.distributed import World
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.nano import character_tokenizer
from llmzero.grpo.policy import (
    ADAPTER,
    check_logprobs,
    check_same_adapter,
    encode_prompts,
    end_tokens,
    load_model,
    load_tokenizer,
    model_without_weights,
    plain_logprobs,
    with_adapter,
)
from llmzero.grpo.settings import LoraSettings
from llmzero.tasks.base import Example, Reward, rewards_of
from tests.tiny_model import write_tiny_model

CONTEXT = 64
ALONE = World(0, 1, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tiny_model(
        directory,
        num_hidden_layers=2,
        num_attention_heads=1,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return directory


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def policy(directory: Path) -> Any:
    """What `checkpoint.rehearse` asks of a policy that is not spread over processes."""
    loaded = load_model(directory, "float32")
    trained = {name: p for name, p in loaded.named_parameters() if p.requires_grad}
    return SimpleNamespace(
        model=loaded, tokenizer=load_tokenizer(directory), directory=str(directory), trained=trained
    )


# --- what saving needs ---


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.6},
        {"temperature": 0.0},
        {"temperature": "hot"},
        {"top_p": 0.9},
        {"top_k": 20},
        {"min_p": 0.1},
        {"do_sample": False, "temperature": 0.6, "top_p": 0.95},
        {"do_sample": "yes", "temperature": 0.6},
        {"early_stopping": True},
        {"length_penalty": 2.0},
        {"pad_token_id": -1},
        {"use_cache": False, "cache_implementation": "static"},
        {"output_scores": True},
    ],
    ids=str,
)
def test_a_generation_config_that_cannot_be_saved_is_left_out_of_checkpoints(
    model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    edit(model / "generation_config.json", **changes)
    found = policy(model)
    with pytest.raises(UserError, match=r"no checkpoint of .*GenerationConfig is invalid"):
        checkpoint.rehearse(tmp_path / "checkpoints/step_00000", found, ALONE)
    problem = preflight.generation_problem(found.model.generation_config)
    assert problem is not None
    assert min(changes) in problem or max(changes) in problem
    kept = preflight.special_tokens_of(found.model.generation_config)
    assert preflight.generation_problem(kept) is None
    assert kept.eos_token_id == 1
    found.model.generation_config = kept
    checkpoint.rehearse(tmp_path / "checkpoints/step_00000", found, ALONE)
    assert list((tmp_path / "checkpoints").iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
    "changes",
    [{}, {"do_sample": True, "temperature": 0.6, "top_k": 20}, {"of_theirs": {"a": [1, None]}}],
    ids=str,
)
def test_a_generation_config_that_can_be_saved_stays(changes: dict[str, Any]) -> None:
    assert preflight.generation_problem(GenerationConfig(eos_token_id=1, **changes)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_implementation": "bogus"},
        {"num_return_sequences": 4},
        {"max_new_tokens": -1},
        {"early_stopping": "x"},
    ],
    ids=str,
)
def test_a_generation_config_that_cannot_be_loaded_names_its_file(
    model: Path, changes: dict[str, Any]
) -> None:
    edit(model / "generation_config.json", **changes)
    with pytest.raises(UserError, match=rf"generation_config.json: .*{next(iter(changes))}.*; .*remove"):
        load_model(model, "float32")


def test_sampling_values_in_the_models_own_configuration_are_saved_or_left_out(
    model: Path, tmp_path: Path
) -> None:
    (model / "generation_config.json").unlink()
    edit(model / "config.json", temperature=0.6, top_p=0.5, of_theirs={"a": 1})
    found = policy(model)
    if preflight.generation_problem(found.model.generation_config):
        found.model.generation_config = preflight.special_tokens_of(found.model.generation_config)
    checkpoint.rehearse(tmp_path / "checkpoints/step_00000", found, ALONE)


def unsaved(*_: Any, **__: Any) -> None:
    raise ValueError("vocabulary has no file")


def object_in_config(found: Any) -> None:
    found.model.config.of_theirs = object()


def unsavable_tokenizer(found: Any) -> None:
    found.tokenizer.save_vocabulary = found.tokenizer._save_pretrained = unsaved


@pytest.mark.parametrize("spoil", [object_in_config, unsavable_tokenizer])
def test_what_cannot_be_saved_is_known_beforehand(model: Path, tmp_path: Path, spoil: Any) -> None:
    found = policy(model)
    spoil(found)
    with pytest.raises(UserError, match=f"checkpoints: no checkpoint of {model} can be written: ."):
        checkpoint.rehearse(tmp_path / "checkpoints/step_00000", found, ALONE)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_known_beforehand(model: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="checkpoints: no checkpoint of"):
        checkpoint.rehearse(tmp_path / "checkpoints/step_00000", policy(model), ALONE)


@pytest.mark.parametrize(("dtype", "moments"), [(torch.float32, 8), (torch.bfloat16, 12)])
def test_a_disk_without_room_for_a_checkpoint_is_known_beforehand(
    model: Path, tmp_path: Path, dtype: torch.dtype, moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte: weights, two moments, and float32 weights behind those of bfloat16."""
    found = policy(model)
    found.model.to(dtype)
    parameters = sum(p.numel() for p in found.model.parameters())
    needed, free = parameters * (dtype.itemsize + moments), 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    free = needed
    checkpoint.rehearse(tmp_path / "checkpoints/step_00000", found, ALONE)
    free = needed - 1
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.rehearse(tmp_path / "checkpoints/step_00000", found, ALONE)
    assert list((tmp_path / "checkpoints").iterdir()) == []


# --- adapters ---


def adapter(model: Path, **lora: Any) -> Any:
    """Write a new adapter into the model's directory and return it."""
    made = with_adapter(load_model(model, "float32"), LoraSettings(**lora), model)
    made.save_pretrained(model / ADAPTER)
    return made


MADE = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    ("changes", "wanted", "there"),
    [
        ({"rank": 8}, "trainer.lora.rank=8", "trainer.lora.rank=4"),
        ({"alpha": 16.0}, "trainer.lora.alpha=16.0", "trainer.lora.alpha=8"),
        ({"targets": "all-linear"}, "targets=all-linear", r"targets=\['q_proj', 'v_proj'\]"),
        ({"targets": ["q_proj"]}, r"targets=\['q_proj'\]", r"targets=\['q_proj', 'v_proj'\]"),
        ({"rank": 2, "alpha": 1.0}, "rank=2, trainer.lora.alpha=1.0", "rank=4, trainer.lora.alpha=8"),
    ],
)
def test_an_adapter_of_other_settings_is_refused_with_both(
    model: Path, changes: dict[str, Any], wanted: str, there: str
) -> None:
    adapter(model, **MADE)
    with pytest.raises(UserError, match=f"{wanted}: the adapter in .*adapter has .*{there}"):
        with_adapter(load_model(model, "float32"), LoraSettings(**MADE | changes), model)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["self_attn.q_proj", "down_proj"]])
def test_an_adapter_of_the_same_settings_goes_on(model: Path, targets: Any) -> None:
    """Whatever names peft has made of them."""
    asked = {**MADE, "targets": targets}
    made = adapter(model, **asked)
    again = with_adapter(load_model(model, "float32"), LoraSettings(**asked), model)
    assert again.state_dict().keys() == made.state_dict().keys()
    if targets == "all-linear":
        plain = load_model(model, "float32")
        every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        found = {"r": 4, "lora_alpha": 8, "target_modules": every}
        check_same_adapter(plain, LoraSettings(**asked), found, model)


def test_a_target_that_is_no_module_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match=r"trainer.lora.targets=.*no linear module named k_pro; name"):
        adapter(model, rank=4, targets=["q_proj", "k_pro"])


@pytest.mark.parametrize("targets", [".*_proj", [], [3], None, 5])
def test_targets_are_names(targets: Any) -> None:
    with pytest.raises(UserError, match=r"trainer.lora.targets=.*: must be all-linear, or a list"):
        LoraSettings(rank=4, targets=targets)


# --- ends ---


def test_a_model_without_an_end_token_is_refused(model: Path) -> None:
    edit(model / "generation_config.json", eos_token_id=None)
    edit(model / "tokenizer_config.json", eos_token=None)
    ends = end_tokens(load_model(model, "float32"), load_tokenizer(model))
    assert ends == []
    with pytest.raises(UserError, match=r"no file names an end token.*eos_token_id in its generation_config"):
        preflight.check_end_tokens(ends, 15, str(model))


def test_an_end_token_that_the_model_has_not_is_none() -> None:
    with pytest.raises(UserError, match=r"x: the end tokens \[50256\] are not among the model's 15 tokens"):
        preflight.check_end_tokens([50256], 15, "x")
    preflight.check_end_tokens([14, 50256], 15, "x")


@pytest.mark.parametrize("value", ["</s>", [1, "x"], 1.5, True])
def test_an_end_token_is_a_number(model: Path, value: Any) -> None:
    edit(model / "generation_config.json", eos_token_id=value)
    with pytest.raises(UserError, match=r"generation_config.json: eos_token_id="):
        end_tokens(load_model(model, "float32"), load_tokenizer(model))


def ending(model: Path, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts special tokens around texts, as Llama's and T5's may, stored and loaded again."""
    tokenizer = character_tokenizer("0123456789+=")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<eos>", 1), ("<unk>", 2)]
    )
    tokenizer.save_pretrained(model)
    loaded: Any = load_tokenizer(model)
    return loaded


@pytest.mark.parametrize(
    ("template", "expected", "said"),
    [
        ("$A <eos>", "1+1=", True),
        ("<unk> $A <eos>", "<unk>1+1=", True),
        ("<eos> $A", "<eos>1+1=", False),
        ("<eos> $A <eos>", "<eos>1+1=", True),
        ("$A", "1+1=", False),
    ],
)
def test_prompts_do_not_end_with_an_end_token(model: Path, template: str, expected: str, said: bool) -> None:
    tokenizer, example = ending(model, template), Example("1", "1+1=", "2")
    assert tokenizer.decode(encode_prompts(tokenizer, [example])[0]) == expected
    problem = preflight.prompt_end_problem(tokenizer, example)
    assert (problem is not None) == said
    assert not said or "prompts go without it" in str(problem)


def test_an_end_token_that_the_prompt_itself_has_stays(model: Path) -> None:
    tokenizer = ending(model, "$A")
    (ids,) = encode_prompts(tokenizer, [Example("1", "1+1=<eos>", "2")])
    assert ids == tokenizer.encode("1+1=<eos>")


def test_a_chat_template_that_ends_prompts_is_told(model: Path) -> None:
    tokenizer, example = character_tokenizer("0123456789+="), Example("1", "1+1=", "2")
    tokenizer.chat_template = "{{ messages[0]['content'] }}<eos>"
    assert "chat template ends prompts" in str(preflight.prompt_end_problem(tokenizer, example))
    tokenizer.chat_template = "{{ messages[0]['content'] }}<eos>="
    assert preflight.prompt_end_problem(tokenizer, example) is None


@pytest.mark.parametrize("template", ["", "1+1=", "{{ messages[1]['content'] if messages[1:] }}"])
def test_a_chat_template_that_leaves_the_prompt_out_is_refused(model: Path, template: str) -> None:
    edit(model / "tokenizer_config.json", chat_template=template)
    examples = [Example("a", "1+1=", "2"), Example("b", " 1+1=", "2"), Example("c", "1+2=", "3")]
    with pytest.raises(UserError, match=r"makes the same \d tokens of the prompts 'a' and 'c'; repair it"):
        preflight.check_tokenizes(load_tokenizer(model), examples)
    edit(model / "tokenizer_config.json", chat_template="+{{ messages[0]['content'] }}")
    preflight.check_tokenizes(load_tokenizer(model), examples)


def test_a_prompt_of_tokens_that_the_model_has_not_is_refused(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["z"])
    known, other = Example("a", "1+1=", "2"), Example("b", "1+1z", "2")
    preflight.check_vocabulary(tokenizer, [known], 15)
    preflight.check_vocabulary(tokenizer, [known, other], 16)
    with pytest.raises(UserError, match=r"prompt 'b' has 'z', token 15, but the model has 15 tokens; give"):
        preflight.check_vocabulary(tokenizer, [known, other], 15)


# --- files ---


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "{}", "added_tokens"),
        ("config.json", "{}", "model_type"),
        ("config.json", '{"model_type": "of_tomorrow"}', "of_tomorrow"),
        ("config.json", '{"model_type": "t5"}', "T5Config"),
    ],
)
def test_files_that_transformers_cannot_use_are_named_with_their_directory(
    model: Path, file: str, content: str, said: str
) -> None:
    (model / file).write_text(content)
    with pytest.raises(UserError, match=rf"model.path={model}: transformers cannot use its files .*{said}"):
        load_tokenizer(model) if file == "tokenizer.json" else model_without_weights(model, "float32")


# --- weights ---


def weights(model: Path, **changes: torch.Tensor | None) -> None:
    file = model / "model.safetensors"
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    stored = {**load_file(file), **changed}
    save_file({k: v for k, v in stored.items() if v is not None}, file, metadata={"format": "pt"})


def test_weights_that_are_not_there_are_not_random(model: Path) -> None:
    weights(model, model__norm__weight=None, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(
        UserError, match=r"2 weights of Qwen3ForCausalLM would be random .*up_proj.*: missing"
    ):
        load_model(model, "float32")


@pytest.mark.parametrize("change", [{"vocab_size": 20}, {"tie_word_embeddings": False}], ids=str)
def test_weights_of_another_configuration_are_not_random(model: Path, change: dict[str, Any]) -> None:
    edit(model / "config.json", **change)
    said = (
        r"embed_tokens.weight: \[15, 16\], not \[20, 16\]" if "vocab_size" in change else "lm_head.*missing"
    )
    with pytest.raises(UserError, match=f"weights of Qwen3ForCausalLM would be random .*{said}"):
        load_model(model, "float32")


def test_weights_that_are_no_numbers_are_told(model: Path) -> None:
    weights(model, model__norm__weight=torch.full((16,), NAN))
    loaded = load_model(model, "float32")
    with pytest.raises(UserError, match="its log-probs are no numbers"):
        check_logprobs(LogprobModel(loaded), plain_logprobs(loaded))


# --- lengths ---


def check(model: Path, prompts: Sequence[str], longest: int) -> str | None:
    examples = [Example(str(i), prompt, "") for i, prompt in enumerate(prompts)]
    context = preflight.context_of(AutoConfig.from_pretrained(model))
    return preflight.check_prompts(load_tokenizer(model), examples, longest, context)


def test_prompts_have_to_fit_into_the_context(model: Path) -> None:
    assert check(model, ["1" * 63], 1) is None
    with pytest.raises(
        UserError, match=r"64 tokens \(max_position_embeddings\), but prompt '1' has 64; 1 of 2"
    ):
        check(model, ["1" * 63, "1" * 64], 1)
    with pytest.raises(UserError, match="prompt '2' has 80; 2 of 3 prompts leave no room"):
        check(model, ["1", "1" * 64, "1" * 80], 8)
    with pytest.raises(UserError, match="has no examples"):
        check(model, [], 8)


def test_completions_that_would_leave_the_context_are_told(model: Path) -> None:
    assert check(model, ["1+1=", "1" * 40], 24) is None
    said = check(model, ["1+1=", "1" * 41], 24)
    assert said is not None
    assert "64 tokens" in said
    assert (
        "up to 41 and completions of 24 (max_completion_length, trainer.validation_max_tokens) need 65"
        in said
    )
    assert "need 1025" in str(check(model, ["1"], 1024))


def test_what_an_engine_cannot_hold_is_refused_before_it_comes(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    examples = [Example("a", "1" * 10, ""), Example("b", "1" * 11, "")]
    preflight.check_engine(tokenizer, examples, 20, 31)
    preflight.check_engine(tokenizer, examples, 1000, None)
    with pytest.raises(UserError, match=r"holds 30 tokens, but prompt 'b' of 11 .* of 20 need 31; .* 1 of 2"):
        preflight.check_engine(tokenizer, examples, 20, 30)


def test_a_chat_templates_tokens_count(model: Path) -> None:
    edit(model / "tokenizer_config.json", chat_template="++++{{ messages[0]['content'] }}====")
    assert check(model, ["1" * 32], 24) is None
    assert "need 65" in str(check(model, ["1" * 33], 24))
    with pytest.raises(UserError, match="has 64"):
        check(model, ["1" * 56], 1)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "linear", "factor": 2.0}, 128),
        ({"rope_type": "default"}, 64),
    ],
)
def test_stretched_positions_reach_further(model: Path, rope: dict[str, Any], expected: int) -> None:
    edit(model / "config.json", rope_parameters={**rope, "rope_theta": 10000.0})
    assert preflight.context_of(AutoConfig.from_pretrained(model)) == expected


# --- rewards ---


class Odd:
    """A task from outside whose reward is what it is told to be."""

    metric = "right"

    def __init__(self, given: Any) -> None:
        self.given = given

    def reward(self, _example: Example, _completion: str) -> Any:
        return self.given


class OddBatches(Odd):
    def rewards(self, _examples: Sequence[Example], _completions: Sequence[str]) -> Any:
        return self.given


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "value", [NAN, INFINITY, -INFINITY, 1e39, None, "1.0", [1.0], 1j, torch.tensor(NAN)], ids=str
)
@pytest.mark.parametrize("place", ["value", "metric", "part"])
def test_a_reward_that_is_no_finite_number_is_refused(value: Any, place: str) -> None:
    parts = {"right": value if place == "metric" else 0.5, "form": value if place == "part" else 0.5}
    given = Reward(value if place == "value" else 0.5, parts)
    name = {"value": "value", "metric": "right", "part": "form"}[place]
    with pytest.raises(
        UserError, match=rf"task Odd: gave .* as {name} of a Reward.*example 'first'; correct"
    ):
        preflight.check_rewards(Odd(given), Example("first", "", ""))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, 1.0, (1.0, {}), {"value": 1.0}])
def test_what_is_no_reward_is_refused(given: Any) -> None:
    with pytest.raises(UserError, match="and not a Reward for example 'first'"):
        preflight.check_rewards(Odd(given), Example("first", "", ""))  # type: ignore[arg-type]


def test_a_reward_without_the_metric_and_a_missing_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"without its metric 'right', but .'form'., for example 'first'"):
        preflight.check_rewards(Odd(Reward(1.0, {"form": 1.0})), Example("first", "", ""))  # type: ignore[arg-type]
    good = Reward(1.0, {"right": 1.0})
    for given in ([], [good, good]):
        with pytest.raises(UserError, match=f"gave {len(given)} rewards for 1 completions"):
            preflight.check_rewards(OddBatches(given), Example("first", "", ""))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "one", [1, True, np.float32(1), np.bool_(True), np.int64(1), Fraction(1), torch.tensor(1.0)], ids=repr
)
def test_every_kind_of_number_counts(one: Any) -> None:
    (found,) = rewards_of(Odd(Reward(one, {"right": one})), [Example("1", "", "")], [""])  # type: ignore[arg-type]
    assert found == Reward(1.0, {"right": 1.0})
    assert type(found.value) is type(found.parts["right"]) is float
