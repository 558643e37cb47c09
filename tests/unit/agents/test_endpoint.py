"""Calls of a language model over real HTTP: dialects, retries, limits, keys, the journal and the cassette."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.endpoint import CallError, Endpoint, LlmSettings
from llmzero.agents.journal import CallId, CallJournal
from llmzero.agents.llm_stopper import SCHEMA as STOP_SCHEMA
from llmzero.agents.reply import Reply
from llmzero.agents.slots import slot
from llmzero.core.errors import UserError
from tests.llm_server import Answer, Hostile, LLMServer, Mind, Request, answer_json, script

CALL = CallId("0003", "proposal", "0001")
SCHEMA = {
    "type": "object",
    "properties": {"changes": {"type": "array"}},
    "required": ["changes"],
    "additionalProperties": False,
}
QUESTION = [{"role": "system", "content": "You answer."}, {"role": "user", "content": "What now?"}]
GOOD = {"changes": []}
KEY = "sk-secret-of-the-test-0123456789"

Ledger = list[tuple[str, int, float]]


def journal(nodes: Path, ledger: Ledger, spent: Callable[[], str | None] = lambda: None) -> CallJournal:
    def charge(name: str, tokens: int, dollars: float) -> None:
        ledger.append((name, tokens, dollars))

    return CallJournal(nodes, charge, {name for name, _, _ in ledger}, spent)


def endpoint(url: str, nodes: Path, ledger: Ledger | None = None, **settings: Any) -> Endpoint:
    spent = settings.pop("spent", lambda: None)
    usual = LlmSettings(model="scripted", base_url=url, api_key_env=None, retries=0, timeout_s=5.0)
    made = Endpoint(replace(usual, **settings))
    made.connect(journal(nodes, [] if ledger is None else ledger, spent))
    return made


def ask(made: Endpoint, call: CallId = CALL) -> Reply:
    return made.ask(call, QUESTION, schema=SCHEMA)


def good(request: Request) -> Answer:
    return answer_json(request, GOOD)


def records(nodes: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(nodes.glob("*/calls/*.json"))]


# --- how JSON is asked for ---


@pytest.mark.parametrize("form", ["strict", "tool", "object", "plain"])
def test_the_form_an_endpoint_has_is_found_out_once(tmp_path: Path, form: str) -> None:
    with LLMServer(good, forms=[form]) as server:
        made = endpoint(server.url, tmp_path)
        assert [json.loads(ask(made).text) for _ in range(3)] == [GOOD] * 3
        tried = {"strict": 0, "tool": 2, "object": 3, "plain": 4}[form]
        assert len(server.requests) == 3 + tried
        assert all(request.form == form for request in server.requests[tried:])
        assert ("<answer-schema>" in server.requests[-1].system) == (form in ("object", "plain"))
        assert [record["form"] for record in records(tmp_path)] == [
            "bounded" if form == "strict" else form
        ] * 3


def test_an_endpoint_that_ignores_a_form_is_asked_in_a_plainer_one(tmp_path: Path) -> None:
    def prose_unless_told(request: Request) -> Answer:
        return Answer(
            content=json.dumps(GOOD) if "<answer-schema>" in request.text else "Let me think about it."
        )

    with LLMServer(prose_unless_told, silent_forms=["strict", "tool"]) as server:
        made = endpoint(server.url, tmp_path)
        assert [ask(made).text for _ in range(5)] == ["Let me think about it."] * 3 + [json.dumps(GOOD)] * 2


def test_bounds_on_texts_are_left_out_for_an_endpoint_that_does_not_know_them(tmp_path: Path) -> None:
    def picky(request: Request) -> Answer:
        return (
            Answer(status=400, error="'maxLength' is not permitted.")
            if "maxLength" in json.dumps(request.schema)
            else good(request)
        )

    schema = {"type": "object", "properties": {"changes": {"type": "string", "maxLength": 5}}}
    with LLMServer(picky) as server:
        endpoint(server.url, tmp_path).ask(CALL, QUESTION, schema=schema)
        assert [request.schema for request in server.requests] == [
            schema,
            {"type": "object", "properties": {"changes": {"type": "string"}}},
        ]


def test_a_reply_that_was_cut_does_not_make_an_endpoint_plainer(tmp_path: Path) -> None:
    with LLMServer(script([Answer(content='{"changes": [', finish_reason="length"), good])) as server:
        made = endpoint(server.url, tmp_path)
        assert ask(made).cut
        assert json.loads(ask(made).text) == GOOD
        assert [request.form for request in server.requests] == ["strict", "strict"]


def test_an_endpoint_that_wants_max_tokens_gets_it(tmp_path: Path) -> None:
    with LLMServer(good, rejects=["max_completion_tokens"]) as server:
        made = endpoint(server.url, tmp_path, max_reply_tokens=77, temperature=0.5, extra={"top_p": 0.9})
        ask(made)
        body = server.requests[-1].body
        assert (body["max_tokens"], body["temperature"], body["top_p"], server.requests[-1].form) == (
            77,
            0.5,
            0.9,
            "strict",
        )


def test_a_refusal_that_no_dialect_mends_leaves_the_dialect_as_it_was(tmp_path: Path) -> None:
    too_long = Answer(status=400, error="This model's maximum context length is 10 tokens.")
    with LLMServer(script([good, too_long, good])) as server:
        made = endpoint(server.url, tmp_path)
        ask(made)
        with pytest.raises(CallError, match="maximum context length"):
            ask(made)
        ask(made)
        assert [request.form for request in server.requests] == ["strict"] * 3


# --- illness ---


@pytest.mark.parametrize(
    "illness",
    [
        Answer(status=429, error="slow down", headers={"retry-after-ms": "1"}),
        Answer(status=500, error="oh", headers={"retry-after-ms": "1"}),
        Answer(status=503, error="busy", headers={"retry-after-ms": "1"}),
        Answer(content="half", cut_after=20),
        Answer(raw=b"<html>"),
    ],
)
def test_passing_illness_is_retried(tmp_path: Path, illness: Answer) -> None:
    with LLMServer(script([illness, good])) as server:
        assert json.loads(ask(endpoint(server.url, tmp_path, retries=1)).text) == GOOD
        assert len(server.requests) == 2


def test_silence_and_dripping_are_given_up(tmp_path: Path) -> None:
    for illness in (Answer(content="late", delay_s=30), Answer(content="x" * 5000, drip_s=0.05)):
        with LLMServer(script([illness])) as server, pytest.raises(CallError, match=r"imeout"):
            ask(endpoint(server.url, tmp_path, timeout_s=0.3))


def test_whatever_an_endpoint_does_the_caller_gets_a_reply_or_a_call_error(tmp_path: Path) -> None:
    mind = Hostile(silence_s=5, drip_s=0.0001)
    ledger: Ledger = []
    with LLMServer(mind) as server:
        made = endpoint(
            server.url,
            tmp_path,
            ledger,
            timeout_s=1.0,
            breaker_failures=10**9,
            price_input=1.0,
            price_output=2.0,
        )
        kinds = set()
        while len(mind.drawn) < len(mind.manners):
            try:
                kinds.add(type(made.ask(CALL, QUESTION, schema=STOP_SCHEMA).text))
            except CallError:
                kinds.add(CallError)
    assert kinds == {str, CallError}
    assert all(0 <= tokens < 10**7 and 0 <= dollars < 20 for _, tokens, dollars in ledger)
    assert len(ledger) == len(records(tmp_path)), "every call is stored and charged, failed ones too"


def test_after_repeated_failure_the_endpoint_is_left_alone_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with LLMServer(script([Answer(status=500, error="no")])) as server, caplog.at_level(logging.WARNING):
        made = endpoint(server.url, tmp_path, breaker_failures=2, breaker_pause_s=0.2)
        for message in ("no", "no", "left alone for", "left alone for"):
            with pytest.raises(CallError, match=message):
                made.ask(CALL, QUESTION)
        assert len(server.requests) == 2
        assert "rules decide in its place" in caplog.text
        made._breaker.open_until = 0.0  # the pause is over
        with pytest.raises(CallError, match="InternalServerError"):
            made.ask(CALL, QUESTION)
        assert len(server.requests) == 3


def test_calls_at_once_are_limited_over_all_endpoints_of_one_address(tmp_path: Path) -> None:
    def slow(request: Request) -> Answer:
        return Answer(content="{}", delay_s=0.05)

    def three_calls(nodes: Path) -> None:
        made = endpoint(server.url, nodes, max_at_once=2)
        for _ in range(3):
            ask(made)

    with LLMServer(slow) as server:
        threads = [threading.Thread(target=three_calls, args=(tmp_path / str(i),)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) >= 15
        assert server.most_at_once == 2


# --- keys and set-up ---


def test_the_key_is_sent_and_appears_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def parrot(request: Request) -> Answer:
        """Sends the key back, in a reply and in errors."""
        said = request.headers["authorization"]
        return (
            Answer(content=said, tool_calls=[("see", {"key": said})])
            if len(server.requests) % 2
            else Answer(status=500, error=said)
        )

    monkeypatch.setenv("MY_KEY", KEY)
    with LLMServer(parrot, api_key=KEY) as server:
        made = endpoint(server.url, tmp_path, api_key_env="MY_KEY")
        for _ in range(6):
            with pytest.raises(CallError) if len(server.requests) % 2 else nullcontext():
                ask(made)
    assert all(KEY in request.headers["authorization"] for request in server.requests)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"[key]" in written
    assert KEY.encode() not in written
    assert KEY not in caplog.text


def test_a_set_up_that_cannot_work_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"api_key_env=NO_SUCH_KEY: this environment variable.*api_key_env=null"
    ):
        Endpoint(LlmSettings(model="m", api_key_env="NO_SUCH_KEY")).check()
    with pytest.raises(UserError, match=r"contains a password"):
        Endpoint(LlmSettings(model="m", base_url="http://me:word@somewhere/v1", api_key_env=None))
    with pytest.raises(UserError, match=r"llm\.model: needs the name of a model"):
        Endpoint(LlmSettings())
    with pytest.raises(UserError, match=r"nobody answers there .*is it running"):
        endpoint("http://127.0.0.1:9/v1", tmp_path).check()
    monkeypatch.setenv("MY_KEY", KEY)
    with (
        LLMServer(good, api_key="another") as server,
        pytest.raises(UserError, match=r"the key in MY_KEY is not accepted") as refused,
    ):
        endpoint(server.url, tmp_path, api_key_env="MY_KEY").check()
    assert KEY not in str(refused.value)
    with LLMServer(good) as server:
        endpoint(server.url, tmp_path).check()
        assert server.requests == [], "a check costs nothing"


# --- the journal ---


def test_every_call_is_stored_with_its_images_and_charged(tmp_path: Path) -> None:
    ledger: Ledger = []
    image = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"PNG").decode()},
    }
    with LLMServer(good) as server:
        made = endpoint(server.url, tmp_path, ledger, price_input=3.0, price_output=15.0)
        question = [*QUESTION, {"role": "user", "content": [{"type": "text", "text": "look"}, image]}]
        reply = made.ask(CALL, question, schema=SCHEMA)
        assert server.requests[0].images == [image["image_url"]["url"]]
    (record,) = records(tmp_path)
    assert record["messages"][2]["content"][1]["image_url"]["url"] == "proposal-0001-1-1.png"
    assert (tmp_path / "0003/calls/proposal-0001-1-1.png").read_bytes() == b"PNG"
    assert record["text"] == json.dumps(GOOD)
    assert record["seconds"] >= 0
    assert (
        record["dollars"]
        == reply.dollars
        == pytest.approx((3 * reply.prompt_tokens + 15 * reply.completion_tokens) / 1e6)
    )
    assert ledger == [("0003/proposal-0001-1", reply.tokens, reply.dollars)]


def test_a_restarted_process_finds_its_calls_and_pays_for_none_twice(tmp_path: Path) -> None:
    ledger: Ledger = []
    with LLMServer(script([{"changes": [1]}, {"changes": [2]}, {"changes": [3]}])) as server:
        made = endpoint(server.url, tmp_path, ledger)
        first = [ask(made).text for _ in range(2)]
        made = endpoint(server.url, tmp_path, ledger)
        assert [ask(made).text for _ in range(2)] == first
        assert len(server.requests) == len(ledger) == 2
        ask(made, CallId("0003", "proposal", "0002"))
        assert len(server.requests) == len(ledger) == 3


def test_a_call_whose_driver_was_killed_before_it_was_charged_is_charged_once(tmp_path: Path) -> None:
    lost: Ledger = []
    with LLMServer(good) as server:
        ask(endpoint(server.url, tmp_path, lost, price_input=1.0, price_output=1.0))
    settled: Ledger = []
    (calls,) = tmp_path.glob("*/calls")
    torn = calls / ".proposal-0001-2.json.1.tmp"
    torn.write_text('{"made": ')
    for _ in range(2):
        journal(tmp_path, settled).settle()
    assert settled == lost
    assert not torn.exists()


def test_a_spent_budget_makes_no_call(tmp_path: Path) -> None:
    ledger: Ledger = []
    with LLMServer(good) as server:
        made = endpoint(server.url, tmp_path, ledger, spent=lambda: "llm_dollars" if ledger else None)
        ask(made)
        with pytest.raises(CallError, match=r"budget\.llm_dollars is spent"):
            ask(made)
        assert len(server.requests) == len(ledger) == 1


# --- the cassette ---


def test_a_cassette_replays_replies_and_failures_without_an_endpoint(tmp_path: Path) -> None:
    mind: Mind = script([{"changes": [1]}, Answer(status=500, error="ill"), {"changes": [2]}])
    ledger: Ledger = []
    with LLMServer(mind) as server:
        made = endpoint(
            server.url, tmp_path / "a/nodes", cassette="record", cassette_dir=str(tmp_path / "tape")
        )
        heard = [_outcome(made) for _ in range(3)]
    for source in ("tape", "a"):
        nodes = tmp_path / f"replay-of-{source}" / "nodes"
        made = endpoint(
            server.url,
            nodes,
            ledger,
            cassette="replay",
            cassette_dir=str(tmp_path / source),
            api_key_env="NO_SUCH_KEY",
        )
        made.check()
        assert [_outcome(made) for _ in range(3)] == heard
        assert all(dollars == 0 for _, _, dollars in ledger)
        assert [record["text"] for record in records(nodes)] == [
            record["text"] for record in records(tmp_path / "a/nodes")
        ]
        assert not made.knows(CALL)
        with pytest.raises(
            UserError, match=r"proposal-0001-4\.json does not exist: the search took another way"
        ):
            ask(made)


def _outcome(made: Endpoint) -> str:
    try:
        return ask(made).text
    except CallError as error:
        return f"failed: {error}"


# --- bounds ---


@contextmanager
def raw_server(beginning: bytes, repeated: bytes, pause_s: float) -> Iterator[str]:
    """Serve bytes that need not be HTTP: a beginning, then the same again and again until the client goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(beginning)
            while True:
                connection.sendall(repeated)
                time.sleep(pause_s)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("status", [400, 401, 404, 302, 500])
