"""Calls that never end, eat memory or die, in real processes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmzero.core.errors import UserError
from llmzero.tasks import guard as guards
from llmzero.tasks.base import Example
from llmzero.tasks.guard import Guard
from llmzero.tasks.verified import Verified
from llmzero.tasks.verifiers import math
from tests.unit.tasks.odd_verifiers import odd

BOMB = "\\boxed{9^{9^{9^{9}}}}"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    made = Guard(odd, timeout_s=1.0, workers=1)
    yield made
    made.close()


def called(guard: Guard, *stated: str) -> list[object]:
    return guard([(text, "right") for text in stated])


def running(process: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_busy(process: int) -> bool:
    """Return whether a process has used half a second of a processor since it was forked."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK") > 0.5


def await_end(processes: list[int]) -> None:
    began = time.monotonic()
    while any(running(each) for each in processes):
        assert time.monotonic() - began < PATIENCE_S, f"{processes} live on"
        time.sleep(0.05)


def test_values_come_in_order_whatever_happens_to_their_neighbours(guard: Guard) -> None:
    odd_ones = ["sleep 9", "power 99999", "die", "leave", "swallow 4000", "long 2000000", "hold 4000"]
    texts = [text for each in odd_ones for text in ("right", each, "wrong")]
    expected = [value for _ in odd_ones for value in (1.0, None, 0.0)]
    values = called(guard, *texts)
    assert values[13] == 0.0, "it caught its own MemoryError"
    values[13] = None
    assert values == expected


def test_a_batch_gives_what_each_call_alone_gives(guard: Guard) -> None:
    texts = ["right", "hold 1500", "swallow 1000", "die", "hold 400", "hold 400", "swallow 1200", "sleep 0.3"]
    texts += ["hold 500", "hold 1500", "hold 400", "swallow 1200", "power 99999", "wrong"]
    alone = []
    for text in texts:
        fresh = Guard(odd, timeout_s=1.0, workers=1)
        alone += called(fresh, text)
        fresh.close()
    assert called(guard, *texts) == alone
    assert called(guard, *reversed(texts)) == alone[::-1]


def test_two_workers_share_a_batch() -> None:
    pair = Guard(odd, timeout_s=5.0, workers=2)
    assert len(set(called(pair, *["process"] * 50))) == 2
    assert called(pair, "right", "wrong", "sleep 0.3", "right") == [1.0, 0.0, 0.0, 1.0]
    pair.close()
    assert called(pair, "right") == [1.0], "it begins again after its end"
    pair.close()


def test_a_time_out_costs_little_more_than_its_limit() -> None:
    task = Verified("math", timeout_s=1.0, workers=1)
    example = Example("1", "", "7")
    assert task.reward(example, "\\boxed{x}").value == 0, "which starts the processes"
    began = time.monotonic()
    assert [task.reward(example, BOMB).value for _ in range(4)] == [0, 0, 0, 0]
    assert time.monotonic() - began < 2 * 4 * 1.0
    assert task.reward(example, "\\boxed{\\frac{14}{2}}").value == 1
    assert task._guard is not None
    task._guard.close()


def test_a_batch_of_endless_answers_ends_and_honest_ones_in_it_are_judged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Verified("math", timeout_s=0.5, workers=1)
    example = Example("1", "", "7")
    texts = [BOMB] * 14 + ["\\boxed{\\frac{14}{2}}", "\\boxed{\\frac{15}{2}}"] * 20 + [BOMB] * 8
    task.reward(example, "\\boxed{x}")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "llmzero"):
        rewards = task.rewards([example] * len(texts), texts)
    seconds = time.monotonic() - began
    assert [reward.value for reward in rewards] == [0.0] * 14 + [1.0, 0.0] * 20 + [0.0] * 8
    assert seconds < 3 * (22 * guards.QUICK_S + guards.TIMEOUTS_A_WORKER * 0.5)
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"{22 - guards.TIMEOUTS_A_WORKER} answers of a batch earn nothing unjudged" in message
    assert task._guard is not None
    task._guard.close()


