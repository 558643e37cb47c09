"""The formula on cases that can be counted by hand; tests/unit/grpo/test_flops.py counts what is computed."""

from __future__ import annotations

from llmzero.core.compute import Arithmetic, Work


def test_a_prompt_passes_once_for_its_group_and_last_tokens_not_at_all() -> None:
    work = Work.of([(3, [4, 1]), (2, [2])])
    assert work.tokens == (3 + 3 + 0) + (2 + 1)
    assert work.predicted == 4 + 1 + 2
    first, second = (1 + 2 + 3) + (4 + 5 + 6), (1 + 2) + 3
    assert work.keys == first + second


def test_the_work_of_groups_is_the_sum_of_their_work() -> None:
    groups = [(7, [3, 9, 1]), (2, [5]), (11, [2, 2])]
    parts = [Work.of([group]) for group in groups]
    whole = Work.of(groups)
    for name in ("tokens", "predicted", "keys"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts), name


def test_a_backward_pass_costs_two_forward_passes() -> None:
    arithmetic, work = Arithmetic(linear=100, head=20, attention=8), Work(tokens=10, predicted=6, keys=55)
    assert arithmetic.forward(work) == 100 * 10 + 20 * 6 + 8 * 55
    assert arithmetic.update(work) == 3 * arithmetic.forward(work)


def test_frozen_weights_cost_one_forward_pass_in_the_backward_pass() -> None:
    arithmetic = Arithmetic(linear=100, head=20, attention=8, adapter=6)
    work = Work(tokens=10, predicted=6, keys=55)
    assert arithmetic.forward(work) == 106 * 10 + 20 * 6 + 8 * 55
    assert arithmetic.forward(work, adapter=False) == 100 * 10 + 20 * 6 + 8 * 55
    assert arithmetic.update(work) == 2 * (100 * 10 + 20 * 6) + 3 * (6 * 10 + 8 * 55)