def test_an_error_without_an_end_is_read_in_part(tmp_path: Path, status: int) -> None:
    flood = Answer(status=status, raw=b"no " * 100_000, endless=True, headers={"location": "/v1/elsewhere"})
    with LLMServer(lambda request: flood, forms=["plain"]) as server:
        with pytest.raises(CallError, match=f"{status}"):
            ask(endpoint(server.url, tmp_path))
        assert server.sent < 50_000_000
    (record,) = records(tmp_path)
    assert len(record["error"]) < 1200


@pytest.mark.parametrize("status", [200, 500])
def test_a_list_of_models_without_an_end_is_not_waited_for(
    tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    flood = Answer(status=status, raw=b"[" * 1_000_000, endless=True)
    with LLMServer(good, listing=flood) as server, caplog.at_level(logging.WARNING):
        endpoint(server.url, tmp_path).check()
        assert server.sent < 50_000_000
    assert "does not list its models" in caplog.text
    assert len(caplog.text) < 2000


def test_a_reply_without_an_end_is_given_up(tmp_path: Path) -> None:
    with LLMServer(lambda request: Answer(raw=b"{" * 1_000_000, endless=True)) as server:
        with pytest.raises(CallError, match="longer than 8000000 bytes"):
            ask(endpoint(server.url, tmp_path))
        assert server.sent < 50_000_000


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 200), ("gzip", 400), ("deflate", 200), ("GZIP, gzip", 200)]
)
def test_compressed_bodies_are_not_unpacked(tmp_path: Path, encoding: str, status: int) -> None:
    bomb = zlib.compress(bytes(200_000_000), 9, wbits=31 if encoding != "deflate" else 15)
    answer = Answer(status=status, raw=bomb, headers={"content-encoding": encoding})
    with LLMServer(lambda request: answer, forms=["plain"]) as server:
        made = endpoint(server.url, tmp_path)
        tracemalloc.start()
        with pytest.raises(CallError, match="compressed" if status == 200 else "400"):
            ask(made)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert peak < 20_000_000


