"""The input of a forward pass: a prompt once for all its completions, rows of like length side by side.

A group's completions share their prompt, so the model need not see it again for each of them. A pack is one
row of S tokens: N prompts, then B completions without their last tokens, which predict nothing. Everything
but attention works on tokens alone, so all but a little padding is left out; in attention a completion sees
its prompt and itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import one_hot, scaled_dot_product_attention
from transformers import AttentionInterface

from llmzero.grpo.limits import MIN_LENGTH_RATIO

ATTENTION = "llmzero_packs"
ALIGNED = 8  # numbers that rows of a bias are a multiple of: CUDA's kernels would copy it otherwise


@dataclass(frozen=True)
class Block:
    """R sequences of `width` tokens, padded on the right, one after the other in the row.

    `owner` (R,) is the prompt of each sequence.
    """

    lengths: tuple[int, ...]
    owner: Tensor
    _biases: dict[tuple[int | None, torch.dtype], Any] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def width(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @property
    def size(self) -> int:
        """Tokens and padding."""
        return len(self.lengths) * self.width

    def rows(self, tokens: Tensor) -> Tensor:
        """Return tokens (size, H, D) as (R, H, width, D)."""
        return tokens.view(len(self.lengths), self.width, *tokens.shape[1:]).transpose(1, 2)

    def bias(self, prompts: Tensor, width: int, window: int | None, dtype: torch.dtype) -> Any:
        """Return the attention bias of completions, (R, 1, tokens, prompt and tokens), for all layers.

        `prompts` (N,) are the prompts' lengths, `width` the longest of them.
        """
        key = (window, dtype)
        if key not in self._biases:
            self._biases[key] = self._bias(prompts, width, window, dtype)
        return self._biases[key]

    def _bias(self, prompts: Tensor, width: int, window: int | None, dtype: torch.dtype) -> Any:
        if window is None and prompts.is_cuda and bool((prompts == width).all()):
            return causal_lower_right(self.width, width + self.width)  # a mask that flash attention knows
        lengths = prompts[self.owner][:, None]
        columns, own = (
            torch.arange(width, device=prompts.device),
            torch.arange(self.width, device=prompts.device),
        )
        positions = torch.cat([columns.expand(len(lengths), -1), lengths + own], 1)
        exists = torch.cat([columns < lengths, torch.ones_like(lengths + own, dtype=torch.bool)], 1)
        distance = (lengths + own)[:, :, None] - positions[:, None]
        seen = exists[:, None] & (distance >= 0) & (distance < (window or distance.shape[-1] + 1))
        wide = -(-seen.shape[-1] // ALIGNED) * ALIGNED
        bias = torch.zeros(*seen.shape[:-1], wide, dtype=dtype, device=prompts.device)[..., : seen.shape[-1]]
        return bias.masked_fill_(~seen, -torch.inf)[:, None]


@dataclass(frozen=True)
class Pack:
    """N prompts and B completions of them, in a row of S tokens.

    Attributes:
        ids: (1, S), and `positions` (1, S) of each token in its own sequence.
        blocks: how the row is laid out: the prompts, then completions of like length.
        prompts: (N,) lengths of the prompts.
        owner: (B,) the prompt of each completion.
        ends: (N,) indices in the row of the prompts' last tokens, which predict the first tokens of
            completions.
        others: (n - B,) indices in the row of what predicts the other tokens.
        targets: (n,) the tokens of all completions, first ones first; `target_index` (n,)
            where they stand among the B * T of `mask`.
        mask: (B, T) 1 where a completion has a token.
    """

    ids: Tensor
    positions: Tensor
    blocks: tuple[Block, ...]
    prompts: Tensor
    owner: Tensor
    ends: Tensor
    others: Tensor
    targets: Tensor
    target_index: Tensor
    mask: Tensor

    def predictors(self, hidden: Tensor) -> Tensor:
        """Return the hidden states (n, D), of those of the row (S, D), that predict `targets`."""
        return torch.cat([shared(taken(hidden, self.ends), self.owner), taken(hidden, self.others)])

    def spread(self, values: Tensor) -> Tensor:
        """Return values (n,) of `targets` as (B, T), 0 where there is no token."""
        return (
            torch.zeros_like(self.mask).flatten().index_copy(0, self.target_index, values).view_as(self.mask)
        )


def pack(rows: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device | str) -> Pack:
    """Pack pairs of prompt and completion, both not empty."""
    distinct: dict[tuple[int, ...], int] = {}
    owner = torch.tensor([distinct.setdefault(tuple(prompt), len(distinct)) for prompt, _ in rows])
    prompts, lengths = (
        torch.tensor(list(map(len, of))) for of in (distinct, [completion for _, completion in rows])
    )
    groups = _of_like_length(lengths)
    blocks = [Block(tuple(prompts.tolist()), torch.arange(len(prompts)))]
    blocks += [Block(tuple((lengths[group] - 1).tolist()), owner[group]) for group in groups]
    starts = torch.zeros(len(rows), dtype=torch.long)  # where in the row each completion begins
    size = blocks[0].size
    for block, group in zip(blocks[1:], groups, strict=True):
        starts[group] = size + torch.arange(len(group)) * block.width
        size += block.size
    of, nth = _numbered(lengths)
    tokens, first, last = _flat(completion for _, completion in rows), nth == 0, nth == lengths[of] - 1
    ids = torch.zeros(size, dtype=torch.long)
    prompt, position = _numbered(prompts)
    ids[prompt * blocks[0].width + position] = _flat(distinct)
    ids[(starts[of] + nth)[~last]] = tokens[~last]
    target_index = of * int(lengths.max()) + nth
    on_device = {
        "ids": ids[None],
        "positions": torch.cat(
            [_positions(block, prompts if k else torch.zeros_like(prompts)) for k, block in enumerate(blocks)]
        )[None],
        "prompts": prompts,
        "owner": owner,
        "ends": torch.arange(len(prompts)) * blocks[0].width + prompts - 1,
        "others": (starts[of] + nth - 1)[~first],
        "targets": torch.cat([tokens[first], tokens[~first]]),
        "target_index": torch.cat([target_index[first], target_index[~first]]),
        "mask": (torch.arange(int(lengths.max())) < lengths[:, None]).float(),
    }
    moved = tuple(Block(block.lengths, block.owner.to(device)) for block in blocks)
    return Pack(blocks=moved, **{name: tensor.to(device) for name, tensor in on_device.items()})


def _of_like_length(lengths: Tensor) -> list[Tensor]:
    """Return groups of like length, longest first, as indices of the completions of more than one token."""
    order = lengths.argsort(descending=True, stable=True)
    groups: list[list[int]] = []
    for b, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if length > 1 and (not groups or length - 1 < MIN_LENGTH_RATIO * (int(lengths[groups[-1][0]]) - 1)):
            groups.append([])
        if length > 1:
            groups[-1].append(b)
    return [torch.tensor(group) for group in groups]


def _numbered(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return for every token of sequences of `lengths` the index of its sequence, and its own index there."""
    of = torch.arange(len(lengths)).repeat_interleave(lengths)
    return of, torch.arange(len(of)) - (lengths.cumsum(0) - lengths)[of]


