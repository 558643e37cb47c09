"""Work in rounds: what runs beside what, what a failure and an end leave behind, and how long is waited."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from llmzero.core.errors import UserError
from llmzero.search import rounds
from llmzero.search.rounds import Rounds, carry_out, side_by_side

Log = list[tuple[str, str]]


def work(name: str, length: int, log: Log, end: Callable[[], None] = lambda: None) -> Rounds[str]:
    """Take so many rounds; only the first has news."""
    log.append(("begin", name))
    try:
        for number in range(length):
            yield number == 0
        end()
    finally:
        log.append(("end", name))
    return name.upper()


def fail() -> None:
    raise UserError("no memory")


def test_works_run_beside_each_other_and_begin_in_their_order() -> None:
    log: Log = []
    lengths = {"a": 3, "b": 1, "c": 0, "d": 2}
    values = carry_out(side_by_side({name: work(name, n, log) for name, n in lengths.items()}, 2))
    assert values == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert [name for what, name in log if what == "begin"] == list(lengths)
    running, most = set[str](), 0
    for what, name in log:
        running = running | {name} if what == "begin" else running - {name}
        most = max(most, len(running))
    assert most == 2
    # b's worker passes through c, which ends at once, to d, in one round.
    assert log[2:6] == [("end", "b"), ("begin", "c"), ("end", "c"), ("begin", "d")]


def test_a_round_has_news_where_one_of_them_has_or_one_ends() -> None:
    both = side_by_side({"a": work("a", 4, []), "b": work("b", 2, [])}, 2)
    assert list(both) == [True, False, True, False]


def test_a_failure_leaves_the_others_alone_and_is_raised_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    log: Log = []
    works = {"a": work("a", 1, log, fail), "b": work("b", 3, log), "c": work("c", 2, log)}
    with pytest.raises(UserError, match="no memory"):
        carry_out(side_by_side(works, 1))
    assert [name for what, name in log if what == "end"] == ["a", "b", "c"]
    assert "a: no memory" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_closes_all_that_was_begun(error: type[BaseException]) -> None:
    log: Log = []

    def interrupted() -> None:
        raise error

    works = {"a": work("a", 9, log), "b": work("b", 1, log, interrupted), "c": work("c", 1, log)}
    with pytest.raises(error):
        carry_out(side_by_side(works, 2))
    assert sorted(log) == [("begin", "a"), ("begin", "b"), ("end", "a"), ("end", "b")]


def test_an_interruption_between_two_rounds_closes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    log: Log = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        carry_out(side_by_side({"a": work("a", 9, log)}, 1))
    assert log == [("begin", "a"), ("end", "a")]


@pytest.fixture
def raised_at_any_line() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as in our commands."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


class Ending:
    """Its destructor is interrupted."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))  # Python's handlers run between two instructions


@pytest.mark.usefixtures("raised_at_any_line")
def test_an_interruption_in_a_destructor_is_not_lost() -> None:
    log: Log = []

    def rounds() -> Rounds[None]:
        yield True
        ending = Ending()
        del ending
        log.append(("round", "done"))
        yield True
        raise AssertionError("the search goes on")

    with pytest.raises(KeyboardInterrupt):
        carry_out(rounds())
    assert log == [("round", "done")]
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


@pytest.mark.usefixtures("raised_at_any_line")
def test_a_second_interruption_waits_for_no_round() -> None:
    def rounds() -> Rounds[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the round goes on")
        yield

    with pytest.raises(KeyboardInterrupt):
        carry_out(rounds())


@pytest.mark.parametrize(("took", "waited"), [(0.0001, 0.02), (0.002, 0.1), (3.0, 0.2)])
def test_looking_takes_a_small_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, took: float, waited: float
) -> None:
    now, waits = [0.0], list[float]()

    def looking() -> Rounds[None]:
        for news in (True, False, True, False):
            now[0] += took
            yield news

    monkeypatch.setattr(rounds.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(rounds.time, "sleep", waits.append)
    carry_out(looking())
    assert waits == pytest.approx([waited, waited])