@pytest.mark.parametrize("status", [400, 500])
def test_the_body_of_an_error_has_a_deadline(tmp_path: Path, status: int) -> None:
    drip = Answer(status=status, raw=b"n", endless=True, drip_s=0.05)
    with (
        LLMServer(lambda request: drip, forms=["plain"]) as server,
        pytest.raises(CallError, match=f"{status}"),
    ):
        ask(endpoint(server.url, tmp_path, timeout_s=0.3))


@pytest.mark.parametrize(
    ("beginning", "repeated"),
    [
        (b"HTTP/1.1 200 OK\r\nx-slow: ", b"a"),
        (b"HTTP/1.1 400 Bad Request\r\n", b"x: 1\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x-trailer: 1\r\n"),
    ],
)
def test_headers_that_never_end_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes, repeated: bytes
) -> None:
    monkeypatch.setattr("llmzero.agents.endpoint.CHECK_S", 0.3)
    with raw_server(beginning, repeated, 0.02) as url:
        with pytest.raises(CallError):
            ask(endpoint(url, tmp_path, timeout_s=0.3))
        with suppress(UserError):
            endpoint(url, tmp_path).check()
    assert records(tmp_path)[0]["seconds"] < 30


def test_redirections_are_not_followed(tmp_path: Path) -> None:
    with LLMServer(good) as elsewhere:
        away = Answer(status=307, raw=b"", headers={"location": f"{elsewhere.url}/chat/completions"})
        with LLMServer(lambda request: away) as server, pytest.raises(CallError, match="307"):
            ask(endpoint(server.url, tmp_path))
        assert elsewhere.requests == []


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("nested", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_nested_replies_are_no_answers(tmp_path: Path, nested: str, status: int) -> None:
    message = '{"choices": [{"message": {"content": %s, "tool_calls": %s}}]}'
    inside = [(nested, "null"), ("null", nested), ('"x"', f"[{nested}]")]
    raws = (nested, *(message % parts for parts in inside))
    answers = [Answer(raw=raw.encode(), status=status) for raw in raws]
    with LLMServer(script(answers), forms=["plain"]) as server:
        for _ in answers:
            with pytest.raises(CallError):
                ask(endpoint(server.url, tmp_path))


def test_an_endpoint_whose_slots_are_held_for_ever_counts_as_failed(tmp_path: Path) -> None:
    with LLMServer(good) as server, slot(server.url, 1, 1.0):
        with pytest.raises(CallError, match=r"TimeoutError: all 1 slots .* \(llm.max_at_once\) are taken"):
            ask(endpoint(server.url, tmp_path, max_at_once=1, timeout_s=0.1))
        assert server.requests == []


def test_a_folder_of_locks_that_others_have_access_to_is_refused_before_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "llmzero-slots").mkdir()
    (tmp_path / "llmzero-slots").chmod(0o777)
    with LLMServer(good) as server:
        with pytest.raises(UserError, match="must belong to you alone"):
            endpoint(server.url, tmp_path).check()
        with pytest.raises(CallError, match="must belong to you alone"):
            ask(endpoint(server.url, tmp_path))


