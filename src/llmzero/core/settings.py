"""Settings: each is a dataclass field that says its default, what is allowed, and what it is for, once.

Hydra composes them, `--help` and error messages read them, and the parts that they configure are made with
them.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import dacite

from llmzero.core.errors import UserError

REQUIRED: Any = "???"  # as OmegaConf marks a value that has to be given

S = TypeVar("S")


def setting(
    default: Any,
    explanation: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Return a dataclass field with what is to be said of a setting.

    Args:
        default: its default; a list, a dict or a settings class is made anew for every object. `REQUIRED`
            where there is none.
        explanation: what it is for, as `--help` prints it.
        low: the lowest value allowed, if there is one. None passes all bounds.
        high: the highest value allowed.
        choices: the values allowed, where they can be listed.
    """
    metadata = {"explanation": explanation, "low": low, "high": high, "choices": tuple(choices)}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def read(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Return the settings that a mapping of plain values describes.

    Keys with a leading underscore are Hydra's own and are passed over.

    Args:
        kind: their dataclass.
        values: plain data, such as a resolved configuration or a file's.
        where: the group that the values belong to, for messages; empty at the top of a configuration.

    Raises:
        UserError: a key is unknown, or a value is missing, of another type or not allowed.
    """
    own = {key: value for key, value in values.items() if not str(key).startswith("_")}
    if unknown := _unknown_keys(kind, own, where):
        raise UserError("\n".join(unknown))
    try:
        settings = dacite.from_dict(kind, own, dacite.Config(strict=True))
    except dacite.UnexpectedDataError as error:
        raise UserError(f"{_joined(where, ', '.join(sorted(error.keys)))}: unknown key") from error
    except dacite.MissingValueError as error:
        raise UserError(f"{_joined(where, error.field_path)}: needs a value") from error
    except dacite.WrongTypeError as error:
        wanted = str(getattr(error.field_type, "__name__", error.field_type)).replace(" | None", " or null")
        raise UserError(
            f"{_joined(where, error.field_path)}={error.value!r}: must be of type {wanted}"
        ) from error
    if forbidden := problems(settings, where):
        raise UserError("\n".join(forbidden))
    return settings


def problems(settings: Any, where: str) -> list[str]:
    """Return every value of a settings object that is not allowed, those of nested settings too."""
    messages: list[str] = []
    for each in fields(settings):
        key, value = _joined(where, each.name), getattr(settings, each.name)
        if is_dataclass(value):
            messages += problems(value, key)
        elif isinstance(value, dict):
            messages += [
                text
                for name, part in value.items()
                if is_dataclass(part)
                for text in problems(part, f"{key}.{name}")
            ]
        elif text := _problem(value, each):
            messages.append(f"{key}{text}")
    return messages


def allowed(each: Field[Any]) -> str:
    """Return the allowed values in words: `from 0 to 1`, `one of max, mean`; empty where all are allowed."""
    low, high, choices = (each.metadata.get(name) for name in ("low", "high", "choices"))
    if choices:
        return f"one of {', '.join(sorted(choices))}"
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def path_argument(text: str) -> Path:
    """Return the path that a command was given, for `argparse`.

    Raises:
        ArgumentTypeError: it is empty, as an unset variable of a shell is, and would mean this directory.
    """
    if not text.strip():
        raise ArgumentTypeError("needs a path, and was given an empty text")
    return Path(text)


def explained(kind: type[Any]) -> Iterator[tuple[str, Field[Any]]]:
    """Yield every setting of a dataclass by its dotted key, those of nested settings too."""
    for each in fields(kind):
        nested = each.default_factory
        if nested is not MISSING and is_dataclass(nested):
            yield from ((f"{each.name}.{key}", inner) for key, inner in explained(nested))
        else:
            yield each.name, each


def _unknown_keys(kind: type[Any], values: Mapping[str, Any], where: str) -> list[str]:
    """Return a message for every key that a settings class, or one nested in it, does not have."""
    nested = {each.name: each.default_factory for each in fields(kind)}
    unknown = ", ".join(sorted(str(key) for key in values if key not in nested))
    messages = (
        [f"{_joined(where, unknown)}: unknown key; known there: {', '.join(nested)}"] if unknown else []
    )
    for key, value in values.items():
        if is_dataclass(inner := nested.get(key)) and isinstance(value, Mapping):
            messages += _unknown_keys(inner, value, _joined(where, key))
    return messages


def _problem(value: Any, each: Field[Any]) -> str | None:
    """Return what is wrong with a value, as what follows its key; None where nothing is."""
    low, high, choices = (each.metadata.get(name) for name in ("low", "high", "choices"))
    # Nothing is what an unset variable of a shell gives; where it were a path it would be this directory.
    if isinstance(value, str) and (value == REQUIRED or (each.default != "" and not value.strip())):
        return f": needs a value, e.g. {each.name}=..." + (", or null" if each.default is None else "")
    if value is None or not (choices or isinstance(value, int | float)):
        return None
    if choices:
        right = value in choices
    elif isinstance(value, float) and math.isnan(value):
        return "=nan: must be a number" + (f", {allowed(each)}" if allowed(each) else "")
    else:
        right = (low is None or value >= low) and (high is None or value <= high)
    return None if right else f"={value}: must be {allowed(each)}"


def _joined(where: str, key: str | None) -> str:
    return ".".join(part for part in (where, key) if part)
