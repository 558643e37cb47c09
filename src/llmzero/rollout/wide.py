"""Computing in float32 with weights of fewer bits: bfloat16's rounding hides what a check looks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Let a model compute in float32 while the block runs, with the values that its weights have.

    A layer's weights are widened when it is called, and are what they were before when it returns, so this
    takes the memory of one layer.
    """
    narrow: dict[nn.Module, list[tuple[Any, Tensor]]] = {}

    def widen(part: nn.Module, _inputs: Any) -> None:
        narrow[part] = [(each, each.data) for each in part.parameters() if each.dtype != torch.float32]
        for each, value in narrow[part]:
            each.data = value.float()

    def restore(part: nn.Module, _inputs: Any = None, _output: Any = None) -> None:
        for each, value in narrow.pop(part):
            each.data = value

    parts = list(_parts(model))
    hooks = [part.register_forward_pre_hook(widen) for part in parts]
    hooks += [part.register_forward_hook(restore) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in list(narrow):  # of a pass that has failed
            restore(part)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a model, and what stands beside them with weights of its own."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif any(isinstance(each, nn.ModuleList) for each in child.modules()):
            yield from _parts(child)
        else:
            yield child
