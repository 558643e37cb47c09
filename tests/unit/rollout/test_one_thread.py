from __future__ import annotations

import threading
from queue import Empty

import pytest

from llmzero.rollout.one_thread import OneThread


def test_calls_are_made_one_after_another_in_a_thread_of_their_own() -> None:
    thread = OneThread()
    made = {thread.call(threading.get_ident) for _ in range(3)}
    assert len(made) == 1 and threading.get_ident() not in made
    with pytest.raises(ValueError, match="invalid literal"):
        thread.call(int, "seven")
    assert not thread.busy and thread.call(int, "7", timeout_s=60) == 7
    thread.end()
    thread._thread.join(60)
    assert not thread._thread.is_alive()


def test_a_call_that_hangs_is_told_and_keeps_nobody() -> None:
    thread, go = OneThread(), threading.Event()
    with pytest.raises(Empty):
        thread.call(go.wait, timeout_s=0.01)
    assert thread.busy
    thread.end()
    go.set()
    thread._thread.join(60)
    assert not thread._thread.is_alive()
