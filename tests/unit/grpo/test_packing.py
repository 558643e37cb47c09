"""Packs: where tokens stand, and attention over them against attention over each sequence alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmzero.grpo.packing import Pack, attention_in_packs, pack, shared, taken

ROWS = [([4, 5, 6], [7, 8]), ([9], [10, 11, 12, 13]), ([4, 5, 6], [14])]
HEADS, SHARED, DIM = 4, 2, 8
SHAPES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=8)


def rows_of(shapes: list[tuple[int, int]], seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompts of one length are the same prompt, so that some completions share one."""
    rng = random.Random(seed)
    return [(list(range(20, 20 + p)), [rng.randrange(1, 20) for _ in range(c)]) for p, c in shapes]


def places_of(packed: Pack, rows: list[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Where in the row the tokens of each prompt with its completion stand, but for the last one."""
    others = iter(packed.others.tolist())
    for (prompt, completion), owner in zip(rows, packed.owner.tolist(), strict=True):
        end = packed.ends[owner].item()
        yield [*range(int(end) - len(prompt) + 1, int(end) + 1), *(next(others) for _ in completion[1:])]


def test_a_prompt_stands_once_and_last_tokens_are_left_out() -> None:
    packed = pack(ROWS, "cpu")
    assert packed.ids.tolist() == [[4, 5, 6, 9, 0, 0, 10, 11, 12, 7]], (
        "prompts, padded, then completions, longest first"
    )
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 2, 1, 2, 3, 3]]
    assert [block.lengths for block in packed.blocks] == [(3, 1), (3,), (1,)]
    assert packed.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


@settings(deadline=None)
@given(shapes=SHAPES, seed=st.integers(0, 1000))
def test_every_token_is_predicted_by_what_stands_before_it(shapes: list[tuple[int, int]], seed: int) -> None:
    rows = rows_of(shapes, seed)
    packed = pack(rows, "cpu")
    for (prompt, completion), places in zip(rows, places_of(packed, rows), strict=True):
        assert packed.ids[0, places].tolist() == prompt + completion[:-1]
        assert packed.positions[0, places].tolist() == list(range(len(places)))
    before = packed.predictors(packed.ids[0][:, None])[:, 0]
    pairs = torch.stack([packed.spread(values.float()) for values in (before, packed.targets)], -1).tolist()
    for (prompt, completion), found in zip(rows, pairs, strict=True):
        sequence = prompt + completion
        assert found[: len(completion)] == [
            [sequence[i - 1], sequence[i]] for i in range(len(prompt), len(sequence))
        ]
        assert all(pair == [0, 0] for pair in found[len(completion) :])


def test_padding_is_little() -> None:
    rows = rows_of([(3, c) for c in range(20, 200)], 0)
    packed = pack(rows, "cpu")
    tokens = 3 + sum(len(c) - 1 for _, c in rows)
    assert tokens <= packed.ids.shape[1] <= 1.15 * tokens


def test_rows_are_taken_and_shared_with_the_gradients_of_indexing() -> None:
    rows = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    places, owner = torch.tensor([3, 0, 4]), torch.tensor([1, 1, 4, 0, 1])
    assert torch.autograd.gradcheck(lambda x: taken(x, places), rows)
    assert torch.autograd.gradcheck(lambda x: shared(x, owner), rows)
    torch.testing.assert_close(taken(rows, places), rows[places])
    torch.testing.assert_close(shared(rows, owner), rows[owner])


def alone(query: Tensor, keys: Tensor, values: Tensor, places: list[int], window: int | None) -> Tensor:
    """The slow way: attention of one sequence whose tokens stand at `places`, in float64; (T, H, D)."""
    q, k, v = (x[0, :, places].double() for x in (query, keys, values))
    k, v = (x.repeat_interleave(HEADS // SHARED, 0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / DIM**0.5
    distance = torch.arange(len(places))[:, None] - torch.arange(len(places))
    hidden = (distance < 0) | (distance >= (window or len(places)))
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1)


@settings(deadline=None, max_examples=30)
@given(shapes=SHAPES, window=st.sampled_from([None, 1, 3, 50]), seed=st.integers(0, 1000))
def test_attention_is_that_of_each_sequence_alone(
    shapes: list[tuple[int, int]], window: int | None, seed: int
) -> None:
    rows = rows_of(shapes, seed)
    packed = pack(rows, "cpu")
    torch.manual_seed(seed)
    query, keys, values = (
        torch.randn(1, heads, packed.ids.shape[1], DIM) for heads in (HEADS, SHARED, SHARED)
    )
    out, _ = attention_in_packs(None, query, keys, values, None, pack=packed, sliding_window=window)
    assert out.shape == (1, packed.ids.shape[1], HEADS, DIM)
    for places in places_of(packed, rows):
        torch.testing.assert_close(
            out[0, places].double(), alone(query, keys, values, places, window), rtol=1e-4, atol=1e-5
        )


def test_without_a_pack_a_row_attends_causally() -> None:
    query, keys, values = (torch.randn(1, heads, 5, DIM) for heads in (HEADS, SHARED, SHARED))
    out, _ = attention_in_packs(None, query, keys, values, None)
    torch.testing.assert_close(
        out[0].double(), alone(query, keys, values, list(range(5)), None), rtol=1e-4, atol=1e-5
    )
