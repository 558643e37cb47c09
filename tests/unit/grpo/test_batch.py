from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzero.grpo.batch import Sample, by_prompt, collate, micro_batches, pieces, shared_out, size_of
from llmzero.tasks.base import Reward

CPU = torch.device("cpu")
SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30)), min_size=1, max_size=25)


def sample(prompt: int, completion: int, counts: bool = True) -> Sample:
    """Samples whose prompts are of one length have the same prompt."""
    return Sample(
        [1] * prompt, [2] * completion, [-0.5] * completion, "stop", Reward(0.0, {}), 0.0, counts=counts
    )


def identities(chunks: Sequence[Sequence[Sample]]) -> list[int]:
    return sorted(id(s) for chunk in chunks for s in chunk)


def tokens_of(chunk: Sequence[Sample]) -> int:
    return sum(map(size_of, by_prompt(chunk)))


@settings(deadline=None)
@given(SHAPES, st.integers(1, 120))
def test_pieces_hold_every_sample_once_within_the_budget(shapes: list[tuple[int, int]], budget: int) -> None:
    samples = [sample(*shape) for shape in shapes]
    cut = pieces(samples, budget)
    assert identities(cut) == identities([samples])
    for piece in cut:
        assert len(by_prompt(piece)) == 1
        assert len(piece) == 1 or size_of(piece) <= budget


def test_short_completions_of_long_prompts_count_for_what_is_copied_for_them() -> None:
    assert size_of([sample(3, 1), sample(3, 2)]) == 3 + 1 + 2
    assert size_of([sample(30, 2)] * 8) == 30 + 8 * 8
    assert [len(piece) for piece in pieces([sample(30, 2) for _ in range(8)], 62)] == [4, 4]


def test_a_prompt_is_cut_no_more_than_needed() -> None:
    samples = [sample(2, n) for n in (8, 2, 8, 2)] + [sample(3, 1)]
    assert [[len(s.completion) for s in piece] for piece in pieces(samples, 100)] == [[8, 8, 2, 2], [1]]
    assert [[len(s.completion) for s in piece] for piece in pieces(samples, 18)] == [[8, 8], [2, 2], [1]]
    assert [len(piece) for piece in pieces(samples, 1)] == [1, 1, 1, 1, 1]


def test_micro_batches_fill_the_budget_in_order() -> None:
    hand = [[sample(2, 8)], [sample(3, 8)], [sample(4, 2)], [sample(5, 1)]]
    assert [tokens_of(chunk) for chunk in micro_batches(hand, 27)] == [27, 7]
    assert [len(chunk) for chunk in micro_batches(hand, 26)] == [2, 2]
    assert [len(chunk) for chunk in micro_batches(hand, 1)] == [1, 1, 1, 1]
    assert micro_batches([], 30) == []


@settings(deadline=None)
@given(SHAPES, st.integers(1, 120), st.integers(1, 5))
def test_every_sample_counts_on_exactly_one_process_and_all_have_as_many_passes(
    shapes: list[tuple[int, int]], budget: int, size: int
) -> None:
    samples = [sample(*shape) for shape in shapes]
    shares = [shared_out(samples, budget, rank, size) for rank in range(size)]
    assert identities([chunk for share in shares for chunk, counts in share if counts]) == identities(
        [samples]
    )
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        assert all(chunk for chunk, _ in share), "a pass needs a row"
        assert [counts for _, counts in share] == sorted((counts for _, counts in share), reverse=True)
        assert all(len(chunk) == 1 or tokens_of(chunk) <= budget for chunk, _ in share)
    assert any(all(counts for _, counts in share) for share in shares), "nobody needs this many passes"


@settings(deadline=None)
@given(SHAPES, st.integers(2, 5))
def test_processes_get_about_as_many_tokens(shapes: list[tuple[int, int]], size: int) -> None:
    """The largest piece is a process's fair share, or a single sample that is more than that."""
    samples = [sample(*shape) for shape in shapes]
    loads = [
        sum(tokens_of(chunk) for chunk, counts in shared_out(samples, 1000, rank, size) if counts)
        for rank in range(size)
    ]
    fair = -(-tokens_of(samples) // size)
    assert max(loads) - min(loads) <= max(fair, *(size_of([s]) for s in samples))


def test_a_prompt_with_many_completions_is_shared_out() -> None:
    samples = [sample(2, 10) for _ in range(8)]
    shares = [shared_out(samples, 1000, rank, 4) for rank in range(4)]
    assert [[len(chunk) for chunk, _ in share] for share in shares] == [[2], [2], [2], [2]]


def test_a_process_without_samples_repeats_the_shortest_which_does_not_count() -> None:
    samples = [sample(2, 9), sample(2, 3)]
    assert shared_out(samples, 100, 2, 3) == [([samples[1]], False)]


def test_collate_packs_prompts_and_pads_completions_on_the_right() -> None:
    first = Sample(
        [5, 6], [7], [-0.1], "stop", Reward(1.0, {}), 1.0, advantage=1.5, old=[-0.2], reference=[-0.7]
    )
    second = Sample(
        [8],
        [9, 10],
        [-0.3, -0.4],
        "length",
        Reward(0.0, {}),
        0.0,
        advantage=-1.0,
        counts=False,
        old=[-0.5, -0.6],
        reference=[-0.8, -0.9],
    )
    batch = collate([first, second], CPU)
    assert batch.pack.ids.tolist() == [[5, 6, 8, 0, 9]], "a last token predicts nothing"
    assert batch.pack.mask.tolist() == [[1, 0], [1, 1]]
    assert batch.counted.tolist() == [[1, 0], [0, 0]]
    assert batch.advantages.tolist() == [1.5, -1.0]
    torch.testing.assert_close(batch.sampled, torch.tensor([[-0.1, 0], [-0.3, -0.4]]))
    torch.testing.assert_close(batch.old, torch.tensor([[-0.2, 0], [-0.5, -0.6]]))
    torch.testing.assert_close(batch.reference, torch.tensor([[-0.7, 0], [-0.8, -0.9]]))


def test_collate_takes_what_was_not_computed_from_the_sampler_or_leaves_it_out() -> None:
    batch = collate([sample(1, 2), sample(3, 1)], CPU)
    assert batch.reference is None
    assert batch.old.tolist() == batch.sampled.tolist() == [[-0.5, -0.5], [-0.5, 0.0]]


def test_rows_that_must_not_count_are_still_passed_through_the_model() -> None:
    batch = collate([sample(1, 2), sample(3, 1)], CPU, counts=False)
    assert batch.pack.mask.sum() == 3
    assert batch.counted.sum() == 0


@pytest.mark.parametrize(("counts", "tokens"), [(True, 7), (False, 0)])
def test_tokens_of_a_sample_are_those_in_the_loss(counts: bool, tokens: int) -> None:
    one = sample(4, 7, counts)
    assert one.tokens == tokens
    assert one.length == 11
