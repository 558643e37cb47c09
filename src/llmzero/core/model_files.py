"""Model directories of others: what they may hold to be loaded. They are data: they name no code and no file
outside of themselves.

Every loader of weights, configurations and tokenizers has a directory checked here first. Nothing here needs
torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import read_json

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIGS = (CONFIG, "generation_config.json", "tokenizer_config.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
READ = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # what loaders read
# Of an adapter's configuration; all else has to be unset or LoRA's default.
ADAPTER_FIELDS = ("r", "lora_alpha", "target_modules")
_MAX_HEADER = 2**27  # bytes; safetensors takes no longer one


def check_model(path: str | Path) -> None:
    """Check a model's directory before anything of it is loaded; what is no directory is a name of the hub.

    Raises:
        UserError: it is neither, names code or files outside, or holds no weights but pickled ones.
        DamagedFileError: a file of it is truncated, or is not what its name says.
    """
    directory = Path(path)
    if not directory.is_dir():
        if not _HUB_ID.fullmatch(str(path)):
            raise UserError(
                f"model.path={path}: is no directory, and no name of the hub such as Qwen/Qwen3-0.6B; give "
                "a directory that save_pretrained wrote, or such a name"
            )
        return
    if (directory / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{directory / ADAPTER_CONFIG}: this is an adapter, which would load the model that it names "
            "from elsewhere; merge it into that model first"
        )
    check_tokenizer(directory)
    for file in weight_files(directory):
        check_weights(file)


def check_tokenizer(path: str | Path) -> None:
    """Check the configurations and links of a directory before its tokenizer is loaded.

    Raises:
        UserError: one names code, or files outside.
        DamagedFileError: one is no JSON object.
    """
    directory = Path(path)
    if not directory.is_dir():
        return
    check_links(directory)
    for file in (directory / name for name in CONFIGS):
        for key, value in _settings(_object(file) if file.exists() else {}):
            if problem := _problem(key, value):
                raise UserError(f"{file}: {key} {problem}")


def check_links(directory: Path) -> None:
    """Check that no file that a loader reads is a link that leaves the directory.

    Raises:
        UserError: one is. The hub's cache, which keeps its files elsewhere, may.
    """
    for file in (file for pattern in READ for file in directory.glob(pattern)):
        if not _inside(file, directory):
            raise UserError(
                f"{file}: links to {file.resolve()}, outside of its directory; put a copy of that file here"
            )


def weight_files(directory: Path) -> list[Path]:
    """Return the weights of a model directory: one file, or those that its index names.

    Raises:
        UserError: the index names files outside or of another kind, or there are no weights but pickled ones.
        DamagedFileError: the index is none.
    """
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if index.exists():
        return [directory / name for name in indexed(index, directory)]
    pickled = [file.name for pattern in PICKLED for file in sorted(directory.glob(pattern))]
    if pickled:
        raise UserError(
            f"{directory}: has no {WEIGHTS}, but {pickled[0]}: pickled weights can run code, and are not "
            "loaded; have whoever made them save them with save_pretrained, which writes safetensors"
        )
    raise UserError(f"{directory}: has neither {WEIGHTS} nor {INDEX}; name a directory that holds a model")


def indexed(index: Path, directory: Path | None = None) -> list[str]:
    """Return the names of the files that an index of weights names.

    Args:
        index: the file.
        directory: in which they have to lie; None for one of the hub, whose names are checked alone.

    Raises:
        UserError: a name leads outside of its directory, or is of another kind.
        DamagedFileError: the file is no index.
    """
    names = _object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(each, str) for each in names.values()):
        raise DamagedFileError(index, "weight_map must map names of weights to files", _REMEDY)
    for name in sorted(set(names.values())):
        plain = Path(name).name == name and name.endswith(".safetensors")
        if not plain or (directory is not None and not _inside(directory / name, directory)):
            raise UserError(
                f"{index}: weight_map names {name!r}; it may name safetensors files beside it alone"
            )
    return sorted(set(names.values()))


def check_weights(file: Path) -> None:
    """Check that a safetensors file is as long as its header says.

    Raises:
        DamagedFileError: it is not there, or truncated, or none.
    """
    if file.exists() and not file.is_file():
        raise DamagedFileError(file, "it is no regular file", _REMEDY)
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 0 < length <= _MAX_HEADER else {}
        ends = [part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
        size = file.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise DamagedFileError(file, f"no safetensors: {error}", _REMEDY) from error
    if not header or size != wanted:
        raise DamagedFileError(file, f"has {size} bytes, but its header speaks of {wanted}", _REMEDY)


def check_adapter(directory: Path) -> dict[str, Any]:
    """Return the fields of a LoRA adapter's configuration that make it, all others being as this program
    writes them.

    Raises:
        UserError: it has others, which may name code or files, or no weights but pickled ones.
        DamagedFileError: a file of it is truncated, or is not what its name says.
    """
    check_links(directory)
    file, weights = directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS
    if not weights.exists():
        raise UserError(f"{directory}: has no {ADAPTER_WEIGHTS}; other weights of adapters are not loaded")
    check_weights(weights)
    config = _object(file)
    r, alpha, targets = (config.get(name) for name in ADAPTER_FIELDS)
    whole = isinstance(r, int) and not isinstance(r, bool) and 0 < r <= 2**16
    named = isinstance(targets, list) and targets and all(map(_is_name, targets))
    if not (whole and isinstance(alpha, int | float) and alpha > 0 and named):
        raise UserError(
            f"{file}: r and lora_alpha must be positive numbers, target_modules a list of names; "
            f"they are {r!r}, {alpha!r} and {targets!r}"[:500]
        )
    for key, value in config.items():
        # Sizes of what is switched off are numbers; versions of peft differ in them.
        if key not in _FREE and value and value != _PLAIN.get(key) and type(value) is not int:
            raise UserError(f"{file}: {key} is set, which adapters of this program have not; {_REMEDY}")
    return {name: config[name] for name in ADAPTER_FIELDS}


_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_REMEDY = "copy the directory anew from where it comes"
_FREE = (*ADAPTER_FIELDS, "base_model_name_or_path", "inference_mode", "peft_version", "revision")  # not used
_PLAIN = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
}


def _object(file: Path) -> dict[str, Any]:
    found = read_json(file)
    if found is None:
        raise DamagedFileError(file, "is not there", _REMEDY)
    return found


def _settings(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a configuration at any depth, each with its key."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name), part
            yield from _settings(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _settings(part, key)


def _problem(key: str, value: Any) -> str | None:
    """Return why a configuration may not have a value; None where it may."""
    if key in ("auto_map", "custom_generate", "custom_pipelines") and value:
        return (
            "names Python code, which is never run; where transformers knows the model_type itself, remove "
            "this key, else choose another model"
        )
    parts = (
        list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    )
    if "_implementation" in key and any(isinstance(each, str) and "/" in each for each in parts):
        return f"is {value!r}, code of the hub, which is never run; remove this key"
    if key in ("transformers_weights", "fast_tokenizer_files") and not all(map(_is_beside, parts)):
        return f"is {value!r}: must name files beside this one; remove this key"
    return None


def _is_beside(value: Any) -> bool:
    """Return whether a value is the name of a file without a folder, and of one that is no pickle."""
    return value is None or (
        isinstance(value, str) and Path(value).name == value and value.endswith((".safetensors", ".json"))
    )


def _inside(file: Path, directory: Path) -> bool:
    """Return whether a file lies in a directory when all links are followed; or in the hub's cache of it."""
    real, home = file.resolve(), directory.resolve()
    cache = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return real.is_relative_to(home) or real.is_relative_to(cache)


def _is_name(value: Any) -> bool:
    """Return whether a value names modules, and is no pattern."""
    return isinstance(value, str) and value.replace("_", "").replace(".", "").isalnum()
