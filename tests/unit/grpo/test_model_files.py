"""Model directories of strangers: they run no code, and nothing outside of them is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, INDEX, WEIGHTS, check_model
from llmzero.grpo.policy import ADAPTER, encode_prompts, load_model, load_tokenizer, with_adapter
from llmzero.grpo.settings import LoraSettings
from llmzero.tasks.base import Example
from tests.tiny_model import write_tiny_model

CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
MAP = {
    "AutoConfig": "theirs.Config",
    "AutoModelForCausalLM": "theirs.Model",
    "AutoTokenizer": ["theirs.Tokenizer", None],
}
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand numbers with its tokenizer."""
    directory = tmp_path_factory.mktemp("model") / "whole"
    write_tiny_model(directory, vocab_size=32)
    return directory


@pytest.fixture
def model(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be spoilt, beside a file of somebody else. Whoever asks at the terminal fails."""
    shutil.copytree(whole, tmp_path / "model")
    save_file({"secret": torch.ones(3)}, tmp_path / "secret.safetensors")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    return tmp_path / "model"


def load(directory: Path) -> None:
    load_model(directory, "float32")
    load_tokenizer(directory)


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **values}))


def indexed(directory: Path, *names: str) -> None:
    """Divide the weights over files with these names, as an index says."""
    weights = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    keys = sorted(weights)
    for number, name in enumerate(names):
        part = {key: weights[key] for key in keys[number :: len(names)]}
        if Path(name).name == name and name.endswith(".safetensors"):
            save_file(part, directory / name)
    index = {key: names[number % len(names)] for number, key in enumerate(keys)}
    edit(directory / INDEX, metadata={"total_size": 1}, weight_map=index)


def test_a_whole_directory_is_loaded(model: Path) -> None:
    load(model)
    before = {name: value.clone() for name, value in load_model(model, "float32").state_dict().items()}
    indexed(model, "a.safetensors", "b.safetensors")
    after = load_model(model, "float32").state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("file", [CONFIG, "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("place", ["top", "nested"])
def test_code_in_a_directory_is_never_run(model: Path, file: str, place: str) -> None:
    (model / "theirs.py").write_text(CODE)
    edit(model / file, **({"auto_map": MAP} if place == "top" else {"text_config": [{"auto_map": MAP}]}))
    with pytest.raises(UserError, match=rf"{file}: auto_map names Python code, which is never run; .*remove"):
        load_model(model, "float32")
    with pytest.raises(UserError, match=rf"{file}: auto_map"):
        load_tokenizer(model)
    assert not (model / "ran").exists()


def test_a_model_of_an_unknown_kind_is_refused(model: Path) -> None:
    (model / "theirs.py").write_text(CODE)
    edit(model / CONFIG, model_type="theirs", architectures=["Theirs"])
    with pytest.raises(UserError, match=r"transformers cannot use its files .*theirs"):
        load_model(model, "float32")
    assert not (model / "ran").exists()


def test_kernels_of_the_hub_are_refused(model: Path) -> None:
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        edit(model / CONFIG, **{key: "somebody/kernel@main:run"})
        with pytest.raises(UserError, match=rf"{CONFIG}: {key} is 'somebody/kernel"):
            load(model)
        edit(model / CONFIG, **{key: "eager"})


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/hostname", "sub/../../secret.safetensors", "..", "weights.bin", ""],
)
def test_an_index_names_no_file_outside(model: Path, name: str) -> None:
    indexed(model, "a.safetensors", name)
    with pytest.raises(UserError, match=rf"{INDEX}: weight_map names '{name}'"):
        load(model)


def test_an_absolute_path_in_an_index_is_refused(model: Path, tmp_path: Path) -> None:
    indexed(model, "a.safetensors", str(tmp_path / "secret.safetensors"))
    with pytest.raises(UserError, match=rf"{INDEX}: weight_map names '/"):
        load(model)


@pytest.mark.parametrize("value", [None, [], {}, {"w": 3}, {"w": ["a"]}, "a.safetensors"])
def test_an_index_without_names_is_refused(model: Path, value: Any) -> None:
    (model / WEIGHTS).unlink()
    edit(model / INDEX, weight_map=value)
    with pytest.raises(DamagedFileError, match=rf"{INDEX}.*weight_map"):
        load(model)


@pytest.mark.parametrize(
    "name", [WEIGHTS, "a.safetensors", CONFIG, "tokenizer.json", "tokenizer_config.json"]
)
def test_a_link_that_leaves_the_directory_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    if name == "a.safetensors":
        indexed(model, "a.safetensors", "b.safetensors")
    shutil.move(model / name, tmp_path / "elsewhere")
    (model / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{name}: links to .*elsewhere, outside of its directory"):
        load_model(model, "float32")
    with pytest.raises(UserError, match=rf"{name}: links to"):
        load_tokenizer(model)


def test_links_within_a_directory_and_within_the_cache_of_the_hub_are_followed(
    model: Path, tmp_path: Path
) -> None:
    (model / WEIGHTS).rename(model / "real.safetensors")
    (model / WEIGHTS).symlink_to("real.safetensors")
    load(model)
    snapshot, blobs = tmp_path / "models--x/snapshots/abc", tmp_path / "models--x/blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(model, snapshot)
    for number, file in enumerate(snapshot.iterdir()):
        os.replace(file, blobs / str(number))
        file.symlink_to(f"../../blobs/{number}")
    load(snapshot)
    (tmp_path / "by another name").symlink_to(model)
    load(tmp_path / "by another name")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "x.ckpt"])
def test_pickled_weights_are_not_loaded(model: Path, tmp_path: Path, name: str) -> None:
    weights = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    torch.save(weights, model / name)
    if name == "pytorch_model.bin":
        (model / name).write_bytes(b"cpathlib\nPath\n(S'ran'\ntRctouch\n.")
    with pytest.raises(UserError, match=rf"{name}: pickled weights can run code.*safetensors"):
        load(model)


def test_a_directory_without_weights_and_an_adapter_are_no_model(model: Path) -> None:
    (model / ADAPTER_CONFIG).write_text('{"base_model_name_or_path": "somebody/model"}')
    with pytest.raises(UserError, match=rf"{ADAPTER_CONFIG}: this is an adapter"):
        load(model)
    (model / ADAPTER_CONFIG).unlink()
    (model / WEIGHTS).unlink()
    with pytest.raises(UserError, match=rf"has neither {WEIGHTS} nor {INDEX}"):
        load(model)


@pytest.mark.parametrize("value", ["../secret.safetensors", "adapter_model.bin", "/etc/hostname", 3])
def test_a_configuration_names_no_weights_elsewhere(model: Path, value: Any) -> None:
    edit(model / CONFIG, transformers_weights=value)
    with pytest.raises(UserError, match=rf"{CONFIG}: transformers_weights"):
        load(model)


def test_a_truncated_weight_file_names_itself(model: Path) -> None:
    indexed(model, "a.safetensors", "b.safetensors")
    content = (model / "b.safetensors").read_bytes()
    deep = b"[" * 100_000
    for kept in (
        b"",
        content[:5],
        content[:100],
        content[:-1],
        content + b"\0",
        bytes(len(content)),
        b"x" * 200,
    ):
        (model / "b.safetensors").write_bytes(kept)
        with pytest.raises(DamagedFileError, match=r"b\.safetensors: cannot be read"):
            load(model)
    (model / "b.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(DamagedFileError, match=r"b\.safetensors"):
        load(model)
    (model / "b.safetensors").unlink()
    with pytest.raises(DamagedFileError, match=r"b\.safetensors"):
        load(model)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "[" * 100_000, '{"a":' * 1000, "\0" * 100])
@pytest.mark.parametrize("name", [CONFIG, "tokenizer_config.json", INDEX])
def test_a_configuration_that_is_none_is_refused(model: Path, name: str, text: str) -> None:
    if name == INDEX:
        (model / WEIGHTS).unlink()
    (model / name).write_text(text)
    with pytest.raises(DamagedFileError, match=name):
        load(model)


# --- adapters ---


@pytest.fixture
def start(model: Path) -> Path:
    """A checkpoint with an adapter, as this program writes them."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load_model(model, "float32"), config).save_pretrained(model / ADAPTER)
    return model


def adapted(start: Path) -> Any:
    lora = LoraSettings(rank=2, alpha=4, targets=["q_proj"])
    return with_adapter(load_model(start, "float32"), lora, start)


def test_an_adapter_is_loaded_with_its_values(start: Path) -> None:
    weights = load_file(start / ADAPTER / ADAPTER_WEIGHTS)
    save_file({name: value + 1 for name, value in weights.items()}, start / ADAPTER / ADAPTER_WEIGHTS)
    model = adapted(start)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2
    assert all(
        torch.equal(value, weights[name.replace(".default", "")] + 1) for name, value in trained.items()
    )
    assert model.peft_config["default"].lora_alpha == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_mapping", {"base_model_class": "Path", "parent_library": "pathlib"}),
        ("megatron_config", {"a": 1}),
        ("megatron_core", "antigravity"),
        ("peft_type", "XLORA"),
        ("target_modules", "(a+)+b"),
        ("target_modules", ["(a+)+b"]),
        ("target_modules", []),
        ("rank_pattern", {"(a+)+b": 3}),
        ("exclude_modules", "(a+)+b"),
        ("r", 10**9),
        ("r", "2"),
        ("lora_alpha", -1),
        ("layer_replication", [[0, 10**9]]),
        ("init_lora_weights", "pissa_niter_99999999"),
        ("modules_to_save", ["lm_head"]),
        ("something_new", "theirs.py"),
    ],
)
def test_adapters_are_what_this_program_writes(start: Path, key: str, value: Any) -> None:
    edit(start / ADAPTER / ADAPTER_CONFIG, **{key: value})
    with pytest.raises(UserError, match=rf"{ADAPTER_CONFIG}: .*{key}"):
        adapted(start)