# --- keys ---


@pytest.mark.parametrize("blanks", ["\n", "\r", "\r\n", " \t\r\n"])
def test_the_line_end_of_a_key_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blanks: str
) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}{blanks}")
    with LLMServer(good, api_key=KEY) as server:
        made = endpoint(server.url, tmp_path, api_key_env="MY_KEY")
        made.check()
        assert json.loads(ask(made).text) == GOOD
    monkeypatch.setenv("MY_KEY", blanks)
    with pytest.raises(UserError, match=r"MY_KEY.*is not set"):
        endpoint("http://127.0.0.1:9/v1", tmp_path, api_key_env="MY_KEY").check()


@pytest.mark.parametrize("key", ["x", "EMPTY", "1234567"])
def test_a_key_too_short_to_be_redacted_is_refused_with_length_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    told = rf"MY_KEY: .* has {len(key)} characters; one of fewer than 8 .*llm\.api_key_env=null"
    with pytest.raises(UserError, match=told):
        endpoint("http://127.0.0.1:9/v1", tmp_path, api_key_env="MY_KEY")
    cassette = {"cassette": "replay", "cassette_dir": str(tmp_path)}
    assert endpoint("http://127.0.0.1:9/v1", tmp_path, api_key_env="MY_KEY", **cassette).replays
    monkeypatch.setenv("MY_KEY", "12345678")
    with LLMServer(good, api_key="12345678") as server:
        endpoint(server.url, tmp_path, api_key_env="MY_KEY").check()


