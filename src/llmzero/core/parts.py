"""Makes the part that a config group names by `_target_`: any importable class or function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from hydra.utils import get_object, instantiate

from llmzero.core.errors import UserError
from llmzero.core.settings import read


def make(group: Mapping[str, Any], where: str, **offered: Any) -> Any:
    """Return the part that a group describes.

    A constructor with a parameter `settings` that is annotated with a dataclass gets the group's keys as an
    object of that class, with types and bounds checked. Any other gets the keys as keyword arguments; of keys
    that are also in `offered` only those that it has parameters for.

    Args:
        group: its keys; `_target_` names the class or function.
        where: the group's name, for messages.
        offered: what else there is to give; a constructor gets those that it has parameters for.

    Raises:
        UserError: there is no such target, or a setting is wrong.
    """
    target = _target(where, str(group.get("_target_")))
    parameters = inspect.signature(target).parameters
    context = {name: value for name, value in offered.items() if name in parameters and name not in group}
    kind = settings_type(target)
    if kind is not None:
        return target(read(kind, group, where), **context)
    values = {key: value for key, value in group.items() if key in parameters or key not in offered}
    return instantiate(values, _partial_=True, _convert_="all")(**context)


def settings_type(target: Callable[..., Any]) -> type[Any] | None:
    """Return the dataclass that annotates a constructor's parameter `settings`; None where there is none."""
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    annotation = getattr(function, "__annotations__", {}).get("settings")
    kind = function.__globals__.get(annotation) if isinstance(annotation, str) else annotation
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


@cache
def _target(where: str, path: str) -> Any:
    try:
        return get_object(path)
    except Exception as error:  # whatever the import of somebody's module raises
        raise UserError(f"{where}._target_={path}: cannot be imported: {error.__cause__ or error}") from error