def _flat(sequences: Iterable[Sequence[int]]) -> Tensor:
    return torch.tensor(list(chain.from_iterable(sequences)))


def _positions(block: Block, firsts: Tensor) -> Tensor:
    """Return the position of every token of a block, whose sequences begin at `firsts` of their owners."""
    return (firsts[block.owner][:, None] + torch.arange(block.width)).flatten()


class _Taken(torch.autograd.Function):
    """Rows at indices that differ from each other: the gradient is put back, without a sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(rows)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        return gradient.new_zeros(ctx.count, *gradient.shape[1:]).index_copy_(
            0, ctx.saved_tensors[0], gradient
        ), None


class _Shared(torch.autograd.Function):
    """Rows for their owners, many for each: the gradient is summed by a matrix product, in a fixed order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, owner: Tensor) -> Tensor:
        ctx.save_for_backward(owner)
        ctx.count = len(rows)
        return rows.index_select(0, owner)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        belongs = one_hot(ctx.saved_tensors[0], ctx.count).T.to(gradient.dtype)
        return (belongs @ gradient.flatten(1)).view(ctx.count, *gradient.shape[1:]), None


def taken(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows[index], for indices that differ from each other."""
    selected: Tensor = _Taken.apply(rows, index)  # type: ignore[no-untyped-call]
    return selected


def shared(rows: Tensor, owner: Tensor) -> Tensor:
    """Return rows[owner]."""
    selected: Tensor = _Shared.apply(rows, owner)  # type: ignore[no-untyped-call]
    return selected


def attend(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, scaling: float | None, window: int | None
) -> Tensor:
    """Attend (S, H, D) within the sequences of a pack."""
    sizes = [block.size for block in pack.blocks]
    parts = zip(*(torch.split(x, sizes) for x in (query, key, value)), strict=True)
    of_prompts, *of_completions = (
        [block.rows(x) for x in part] for block, part in zip(pack.blocks, parts, strict=True)
    )
    prompts, prompt_keys, prompt_values = of_prompts
    width = pack.blocks[0].width
    out = [
        _attend(
            prompts,
            prompt_keys,
            prompt_values,
            None if window is None or window >= width else _band(width, window, query),
            scaling,
        )
    ]
    for block, (heads, keys, values) in zip(pack.blocks[1:], of_completions, strict=True):
        keys = torch.cat([shared(prompt_keys, block.owner), keys], 2)
        values = torch.cat([shared(prompt_values, block.owner), values], 2)
        out.append(
            _attend(heads, keys, values, block.bias(pack.prompts, width, window, query.dtype), scaling)
        )
    return torch.cat([rows.transpose(1, 2).flatten(0, 1) for rows in out])


def attention_in_packs(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    pack: Pack | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend (1, H, S, D) within the sequences of a pack; without one causally, for rows without padding."""
    if pack is None:
        return _attend(query, key, value, None, scaling).transpose(1, 2).contiguous(), None
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(query, key, value, pack, scaling, kwargs.get("sliding_window"))[None], None


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Any, scaling: float | None) -> Tensor:
    """Attend causally where there is no bias. Keys are repeated for the heads that share them where the
    kernel cannot.
    """
    shared_by = query.shape[1] // key.shape[1]
    # Flash attention, which wants no mask but its own.
    native = query.is_cuda and query.dtype != torch.float32 and type(bias) is not Tensor
    if shared_by > 1 and not native:
        key, value = key.repeat_interleave(shared_by, 1), value.repeat_interleave(shared_by, 1)
    grouped = shared_by > 1 and native
    return scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=bias is None, scale=scaling, enable_gqa=grouped
    )


def _band(width: int, window: int, like: Tensor) -> Tensor:
    """Return the bias (width, width) that lets a position see itself and the `window` - 1 before it."""
    positions = torch.arange(width, device=like.device)
    distance = positions[:, None] - positions
    return torch.zeros(width, width, dtype=like.dtype, device=like.device).masked_fill_(
        (distance < 0) | (distance >= window), -torch.inf
    )


AttentionInterface.register(ATTENTION, attention_in_packs)