def test_the_model_that_an_adapter_names_is_not_looked_for(start: Path) -> None:
    edit(start / ADAPTER / ADAPTER_CONFIG, base_model_name_or_path="/etc/somebody", revision="theirs")
    assert adapted(start).peft_config["default"].base_model_name_or_path != "/etc/somebody"


def test_adapters_have_safetensors_of_their_own(start: Path, tmp_path: Path) -> None:
    file = start / ADAPTER / ADAPTER_WEIGHTS
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{ADAPTER_WEIGHTS}: links to"):
        adapted(start)
    file.unlink()
    torch.save({}, start / ADAPTER / "adapter_model.bin")
    with pytest.raises(UserError, match=rf"has no {ADAPTER_WEIGHTS}"):
        adapted(start)


# --- chat templates ---


@pytest.mark.parametrize(
    "source",
    ["{{ cycler.__init__.__globals__.os.system('touch ran') }}", "{% for i in range(10**9) %}{% endfor %}"],
)
def test_chat_templates_are_rendered_in_a_sandbox(
    model: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(model)
    (model / "chat_template.jinja").write_text(source)
    with pytest.raises(UserError, match=r"chat template of .* cannot be rendered"):
        encode_prompts(load_tokenizer(model), [Example("1", "1+1=", "2")])
    assert not (model / "ran").exists()


def test_a_name_of_the_hub_is_no_directory() -> None:
    check_model("somebody/model")