def test_slow_calls_are_judged_as_long_as_few_take_their_whole_limit(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llmzero"):
        assert called(guard, *["sleep 9"] * 3, *["sleep 0.3"] * 6) == [None] * 3 + [0.0] * 6
    assert not caplog.records


@LINUX
def test_nothing_runs_on_after_a_time_out() -> None:
    own = Guard(odd, timeout_s=1.0, workers=1)
    assert called(own, "right", "sleep 9") == [1.0, None]
    assert own._forks is not None
    began = time.monotonic()
    while children(own._forks.process.pid):
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.05)
    own.close()


def test_signals_to_the_whole_group_lose_no_value(guard: Guard) -> None:
    (worker,) = called(guard, "process")
    assert isinstance(worker, int)
    assert guard._forks is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        for process in (worker, guard._forks.process.pid):
            os.kill(process, number)
    assert called(guard, "process", "right") == [worker, 1.0]


def test_a_worker_that_was_killed_from_outside_costs_no_value(guard: Guard) -> None:
    (worker,) = called(guard, "process")
    assert isinstance(worker, int)
    os.kill(worker, signal.SIGKILL)
    assert called(guard, "right", "wrong") == [1.0, 0.0]


RUNAWAY = """
from llmzero.tasks.guard import Guard
from llmzero.tasks.verifiers import regex

guard = Guard(regex, timeout_s=600, workers=1)
guard([("a", "a")])
print(guard._forks.process.pid, flush=True)
guard([("a" * 60, "(a+)+b")])
"""


@LINUX
@pytest.mark.parametrize("killed", ["parent", "first process"])
def test_a_worker_in_a_runaway_expression_dies_with_its_parent(killed: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", RUNAWAY], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    first = int(parent.stdout.readline())
    began = time.monotonic()
    while not (busy := [worker for worker in children(first) if is_busy(worker)]):
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.05)
    os.kill(parent.pid if killed == "parent" else first, signal.SIGKILL)
    await_end(busy)
    parent.kill()
    parent.wait()
    await_end([first])


def test_a_verifier_that_cannot_be_called_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picky.py").write_text(
        "import multiprocessing, sys\n"
        "if 'pytest' not in sys.modules:\n    raise ImportError('only under pytest')\n"
        "def verify(stated, answer):\n    return 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task = Verified("picky.verify", timeout_s=1.0, workers=1)
    with pytest.raises(UserError, match=r"picky\.verify cannot be called .*only under pytest"):
        task.reward(Example("1", "", "x"), "x")


def test_values_are_the_same_in_every_interpreter() -> None:
    """The order of SymPy's sets follows from the seed of hashes."""
    seen = set()
    for _ in range(2):
        seeded = Guard(hash_of, timeout_s=5.0, workers=1)
        seen |= {*seeded([("x",)])}
        seeded.close()
    assert len(seen) == 1
    assert seen != {None}


def hash_of(text: str) -> int:
    return hash(text)


def test_what_the_first_expression_loads_is_loaded_before_the_first_call() -> None:
    task = Verified("math", timeout_s=30.0, workers=1)
    assert task._guard is not None
    first, again = 0.0, 0.0
    task.scores([("x^3", "x")])
    for text in ["x^2+5x", "\\{3,4\\}", "x^2+8x", "y=3", "\\sqrt{7}", "\\cos(x)"]:
        task._guard._workers[0].end()  # the next call begins in a process that has made none
        first += seconds(task, text)
        again += seconds(task, text.replace("x", "z").replace("y", "w"))
    task._guard.close()
    assert first < 5 * again


def seconds(task: Verified, text: str) -> float:
    began = time.monotonic()
    task.scores([(text, "7")])
    return time.monotonic() - began


def test_mathematics_is_judged_as_in_one_process() -> None:
    pairs = [("\\frac{1}{2}", "0.5"), ("x^2+2x+1", "(x+1)^2"), ("(1,2)", "(2,1)"), ("\\{1,2\\}", "\\{2,1\\}")]
    task = Verified("math", timeout_s=30.0, workers=1)
    assert task.scores(pairs) == [math(*pair) for pair in pairs]
    assert task._guard is not None
    task._guard.close()


def test_the_processes_end_with_the_last_reference_to_a_guard() -> None:
    made = Guard(odd, timeout_s=1.0, workers=2)
    called(made, "right")
    assert made._forks is not None
    forks = made._forks.process.pid
    assert running(forks)
    del made
    gc.collect()
    await_end([forks])