def test_a_reply_is_read_as_it_came_and_stored_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is a piece of JSON would take the answer with it, were it taken out before."""
    key = '"changes":'
    monkeypatch.setenv("MY_KEY", key)
    text = json.dumps({"changes": [1]})
    with LLMServer(script([Answer(content=text)]), api_key=key) as server:
        made = endpoint(server.url, tmp_path, api_key_env="MY_KEY")
        assert ask(made).text == text
        again = endpoint(server.url, tmp_path, api_key_env="MY_KEY")
        assert ask(again).text == "{[key] [1]}"
        assert len(server.requests) == 1
    assert key not in (tmp_path / "0003/calls/proposal-0001-1.json").read_text()


@pytest.mark.parametrize("bad", ["\r\n", "\x01", " ", "\x7f", "é", "\u2028", "\x1b[2J"])
def test_a_key_that_cannot_be_sent_is_refused_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setenv("MY_KEY", f"sk-secret{bad}0123456789")
    with pytest.raises(UserError, match=r"llm\.api_key_env=MY_KEY") as refused:
        endpoint("http://127.0.0.1:9/v1", tmp_path, api_key_env="MY_KEY")
    assert "sk-secret" not in str(refused.value)
    assert "0123456789" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://sk-hidden@host/v1", "user name"),
        ("http://:sk-hidden@host/v1", "password"),
        ("http://me:sk-hidden@host/v1", "password"),
        ("http://@sk-hidden/v1", "user name"),
        ("https://host/v1?api_key=sk-hidden", "query"),
        ("https://host/v1?sk-hidden", "query"),
        ("https://host/v1#sk-hidden", "fragment"),
        ("https://sk-hidden:x/v1", "is no address"),
        ("https://[sk-hidden/v1", "is no address"),
        ("sk-hidden", "is no address"),
        ("ftp://sk-hidden/v1", "is no address"),
        ("http://host/\r\nsk-hidden: x", "is no address"),
    ],
)
def test_an_address_holds_no_secret(url: str, part: str) -> None:
    with pytest.raises(UserError, match=part) as refused:
        LlmSettings(base_url=url)
    assert "sk-hidden" not in str(refused.value)


@pytest.mark.parametrize("key", ["sk-proj-0123456789abcdefgh", "0123456789abcdef0123456789abcdef", "a b", ""])
def test_a_key_in_place_of_its_variables_name_is_not_printed(key: str) -> None:
    with pytest.raises(UserError, match=r"llm.api_key_env: must be the name") as refused:
        LlmSettings(api_key_env=key)
    assert not key or key not in str(refused.value)


def test_headers_are_sent_and_written_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {"extra_headers": {"X-Gateway": f"Token {KEY}"}, "extra_body": {"api_key": "gateway-key-of-body"}}

    def parrot(request: Request) -> Answer:
        said = f"{request.headers['x-gateway']} {request.body['api_key']}"
        return Answer(content=said) if len(server.requests) % 2 else Answer(status=500, error=said)

    with LLMServer(parrot) as server:
        made = endpoint(server.url, tmp_path, extra=extra)
        made.ask(CALL, QUESTION)
        with pytest.raises(CallError):
            made.ask(CALL, QUESTION)
    assert server.requests[0].headers["x-gateway"] == f"Token {KEY}"
    written = "".join(file.read_text() for file in tmp_path.rglob("*.json")) + caplog.text
    assert "[key]" in written
    assert KEY not in written
    assert "gateway-key-of-body" not in written


def test_a_masked_header_is_not_sent(tmp_path: Path) -> None:
    with LLMServer(good) as server, pytest.raises(UserError, match="stored nowhere; give the values again"):
        endpoint(server.url, tmp_path, extra={"extra_headers": {"X-Gateway": "[key]"}}).check()


def test_a_secret_in_the_evidence_reaches_neither_endpoint_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_stage")
    question = [
        *QUESTION,
        {"role": "user", "content": [{"type": "text", "text": "failed: hf_secret_of_a_stage"}]},
    ]
    with LLMServer(good) as server:
        endpoint(server.url, tmp_path).ask(CALL, question, schema=SCHEMA)
        assert "failed: [key]" in server.requests[0].text
    assert "hf_secret" not in json.dumps(records(tmp_path))


def test_replies_with_any_character_are_stored(tmp_path: Path) -> None:
    odd = "nul \x00 escape \x1b surrogates \ud800 \udfff end"
    with LLMServer(script([Answer(content=odd), Answer(status=400, error=odd)]), forms=["plain"]) as server:
        made = endpoint(server.url, tmp_path)
        assert made.ask(CALL, QUESTION).text == odd
        with pytest.raises(CallError, match=r"nul +escape +surrogates +end"):
            made.ask(CALL, QUESTION)
    assert [record["text"] for record in records(tmp_path)] == [odd, ""]
