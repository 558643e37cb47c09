"""A key-value cache of slots, and attention over it, for any transformers model that takes its attention from
the registry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "llmzero_slots"
NATIVE = "eager"  # the attention that every model in transformers has

Storage = dict[tuple[int, str], Tensor]


class SlotCache:
    """Keys and values of rows that started at different times and have different lengths.

    Row i lies in slot i; running rows are the first slots. Its prompt begins at column 0, and what it has
    added at the column after the longest prompt that was taken in with it, so that rows of one time add to
    one column, and a column is one piece of memory. It stands in for a transformers cache: layers call
    `update` with new keys and values, in the mode that `admit` or `extend` has set.

    Args:
        slots: rows it has room for.
        columns: longest row.
        storage: the memory of an earlier cache to be used again: fresh memory is slow to touch.
    """

    def __init__(self, slots: int, columns: int, storage: Storage) -> None:
        self.slots, self.columns, self._storage = slots, columns, storage
        self.rows = 0
        self.prompts = self.starts = self.added = torch.zeros(0, dtype=torch.long)
        self.hidden: Tensor | None = None
        self._layers: dict[int, list[Tensor]] = {}
        self._repeats = 0

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self.slots - self.rows

    @property
    def positions(self) -> Tensor:
        """The position (B,) of each row's newest token."""
        return self.prompts + self.added - 1

    def admit(self, lengths: Tensor, repeats: int) -> None:
        """Take in prompts of `lengths` (P,), `repeats` rows for each; the next pass through the model runs
        them, padded on the right.
        """
        self._first, self._repeats = self.rows, repeats
        new = lengths.repeat_interleave(repeats)
        self.prompts = torch.cat([self.prompts.to(new.device), new])
        self.starts = torch.cat([self.starts.to(new.device), torch.full_like(new, int(lengths.max()))])
        self.added = torch.cat([self.added.to(new.device), torch.zeros_like(new)])
        self.rows = len(self.prompts)
        self.hidden = None

    def extend(self) -> None:
        """Make room for one token more in every row; the next pass through the model runs it."""
        self._repeats = 0
        self.added = self.added + 1
        ends = self.starts + self.added
        self._width = int(ends.max())
        self._together = self._width == int(ends.min())
        self._newest = (ends - 1, torch.arange(self.rows, device=ends.device))
        columns = torch.arange(self._width, device=ends.device)
        self.hidden = (columns >= ends[:, None]) | (
            (columns >= self.prompts[:, None]) & (columns < self.starts[:, None])
        )

    def before(self, window: int) -> Tensor:
        """Return which columns (B, width) hold what lies more than `window` - 1 tokens before each row's
        newest one.
        """
        columns = torch.arange(self._width, device=self.added.device)
        gaps = torch.where(columns < self.starts[:, None], 0, (self.starts - self.prompts)[:, None])
        return columns - gaps <= self.positions[:, None] - window

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, H, T, D) of new tokens; return those that the new tokens attend to."""
        width = keys.shape[2] if self._repeats else self._width
        if layer not in self._layers:
            self._layers[layer] = [self._room((layer, name), keys) for name in ("keys", "values")]
        stored = self._layers[layer]
        for rows, new in zip(stored, (keys, values), strict=True):
            if self._repeats:
                room = rows[:width, self._first : self.rows]
                room.view(width, -1, self._repeats, *room.shape[2:]).copy_(
                    new.permute(2, 0, 1, 3)[:, :, None]
                )
            elif self._together:
                rows[width - 1, : self.rows] = new[:, :, 0]
            else:
                rows[self._newest] = new[:, :, 0]
        if self._repeats:
            return keys, values
        return stored[0][:width, : self.rows].permute(1, 2, 0, 3), stored[1][:width, : self.rows].permute(
            1, 2, 0, 3
        )

    def drop(self, ended: Tensor) -> Tensor:
        """Free the slots of rows that `ended` (B,) says; the last rows move into the gaps. Return the order
        (B',) of the rows left.
        """
        left = self.rows - int(ended.sum())
        gaps = ended[:left].nonzero()[:, 0]
        movers = (~ended[left:]).nonzero()[:, 0] + left
        order = torch.arange(left, device=ended.device)
        order[gaps] = movers
        self.prompts, self.starts, self.added = self.prompts[order], self.starts[order], self.added[order]
        self.rows = left
        if len(gaps):
            width = int((self.starts + self.added).max())
            for stored in chain.from_iterable(self._layers.values()):
                stored[:width].index_copy_(1, gaps, stored[:width].index_select(1, movers))
        return order

    def _room(self, name: tuple[int, str], like: Tensor) -> Tensor:
        """Return (columns, slots, H, D) of numbers, whichever: a masked NaN would be a NaN still."""
        shape = (self.columns, self.slots, like.shape[1], like.shape[3])
        stored = self._storage.get(name)
        if stored is None or stored.numel() < math.prod(shape) or stored.dtype != like.dtype:
            self._storage[name] = like.new_zeros(math.prod(shape))
        return self._storage[name][: math.prod(shape)].view(shape)


def attention_over_slots(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    slots: SlotCache,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as `slots` says: causally within prompts, or one new token (B, H, 1, D) to its own row.

    Heads that share keys stand in the place of query positions, so that keys and values need not be repeated
    for them.
    """
    window = kwargs.get("sliding_window")
    if slots.hidden is None:
        mask = (
            None
            if window is None or window >= query.shape[2]
            else _band(query.shape[2], window, query.device)
        )
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2).contiguous(), None
    hidden = slots.hidden
    if window is not None:
        hidden = hidden | slots.before(window)
    grouped = query.view(len(query), key.shape[1], -1, query.shape[3])
    scores = (grouped @ key.transpose(2, 3)).mul_(scaling or query.shape[3] ** -0.5)
    weights = (
        scores.masked_fill_(hidden[:, None, None], -torch.inf)
        .softmax(-1, dtype=torch.float32)
        .to(value.dtype)
    )
    return (weights @ value).reshape(len(query), 1, query.shape[1], -1), None


def _band(width: int, window: int, device: torch.device) -> Tensor:
    """Return which of `width` positions (rows) attend to which (columns): to themselves and the `window` - 1
    before.
    """
    distance = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)
    return (distance >= 0) & (distance < window)


@contextmanager
def attention_of(model: Any, name: str) -> Iterator[None]:
    """Let a model attend in another way while the block runs."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


AttentionInterface.register(ATTENTION, attention_over_slots)
