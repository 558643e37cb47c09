"""Makes the part that a config group names by `_target_`: any importable class or function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache, partial
from typing import Any, get_args

from hydra.utils import get_object

from llmzero.core.errors import UserError
from llmzero.core.settings import read


def make(group: Mapping[str, Any], where: str, **offered: Any) -> Any:
    """Return the part that a group describes.

    A constructor with a parameter `settings` that is annotated with a dataclass gets the group's keys as an
    object of that class, with types and bounds checked. Any other gets the keys as keyword arguments; of keys
    that are also in `offered` only those that it has parameters for. Values are given as they are: nothing in
    them is interpolated or made in turn, as they may come from a file or a reply.

    Args:
        group: its keys; `_target_` names the class or function.
        where: the group's name, for messages.
        offered: what else there is to give; a constructor gets those that it has parameters for.

    Raises:
        UserError: there is no such target, it cannot be made of the group's keys, or a setting is wrong.
    """
    if not isinstance(group, Mapping) or not group.get("_target_"):
        raise UserError(f"{where}: needs a `_target_`, the import path of a class or function")
    target = _target(where, str(group["_target_"]))
    signature = inspect.signature(target)
    parameters = signature.parameters
    context = {name: value for name, value in offered.items() if name in parameters and name not in group}
    kind = settings_type(target)
    if kind is not None:
        return target(read(kind, group, where), **context)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    values = {
        key: deepcopy(value)
        for key, value in group.items()
        if not str(key).startswith("_") and (takes_any or key in parameters or key not in offered)
    }
    try:
        signature.bind(**values, **context)
    except TypeError as error:
        raise UserError(f"{where}: {error}; {group['_target_']} takes {signature}") from error
    return target(**values, **context)


def about(group: Mapping[str, Any]) -> str:
    """Return what a part says of itself in words, for agents; empty where it says nothing.

    That is `about` of its settings, or where these have none of the class or function itself. The part is not
    made, but its module is imported.
    """
    if not group.get("_target_"):
        return ""
    try:
        target = _target("", str(group["_target_"]))
        kind = settings_type(target)
        described = read(kind, group, "") if kind is not None else target
    except UserError:  # whoever makes the part says what is wrong
        return ""
    text = getattr(described, "about", None) or getattr(target, "about", None)
    return text if isinstance(text, str) else ""


def settings_type(target: Callable[..., Any]) -> type[Any] | None:
    """Return the dataclass that annotates a constructor's parameter `settings`; None where there is none."""
    parameter = inspect.signature(target).parameters.get("settings")
    annotation = parameter.annotation if parameter else None
    if isinstance(annotation, str):
        annotation = _evaluated(annotation, target)
    kinds = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    return next((kind for kind in kinds if is_dataclass(kind)), None)


def _evaluated(annotation: str, target: Any) -> Any:
    """Return what an annotation of a constructor means, in the module that the constructor stands in."""
    while isinstance(target, partial):
        target = target.func
    makers = (target.__init__, target.__new__) if isinstance(target, type) else (target,)  # type: ignore[misc]
    scope = next((maker.__globals__ for maker in makers if hasattr(maker, "__globals__")), {})
    return eval(annotation, dict(scope))


@cache
def _target(where: str, path: str) -> Any:
    try:
        target = get_object(path)
    except Exception as error:  # whatever the import of somebody's module raises
        raise UserError(f"{where}._target_={path}: cannot be imported: {error.__cause__ or error}") from error
    if not callable(target):
        raise UserError(f"{where}._target_={path}: is no class or function")
    try:
        inspect.signature(target)
    except ValueError as error:  # of some that are written in C
        raise UserError(f"{where}._target_={path}: its parameters are not known") from error
    if missing := getattr(target, "__abstractmethods__", None):
        raise UserError(f"{where}._target_={path}: lacks {', '.join(sorted(missing))}")
    return target
