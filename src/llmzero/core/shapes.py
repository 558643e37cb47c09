"""Shapes of plain data: what a value that was read from a file has to be, at any depth."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

# A type; alternatives, those with parts last; `[shape]`, a list of such; `{str: shape}`, an object of such
# values; or an object's fields by name, where a name that ends in `?` may be missing.
Shape = type | tuple[Any, ...] | list[Any] | dict[Any, Any]

NOTHING = type(None)
NUMBER: Shape = (int, float)
SCALAR: Shape = (int, float, bool, NOTHING, str)  # of a hyperparameter
NUMBER_OR_NOTHING: Shape = (int, float, NOTHING)


def require(value: Any, shape: Shape, where: str = "") -> None:
    """Check a value; `bool` is no `int` here, and a number must be finite.

    Args:
        value: plain data.
        shape: what it has to be.
        where: names the value in the message.

    Raises:
        ValueError: it is something else, or a part of it is; the message names the first such.
    """
    if not _fits(value, shape):
        raise ValueError(next(_problems(value, shape, where)))


def _fits(value: Any, shape: Any) -> bool:
    """Return whether `_problems` finds none; logs of many thousand events are read by this."""
    kind, own = type(shape), type(value)
    if kind is tuple:
        if own in shape:
            return (own is not float or value - value == 0) and not _is_beyond(value, shape)
        return any(type(each) in (dict, list, tuple) and _fits(value, each) for each in shape)
    if kind is list:
        return isinstance(value, list | tuple) and all(_fits(item, shape[0]) for item in value)
    if kind is dict:
        if own is not dict:
            return False
        if str in shape:
            inner = shape[str]
            return all(_fits(item, inner) for item in value.values())
        return all(
            _fits(value[key], inner) if (key := name.rstrip("?")) in value else key != name
            for name, inner in shape.items()
        )
    return own is shape and (own is not float or value - value == 0)


def _problems(value: Any, shape: Shape, where: str) -> Iterator[str]:
    if isinstance(shape, tuple) and all(isinstance(each, type) for each in shape):
        yield from _problem_of_type(value, shape, where)
    elif isinstance(shape, tuple):
        found = [next(_problems(value, each, where), None) for each in shape]
        if None not in found:
            yield str(found[-1])
    elif isinstance(shape, list) and isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _problems(item, shape[0], f"{where}[{number}]")
    elif isinstance(shape, Mapping) and isinstance(value, dict):
        yield from _problems_of_fields(value, shape, where)
    else:
        kind = list if isinstance(shape, list) else shape if isinstance(shape, type) else object
        yield from _problem_of_type(value, (kind,), where)


def _problem_of_type(value: Any, kinds: tuple[type, ...], where: str) -> Iterator[str]:
    if type(value) not in kinds:
        wanted = " or ".join("null" if each is NOTHING else each.__name__ for each in kinds)
        yield f"{where or 'it'}={str(value)[:100]}: must be of type {wanted}"
    elif type(value) is float and value - value != 0:
        yield f"{where or 'it'}={value}: must be a finite number"
    elif _is_beyond(value, kinds):
        yield f"{where or 'it'}={value!s:.20}...: must be a number up to 1e308"


def _is_beyond(value: Any, kinds: tuple[Any, ...]) -> bool:
    """Return whether it is an integer where a `float` may stand, and none can hold it."""
    return type(value) is int and float in kinds and not -sys.float_info.max <= value <= sys.float_info.max


def _problems_of_fields(value: dict[str, Any], shape: Mapping[Any, Any], where: str) -> Iterator[str]:
    dot = f"{where}." if where else ""
    if str in shape:
        for name, item in value.items():
            yield from _problems(item, shape[str], f"{dot}{name}")
        return
    for name, inner in shape.items():
        key = name.removesuffix("?")
        if key in value:
            yield from _problems(value[key], inner, f"{dot}{key}")
        elif key == name:
            within = f".{next(iter(inner))}" if isinstance(inner, Mapping) else ""
            yield f"{dot}{name}{within}: missing"
