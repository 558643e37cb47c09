"""Questions in the background: their errors, their bill, and a call that two drivers of a process make."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from llmzero.agents.endpoint import Endpoint, LlmSettings
from llmzero.agents.journal import CallId, CallJournal
from llmzero.core.errors import UserError
from llmzero.search.thinking import Bill, in_background
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from tests.llm_server import Answer, LLMServer


def test_what_a_thread_raises_is_raised_where_its_result_is_taken() -> None:
    def wrong() -> int:
        raise UserError("the template is broken")

    with pytest.raises(UserError, match="the template is broken"):
        in_background(wrong).result()
    assert in_background(lambda: 7).result() == 7


def test_calls_of_many_threads_are_charged_once_each_in_the_order_of_their_names(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "tree.jsonl")
    bill = Bill(store, Budget(llm_tokens=400))
    threads = [threading.Thread(target=bill.note, args=(f"{i:04d}/turn-1", 10, 0.5)) for i in range(39)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.ledger.llm_calls == 0, "the driver's thread alone writes"
    assert bill.spent_limit() is None
    bill.note("0039/turn-1", 10, 0.5)
    assert bill.spent_limit() == "llm_tokens", "what is not charged yet counts"
    bill.settle()
    bill.settle()
    assert (store.ledger.llm_calls, store.ledger.llm_tokens, store.ledger.llm_dollars) == (40, 400, 20.0)
    assert [line.split('"name": "')[1][:4] for line in store.path.read_text().splitlines()] == [
        f"{i:04d}" for i in range(40)
    ]


def test_a_call_under_way_is_not_made_again_by_the_next_driver_of_a_process(tmp_path: Path) -> None:
    """An interrupted driver leaves its call under way; whoever continues the search waits for it."""
    charged: list[str] = []

    def endpoint(url: str) -> Endpoint:
        made = Endpoint(LlmSettings(model="scripted", base_url=url, api_key_env=None))
        journal = CallJournal(tmp_path, lambda name, *_: charged.append(name), (), lambda: None)
        made.connect(journal)
        return made

    with LLMServer(lambda request: Answer(content="yes", delay_s=0.5)) as server:
        call, words = CallId("0002", "proposal", "0001"), [{"role": "user", "content": "Well?"}]
        drivers = [endpoint(server.url), endpoint(server.url)]
        first, second = (in_background(partial(driver.ask, call, words)) for driver in drivers)
        assert first.result().text == second.result().text == "yes"
        assert len(server.requests) == 1
    assert charged == ["0002/proposal-0001-1"] * 2, "by either driver, in its own log"
