"""The shapes in which endpoints reply, refuse and fail, over real HTTP: what is paid for is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.endpoint import CallError
from llmzero.agents.found_json import json_object
from tests.llm_server import Answer, LLMServer, Request, script
from tests.unit.agents.test_endpoint import CALL, GOOD, QUESTION, SCHEMA, Ledger, ask, endpoint, good, records

TEXT = json.dumps(GOOD)
USAGE = {"prompt_tokens": 7, "completion_tokens": 5}


def completion(message: dict[str, Any], finish_reason: str = "stop", **more: Any) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return Answer(raw=json.dumps({"choices": [choice], "usage": USAGE, **more}).encode())


def call_of(arguments: Any, name: str = "answer") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def events(*chunks: Any, end: str = "data: [DONE]\n\n", separator: str = "\n\n") -> bytes:
    return "".join(f"data: {json.dumps(chunk)}{separator}" for chunk in chunks).encode() + end.encode()


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


PIECES = (
    delta(role="assistant", content=""),
    delta(content=TEXT[:5]),
    delta(content=TEXT[5:]),
    delta("stop"),
    {"choices": [], "usage": USAGE},
)
CALL_PIECES = (
    delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "answer", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": TEXT[:5]}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": TEXT[5:]}}]),
)
SHAPES: dict[str, Answer] = {
    "arguments as an object": completion({"content": None, "tool_calls": [call_of(GOOD)]}),
    "one call that is no list": completion({"content": None, "tool_calls": call_of(TEXT)}),
    "a call of the old protocol": completion({"content": None, "function_call": call_of(TEXT)["function"]}),
    "the old protocol, an object": completion({"function_call": call_of(GOOD)["function"]}),
    "arguments encoded twice": completion({"content": "Sure:", "tool_calls": [call_of(json.dumps(TEXT))]}),
    "a call without a name": completion({"content": None, "tool_calls": [{"function": {"arguments": TEXT}}]}),
    "content beside calls of null": completion({"content": TEXT, "tool_calls": [None]}),
    "content beside calls of text": completion({"content": TEXT, "tool_calls": "none"}),
    "an empty call beside reasoning": completion(
        {"content": "", "tool_calls": [call_of("")], "reasoning_content": TEXT}
    ),
    "details of reasoning": completion(
        {"content": None, "reasoning_details": [{"type": "reasoning.text", "text": TEXT}]}
    ),
    "a piece of a stream in a body": Answer(
        raw=json.dumps({"choices": [delta(content=TEXT)["choices"][0]], "usage": USAGE}).encode()
    ),
    "content beside an empty call": completion({"content": TEXT, "tool_calls": [call_of("{}")]}),
    "null content beside reasoning": completion({"content": None, "reasoning_content": f"Hm. {TEXT}"}),
    "empty content beside reasoning": completion({"content": "\n\n", "reasoning": TEXT}),
    "content beside reasoning": completion({"content": TEXT, "reasoning_content": '{"changes": [9]}'}),
    "parts": completion(
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": '{"changes": [9]}'}]},
                {"type": "text", "text": TEXT[:4]},
                {"type": "text", "text": TEXT[4:]},
            ]
        }
    ),
    "a part whose text is an object": completion(
        {"content": [{"type": "output_text", "text": {"value": TEXT}}]}
    ),
    "content as the object itself": completion({"content": GOOD}),
    "text of the old protocol": Answer(
        raw=json.dumps({"choices": [{"text": TEXT}], "usage": USAGE}).encode()
    ),
    "a byte-order mark": Answer(raw=b"\xef\xbb\xbf" + (completion({"content": TEXT}).raw or b"")),
    "letters that are no UTF-8": Answer(
        raw=(completion({"content": TEXT, "name": "NAME"}).raw or b"").replace(b"NAME", b"\xff")
    ),
    "an error of null": completion({"content": TEXT}, error=None),
    "a stream": Answer(raw=events(*PIECES), headers={"content-type": "text/event-stream"}),
    "a stream with comments": Answer(
        raw=b": keep-alive\r\n\r\nevent: x\r\n" + events(*PIECES, separator="\r\n\r\n")
    ),
    "a stream without an end": Answer(raw=events(*PIECES, end="")),
    "a stream of calls": Answer(raw=events(*CALL_PIECES, {"choices": [], "usage": USAGE})),
    "a stream of reasoning": Answer(
        raw=events(delta(reasoning_content='{"changes": [9]}'), *PIECES, end="data:[DONE]")
    ),
    "a stream of one whole message": Answer(raw=events(json.loads(completion({"content": TEXT}).raw or b""))),
    "a stream without empty lines": Answer(raw=b": a comment\n" + events(*PIECES, separator="\r\n")),
    "lines of Ollama": Answer(
        raw="\n".join(
            json.dumps({"message": {"role": "assistant", "content": text}, "usage": USAGE})
            for text in (TEXT[:5], TEXT[5:])
        ).encode()
    ),
    "lines of JSON": Answer(raw="\n".join(map(json.dumps, PIECES)).encode()),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_reply_in_any_shape_is_used_at_once(tmp_path: Path, shape: str) -> None:
    with LLMServer(script([SHAPES[shape]])) as server:
        reply = ask(endpoint(server.url, tmp_path))
        assert (json_object(reply.text, "changes"), len(server.requests)) == (GOOD, 1)
        assert (reply.prompt_tokens, reply.completion_tokens) == (7, 5)


def error_of(error: Any, **more: Any) -> Answer:
    return Answer(raw=json.dumps({"id": None, "choices": None, "error": error, **more}).encode())


PASSING: dict[str, Answer] = {
    "429": error_of({"message": "slow down please", "code": 429}),
    "a code in words": error_of({"message": "slow down please", "code": "rate_limit_exceeded"}),
    "a type": error_of({"message": "slow down please", "type": "overloaded_error"}),
    "a text": error_of("slow down please: the server is overloaded"),
    "within": error_of({"message": "slow down please", "metadata": {"raw": "x", "status": "503"}}),
    "of a choice": Answer(
        raw=json.dumps(
            {"choices": [{"error": {"code": 502, "message": "slow down please"}, "finish_reason": "error"}]}
        ).encode()
    ),
    "of no choices": Answer(
        raw=json.dumps({"choices": [], "error": {"code": 500, "message": "slow down please"}}).encode()
    ),
    "bare": Answer(raw=json.dumps({"object": "error", "message": "slow down please", "code": 503}).encode()),
    "beside an empty message": completion(
        {"content": None}, error={"message": "slow down please", "code": "503"}
    ),
    "in other words": Answer(raw=json.dumps({"code": "429", "msg": "slow down please"}).encode()),
    "within a response": Answer(
        raw=json.dumps(
            {"base_resp": {"status_code": 1002, "status_msg": "slow down please: rate limit"}}
        ).encode()
    ),
    "beside choices of null": Answer(
        raw=json.dumps({"choices": None, "message": "slow down please", "status": 429}).encode()
    ),
    "a code with a point": error_of({"message": "slow down please", "code": 429.0}),
    "of a stream, bare": Answer(raw=events({"message": "slow down please", "code": 429})),
    "of a stream": Answer(raw=events({"error": {"message": "slow down please", "code": 429}})),
}


@pytest.mark.parametrize("shape", PASSING)
def test_a_passing_error_in_a_reply_of_status_200_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    monkeypatch.setattr("llmzero.agents.endpoint.BACK_OFF_S", 0.001)
    with LLMServer(script([PASSING[shape], PASSING[shape], good])) as server:
        assert json.loads(ask(endpoint(server.url, tmp_path, retries=2)).text) == GOOD
        assert len(server.requests) == 3
    with LLMServer(script([PASSING[shape]])) as server:
        with pytest.raises(CallError, match="slow down please"):
            endpoint(server.url, tmp_path / "b", retries=1).ask(CALL, QUESTION)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "error",
    [
        {"message": "bad key", "code": 401},
        {"message": "bad key", "code": "401"},
        {"message": "bad key: You exceeded your current quota", "code": "insufficient_quota"},
        {"message": "bad key", "code": 429, "type": "insufficient_quota"},
        "bad key",
    ],
)
def test_a_lasting_error_in_a_reply_of_status_200_is_told_at_once(tmp_path: Path, error: Any) -> None:
    with LLMServer(script([error_of(error)])) as server:
        with pytest.raises(CallError, match=r"an error.* in place of an answer: bad key"):
            endpoint(server.url, tmp_path, retries=3).ask(CALL, QUESTION)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(raw=b"<!DOCTYPE html><title>Open\nWebUI</title>"),
            r"a page of HTML \(Open WebUI\).*llm.base_url",
        ),
        (Answer(raw=b"{}"), "holds no choices"),
        (Answer(raw=b'{"choices": []}'), "holds no choices"),
        (Answer(raw=b"[]"), "no chat completion"),
        (Answer(raw=b"upstream went away"), "no JSON: upstream went away"),
        (Answer(raw=b""), "no JSON: it is empty"),
        (Answer(raw=b'data: {"choices": [{"del'), r"no JSON: data: \{"),
    ],
)
def test_what_is_no_reply_is_named(tmp_path: Path, answer: Answer, words: str) -> None:
    with LLMServer(script([answer])) as server, pytest.raises(CallError, match=words):
        endpoint(server.url, tmp_path).ask(CALL, QUESTION)


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (completion({"content": None, "refusal": "I can't."}), "The model refused to answer: I can't."),
        (
            completion({"content": [{"type": "refusal", "refusal": "No."}]}),
            "The model refused to answer: No.",
        ),
        (completion({"content": ""}, "content_filter"), "finish_reason=content_filter"),
        (completion({"content": ""}, "SAFETY"), "finish_reason=safety"),
    ],
)
def test_a_refusal_and_a_filter_are_named_and_charged(tmp_path: Path, answer: Answer, trouble: str) -> None:
    ledger: Ledger = []
    with LLMServer(script([answer, good])) as server:
        made = endpoint(server.url, tmp_path, ledger)
        first = ask(made)
        assert (first.text, trouble in first.trouble) == ("", True)
        assert json.loads(ask(made).text) == GOOD
        assert [request.form for request in server.requests] == ["strict"] * 2, "forms are not to blame"
        again = endpoint(server.url, tmp_path, ledger)
        assert ask(again) == first, "a stored call says the same"
    assert ledger[0][1] == 12


@pytest.mark.parametrize(
    "lost",
    [
        {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "cut"}}]},
        {"choices": [], "error": {"code": 429, "message": "slow down"}},
        {"choices": []},
    ],
)
def test_what_a_reply_without_an_answer_costs_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: dict[str, Any]
) -> None:
    monkeypatch.setattr("llmzero.agents.endpoint.BACK_OFF_S", 0.001)
    answer = Answer(raw=json.dumps({**lost, "usage": USAGE}).encode())
    ledger: Ledger = []
    prices = {"price_input": 1e6, "price_output": 2e6, "retries": 1}
    with LLMServer(script([answer, completion({"content": TEXT}), answer])) as server:
        made = endpoint(server.url, tmp_path, ledger, **prices)
        assert json.loads(ask(made).text) == GOOD
        with pytest.raises(CallError):
            ask(made)
        assert len(server.requests) == 4
    assert [entry[1:] for entry in ledger] == [(24, 34.0), (24, 34.0)]


def test_a_reply_that_was_cut_within_its_reasoning_is_no_draft(tmp_path: Path) -> None:
    cut = completion({"content": None, "reasoning_content": TEXT}, "length")
    with LLMServer(script([cut])) as server:
        reply = ask(endpoint(server.url, tmp_path))
    assert (reply.text, reply.cut) == ("", True)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": "7"}, [], 3])
def test_usage_that_says_nothing_is_estimated(tmp_path: Path, usage: Any) -> None:
    answer = completion({"content": TEXT}, usage=usage)
    with LLMServer(script([answer])) as server:
        reply = ask(endpoint(server.url, tmp_path))
    assert 0 < reply.completion_tokens <= len(TEXT)
    assert reply.prompt_tokens > 0


def test_usage_in_other_words_counts(tmp_path: Path) -> None:
    answer = completion({"content": TEXT}, usage={"input_tokens": 7.0, "output_tokens": 4.5})
    with LLMServer(script([answer])) as server:
        assert ask(endpoint(server.url, tmp_path)).tokens == 12


# --- dialects ---


def picky(refused: Callable[[dict[str, Any]], bool], answer: Answer) -> Callable[[Request], Answer]:
    return lambda request: answer if refused(request.body) else good(request)


def body_of(error: Any) -> bytes:
    return json.dumps(error).encode()


def pydantic(*fields: str) -> bytes:
    """Return the error of a server that echoes the whole request."""
    echo = {"model": "m", "temperature": 1, "top_p": 1, "max_tokens": 1, "messages": ["x" * 3000]}
    where = [
        {"type": "extra_forbidden", "loc": ["body", f], "msg": "Extra inputs are not permitted"}
        for f in fields
    ]
    return body_of({"detail": [{"input": echo, **each} for each in where]})


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (422, pydantic("max_completion_tokens")),
        (
            422,
            body_of(
                {
                    "object": "error",
                    "message": {
                        "detail": [
                            {
                                "loc": ["body", "max_completion_tokens"],
                                "msg": "Extra inputs are not permitted",
                            }
                        ]
                    },
                }
            ),
        ),
        (400, body_of({"error": {"message": "x" * 2000 + " unknown field max_completion_tokens"}})),
        (400, body_of({"error": {"message": "Unsupported.", "param": "max_completion_tokens"}})),
        (400, body_of({"max_completion_tokens": ["Unknown field."]})),
        (400, body_of({"error": {"message": "No such field: max_completion_tokens", "param": "None"}})),
        (422, body_of({"error": {"message": "max_completion_tokens isn't known here", "param": "body"}})),
        (400, body_of({"message": "max_completion_tokens is no longer supported."})),
        (400, b"max_completion_tokens: unrecognized argument"),
        (200, body_of({"choices": None, "error": {"code": 400, "message": "unknown max_completion_tokens"}})),
    ],
)
def test_the_limit_is_named_as_the_body_of_a_refusal_says(tmp_path: Path, status: int, raw: bytes) -> None:
    with LLMServer(
        picky(lambda body: "max_completion_tokens" in body, Answer(status=status, raw=raw))
    ) as server:
        made = endpoint(server.url, tmp_path, temperature=0.5)
        for _ in range(2):
            assert json.loads(ask(made).text) == GOOD
        assert len(server.requests) == 3, "found out once"
        body = server.requests[-1].body
        assert (body["max_tokens"], body["temperature"], server.requests[-1].form) == (4000, 0.5, "strict")


def test_a_limit_is_swapped_back_by_an_endpoint_that_changes(tmp_path: Path) -> None:
    wanted = ["max_tokens"]

    def mind(request: Request) -> Answer:
        unwanted = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[wanted[0]]
        words = f"Unsupported parameter: '{unwanted}' is not supported. Use '{wanted[0]}' instead."
        refusal = Answer(status=400, raw=body_of({"error": {"message": words, "param": unwanted}}))
        return refusal if unwanted in request.body else good(request)

    with LLMServer(mind) as server:
        made = endpoint(server.url, tmp_path)
        ask(made)
        wanted[0] = "max_completion_tokens"
        assert json.loads(ask(made).text) == GOOD
        assert len(server.requests) == 4


SAMPLING = {"top_p": 0.9, "seed": 1, "stop": ["END"], "reasoning_effort": "low", "top_k": 5}


@pytest.mark.parametrize("field", ["temperature", *SAMPLING])
def test_an_optional_field_that_is_refused_is_left_out_and_said_once(
    tmp_path: Path, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"Unsupported value: '{field.title()}' does not support this. Only the default is supported."
    refusal = Answer(status=400, raw=body_of({"error": {"message": words, "code": "unsupported_value"}}))
    with LLMServer(picky(lambda body: field in body, refusal)) as server:
        made = endpoint(server.url, tmp_path, temperature=0.5, extra=SAMPLING)
        for _ in range(3):
            assert json.loads(ask(made).text) == GOOD
        assert len(server.requests) == 4
        sent = server.requests[-1].body
        assert sent.keys() & {"temperature", *SAMPLING} == {"temperature", *SAMPLING} - {field}
        assert server.requests[-1].form == "strict"
    assert caplog.text.count(f"does not take {field}, which is left out") == 1


@pytest.mark.parametrize(
    "words",
    [
        "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value.",
        "`temperature` may only be set to 1 when thinking is enabled.",
        "This model has a fixed temperature of 1",
        "Temperature is disabled for reasoning models",
    ],
)
@pytest.mark.parametrize("param", [None, "None", "temperature"])
def test_a_temperature_that_is_refused_in_any_words_is_left_out(
    tmp_path: Path, words: str, param: str | None
) -> None:
    refusal = Answer(status=400, raw=body_of({"error": {"message": words, "param": param}}))
    with LLMServer(picky(lambda body: "temperature" in body, refusal)) as server:
        made = endpoint(server.url, tmp_path, temperature=0.7)
        for _ in range(2):
            assert json.loads(ask(made).text) == GOOD
        assert len(server.requests) == 3


@pytest.mark.parametrize("at_once", [True, False])
def test_an_endpoint_that_takes_no_limit_gets_none(
    tmp_path: Path, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ("max_completion_tokens", "max_tokens")

    def mind(request: Request) -> Answer:
        sent = [name for name in limits if name in request.body]
        return Answer(status=422, raw=pydantic(*(limits if at_once else sent))) if sent else good(request)

    with LLMServer(mind) as server:
        made = endpoint(server.url, tmp_path)
        for _ in range(2):
            assert json.loads(ask(made).text) == GOOD
        assert [request.form for request in server.requests] == ["strict"] * 4
    assert caplog.text.count("does not take a limit of replies, which is left out") == 1


def test_several_fields_that_are_refused_are_left_out(tmp_path: Path) -> None:
    def mind(request: Request) -> Answer:
        bad = [name for name in ("temperature", "top_p", "max_completion_tokens") if name in request.body]
        return Answer(status=422, raw=pydantic(*bad)) if bad else good(request)

    with LLMServer(mind) as server:
        assert json.loads(ask(endpoint(server.url, tmp_path, temperature=1.0, extra=SAMPLING)).text) == GOOD
        assert server.requests[-1].body.keys() >= {"max_tokens", "seed", "stop"}
        assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 422, 500, 501])
@pytest.mark.parametrize("words", ["response_format is not supported", "oh no", ""])
@pytest.mark.parametrize("plainest", ["object", "plain"])
def test_a_form_that_is_refused_or_fails_gives_way_to_plainer_ones(
    tmp_path: Path, status: int, words: str, plainest: str
) -> None:
    def refused(body: dict[str, Any]) -> bool:
        kind = body.get("response_format", {}).get("type", "text")
        return "tools" in body or kind == "json_schema" or (plainest == "plain" and kind != "text")

    answer = Answer(status=status, error=words, headers={"retry-after-ms": "1"})
    with LLMServer(picky(refused, answer)) as server:
        made = endpoint(server.url, tmp_path, retries=1)
        first = [json.loads(ask(made).text) for _ in range(3)]
        tried = len(server.requests)
        assert first == [GOOD] * 3
        assert [request.form for request in server.requests[-3:]] == [plainest] * 3, "found out once"
        assert tried <= 3 + 5
    assert [record["form"] for record in records(tmp_path)] == [plainest] * 3


def test_an_ill_endpoint_is_asked_in_few_forms(tmp_path: Path) -> None:
    with LLMServer(script([Answer(status=500, error="no")])) as server:
        with pytest.raises(CallError, match="InternalServerError"):
            ask(endpoint(server.url, tmp_path))
        assert len(server.requests) == 3
    with LLMServer(script([Answer(status=503, error="no")])) as server:
        with pytest.raises(CallError, match="InternalServerError"):
            ask(endpoint(server.url, tmp_path / "b"))
        assert len(server.requests) == 1


# --- further fields ---


def test_further_fields_reach_the_body_whether_the_client_knows_them_or_not(tmp_path: Path) -> None:
    extra = {
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "extra_body": {"provider": {"order": ["a"]}},
        "extra_headers": {"X-A": "b"},
    }
    with LLMServer(good) as server:
        made = endpoint(server.url, tmp_path, extra=extra)
        made.ask(CALL, QUESTION, schema=SCHEMA)
        (request,) = server.requests
    assert request.headers["x-a"] == "b"
    sent = {name: request.body.get(name) for name in ("reasoning_effort", "chat_template_kwargs", "provider")}
    assert sent == {
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "provider": {"order": ["a"]},
    }
    assert "extra_body" not in request.body
