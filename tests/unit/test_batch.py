from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmzero.grpo.batch import Sample, collate, micro_batches, shared_out
from llmzero.tasks.base import Reward

CPU = torch.device("cpu")
SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=25)


def sample(prompt: int, completion: int, counts: bool = True) -> Sample:
    return Sample([1] * prompt, [2] * completion, [-0.5] * completion, "stop", Reward(0.0, {}), 0.0, counts=counts)


def identities(chunks: Sequence[Sequence[Sample]]) -> list[int]:
    return sorted(id(s) for chunk in chunks for s in chunk)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 120))
def test_micro_batches_hold_every_sample_once_within_the_budget(shapes: list[tuple[int, int]], budget: int) -> None:
    samples = [sample(*shape) for shape in shapes]
    chunks = micro_batches(samples, budget)
    assert identities(chunks) == identities([samples])
    for chunk in chunks:
        assert len(chunk) == 1 or max(s.length for s in chunk) * len(chunk) <= budget


def test_micro_batches_fill_the_budget() -> None:
    """Rows of like length share a micro-batch: fewer passes and little padding."""
    samples = [sample(2, n) for n in (2, 8, 2, 8, 2, 8)]
    assert [[s.length for s in chunk] for chunk in micro_batches(samples, 30)] == [[10, 10, 10], [4, 4, 4]]
    assert [len(chunk) for chunk in micro_batches(samples, 29)] == [2, 2, 2]
    assert micro_batches([], 30) == []


@settings(deadline=None)
@given(SHAPES, st.integers(1, 120), st.integers(1, 5))
def test_every_sample_counts_on_exactly_one_process_and_all_have_as_many_passes(shapes: list[tuple[int, int]], budget: int, size: int) -> None:
    samples = [sample(*shape) for shape in shapes]
    shares = [shared_out(samples, budget, rank, size) for rank in range(size)]
    assert identities([chunk for share in shares for chunk, counts in share if counts]) == identities([samples])
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        assert all(chunk for chunk, _ in share), "a pass needs a row"
        assert [counts for _, counts in share] == sorted((counts for _, counts in share), reverse=True)
        assert all(len(chunk) == 1 or max(s.length for s in chunk) * len(chunk) <= budget for chunk, _ in share)
    assert any(all(counts for _, counts in share) for share in shares), "nobody needs this many passes"


@settings(deadline=None)
@given(SHAPES, st.integers(2, 5))
def test_processes_get_about_as_many_tokens(shapes: list[tuple[int, int]], size: int) -> None:
    samples = [sample(*shape) for shape in shapes]
    loads = [sum(s.length for chunk, counts in shared_out(samples, 50, rank, size) if counts for s in chunk) for rank in range(size)]
    assert max(loads) - min(loads) <= max(s.length for s in samples)


@pytest.mark.parametrize("size", [2, 3])
def test_the_first_process_does_not_get_the_longest_of_every_round(size: int) -> None:
    samples = [sample(1, 10 * n) for n in range(1, 4 * size + 1)]
    loads = [sum(s.length for chunk, _ in shared_out(samples, 1000, rank, size) for s in chunk) for rank in range(size)]
    assert len(set(loads)) == 1


def test_a_process_without_samples_repeats_one_that_does_not_count() -> None:
    samples = [sample(2, 3), sample(2, 9)]
    assert shared_out(samples, 100, 2, 3) == [([samples[0]], False)]


def test_collate_pads_prompts_left_and_completions_right() -> None:
    first = Sample([5, 6], [7], [-0.1], "stop", Reward(1.0, {}), 1.0, advantage=1.5, old=[-0.2], reference=[-0.7])
    second = Sample(
        [8], [9, 10], [-0.3, -0.4], "length", Reward(0.0, {}), 0.0, advantage=-1.0, counts=False, old=[-0.5, -0.6], reference=[-0.8, -0.9]
    )
    batch = collate([first, second], pad_id=3, device=CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 3], [3, 8, 9, 10]]
    assert batch.attention.tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert batch.mask.tolist() == [[1, 0], [1, 1]]
    assert batch.counted.tolist() == [[1, 0], [0, 0]]
    assert batch.advantages.tolist() == [1.5, -1.0]
    torch.testing.assert_close(batch.sampled, torch.tensor([[-0.1, 0], [-0.3, -0.4]]))
    torch.testing.assert_close(batch.old, torch.tensor([[-0.2, 0], [-0.5, -0.6]]))
    torch.testing.assert_close(batch.reference, torch.tensor([[-0.7, 0], [-0.8, -0.9]]))


def test_collate_takes_what_was_not_computed_from_the_sampler_or_leaves_it_out() -> None:
    batch = collate([sample(1, 2), sample(3, 1)], pad_id=0, device=CPU)
    assert batch.reference is None
    assert batch.old.tolist() == batch.sampled.tolist() == [[-0.5, -0.5], [-0.5, 0.0]]


def test_rows_that_must_not_count_are_still_passed_through_the_model() -> None:
    batch = collate([sample(1, 2), sample(3, 1)], pad_id=0, device=CPU, counts=False)
    assert batch.mask.sum() == 3
    assert batch.counted.sum() == 0


@pytest.mark.parametrize(("counts", "tokens"), [(True, 7), (False, 0)])
def test_tokens_of_a_sample_are_those_in_the_loss(counts: bool, tokens: int) -> None:
    one = sample(4, 7, counts)
    assert one.tokens == tokens
    assert one.length == 11
