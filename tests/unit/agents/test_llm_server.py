from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import openai
import pytest

from tests.llm_server import Answer, Hostile, LLMServer, Mind, Request, answer_json, script, scripted

OPTIONS = {
    "learning_rate": {"type": "number", "minimum": 1e-7, "maximum": 1e-4},
    "group_size": {"type": "integer", "minimum": 2, "maximum": 64},
    "baseline": {"enum": ["mean", "mean_std", "leave_one_out"]},
}


def changes(options: dict[str, Any]) -> dict[str, Any]:
    anyof = [
        {"type": "object", "properties": {"name": {"enum": [n]}, "value": v, "reason": {"type": "string"}}}
        for n, v in options.items()
    ]
    return {
        "type": "object",
        "properties": {
            "rationale": {"type": "string"},
            "changes": {"type": "array", "items": {"anyOf": anyof}},
        },
    }


PROPOSAL = changes(OPTIONS)
STOP = {
    "type": "object",
    "properties": {
        "stop": {"type": "boolean"},
        "probability": {"type": "number"},
        "reason": {"type": "string"},
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def client(server: LLMServer, timeout: float = 20.0, key: str = "k") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=key, max_retries=0, timeout=timeout)


def form_arguments(form: str, schema: dict[str, Any]) -> dict[str, Any]:
    if form == "strict":
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        }
    function = {"name": "answer", "parameters": schema}
    choice = {"type": "function", "function": {"name": "answer"}}
    return (
        {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        if form == "tool"
        else {}
    )


def ask(
    server: LLMServer,
    form: str = "plain",
    schema: dict[str, Any] = PROPOSAL,
    text: str = "What next?",
    **more: Any,
) -> Any:
    text += f"\n<answer-schema>\n{json.dumps(schema, indent=1)}\n</answer-schema>" if form == "plain" else ""
    messages: list[Any] = [{"role": "system", "content": "You tune."}, {"role": "user", "content": text}]
    with client(server) as asking:
        return asking.chat.completions.create(
            model="scripted", messages=messages, **form_arguments(form, schema), **more
        )


def said(completion: Any) -> dict[str, Any]:
    message = completion.choices[0].message
    return json.loads(message.tool_calls[0].function.arguments if message.tool_calls else message.content)


def request(form: str = "plain", schema: dict[str, Any] = PROPOSAL) -> Request:
    return Request({"messages": [{"role": "user", "content": "What next?"}], **form_arguments(form, schema)})


def test_a_plain_answer_has_the_shape_of_a_chat_completion() -> None:
    with LLMServer(script(["Hello there"])) as server:
        completion = ask(server, temperature=0.3)
    assert (completion.object, completion.model, completion.choices[0].finish_reason) == (
        "chat.completion",
        "scripted",
        "stop",
    )
    assert completion.choices[0].message.content == "Hello there"
    assert completion.choices[0].message.tool_calls is None
    assert completion.usage.completion_tokens == 2
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 2
    assert completion.usage.prompt_tokens == len(server.requests[0].text) // 4
    assert server.requests[0].body["temperature"] == 0.3
    assert server.requests[0].headers["authorization"] == "Bearer k"


def test_a_request_shows_its_texts_and_images() -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    messages: list[Any] = [
        {"role": "system", "content": "You tune."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None},
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, image, {"type": "text", "text": "here"}],
        },
    ]
    with LLMServer(scripted) as server:
        completion = client(server).chat.completions.create(model="scripted", messages=messages)
    seen = server.requests[0]
    assert (seen.text, seen.system, seen.last_user) == (
        "You tune.\nfirst\nlook\nhere",
        "You tune.",
        "look\nhere",
    )
    assert (seen.images, seen.schema, seen.form) == ([PIXEL], None, "plain")
    assert completion.choices[0].message.content == "I have nothing to say."


@pytest.mark.parametrize("form", ["strict", "tool", "plain"])
def test_the_scripted_mind_proposes_valid_changes_in_every_form(form: str) -> None:
    with LLMServer(scripted) as server:
        first, again = (said(ask(server, form)) for _ in range(2))
        others = [said(ask(server, form, text=f"What next, {i}?")) for i in range(20)]
    assert first == again
    assert {change["name"] for answer in others for change in answer["changes"]} == set(OPTIONS)
    assert {len(answer["changes"]) for answer in others} == {1, 2}
    assert {request.form for request in server.requests} == {form}
    assert {json.dumps(request.schema) for request in server.requests} == {
        json.dumps(None if form == "plain" else PROPOSAL)
    }
    for change in [change for answer in others for change in answer["changes"]]:
        option, value = OPTIONS[change["name"]], change["value"]
        assert (
            value in option["enum"] if "enum" in option else option["minimum"] <= value <= option["maximum"]
        )
        assert isinstance(value, int) == (option.get("type") == "integer")


@pytest.mark.parametrize("form", ["strict", "tool", "plain"])
def test_the_scripted_mind_decides_on_stopping(form: str) -> None:
    with LLMServer(scripted) as server:
        assert said(ask(server, form, STOP))["stop"] is False


@pytest.mark.parametrize(
    ("form", "message"),
    [("strict", "'response_format' of type 'json_schema' is not supported"), ("tool", "'tools'")],
)
def test_an_unsupported_form_is_refused(form: str, message: str) -> None:
    with LLMServer(scripted, forms=["plain"]) as server:
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            ask(server, form)
        assert said(ask(server, "plain"))["changes"]
    assert caught.value.type == "invalid_request_error"
    assert [request.form for request in server.requests] == [form, "plain"]


@pytest.mark.parametrize("form", ["strict", "tool"])
def test_a_silent_form_is_accepted_and_ignored(form: str) -> None:
    with LLMServer(scripted, forms=["plain"], silent_forms=["strict", "tool"]) as server:
        assert ask(server, form).choices[0].message.content == "I have nothing to say."
    assert (server.requests[0].form, server.requests[0].schema, server.requests[0].asked_forms) == (
        "plain",
        None,
        [form],
    )


def test_a_rejected_parameter_is_refused_by_name() -> None:
    with LLMServer(scripted, rejects=["max_completion_tokens"]) as server:
        with pytest.raises(openai.BadRequestError, match="Unsupported parameter: 'max_completion_tokens'"):
            ask(server, max_completion_tokens=100)
        assert said(ask(server, max_tokens=100))["changes"]


def test_models_are_listed() -> None:
    with LLMServer(scripted, models=["a", "b"]) as server:
        assert [model.id for model in client(server).models.list()] == ["a", "b"]
        with pytest.raises(openai.NotFoundError, match="Invalid URL"):
            client(server).models.retrieve("a")
        with pytest.raises(openai.NotFoundError, match="Invalid URL"):
            client(server).completions.create(model="a", prompt="b")
    assert server.requests == []


def test_the_right_key_is_demanded() -> None:
    with LLMServer(scripted, api_key="secret") as server:
        assert [model.id for model in client(server, key="secret").models.list()] == ["scripted"]
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided: k") as caught:
            client(server).models.list()
        with pytest.raises(openai.AuthenticationError):
            ask(server)
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, openai.RateLimitError), (500, openai.InternalServerError), (503, openai.InternalServerError)],
)
def test_errors_arrive_as_the_exceptions_of_the_client(
    status: int, error: type[openai.APIStatusError]
) -> None:
    with (
        LLMServer(script([Answer(status=status, error="not now", headers={"retry-after": "3"})])) as server,
        pytest.raises(error) as caught,
    ):
        ask(server)
    assert caught.value.status_code == status
    assert "not now" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize("cut_after", [0, 10])
def test_a_cut_body_is_a_connection_error(cut_after: int) -> None:
    with LLMServer(script([Answer(content="a long answer", cut_after=cut_after), "whole"])) as server:
        with pytest.raises(openai.APIConnectionError):
            ask(server)
        assert ask(server).choices[0].message.content == "whole"


def test_a_dripped_body_arrives_whole() -> None:
    with LLMServer(script([Answer(content="abc", drip_s=0.001)])) as server:
        assert ask(server).choices[0].message.content == "abc"


def test_a_request_ends_when_its_client_loses_patience(capfd: pytest.CaptureFixture[str]) -> None:
    with LLMServer(script([Answer(content="late", delay_s=3600)])) as server:
        with pytest.raises(openai.APITimeoutError):
            ask(server, timeout=0.5)
        while server.in_progress:
            time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_a_mind_that_fails_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        LLMServer(lambda request: Answer(content=str(1 // 0))) as server,
        pytest.raises(openai.APIConnectionError),
    ):
        ask(server)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_requests_in_progress_are_counted() -> None:
    together = threading.Barrier(4, timeout=60)

    def mind(request: Request) -> Answer:
        together.wait()
        return Answer(content="now")

    with LLMServer(mind) as server, ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: ask(server), range(8)))) == 8
    assert (len(server.requests), server.most_at_once) == (8, 4)


def test_requests_one_after_another_never_overlap() -> None:
    with LLMServer(script(["now"])) as server:
        for _ in range(30):
            ask(server)
    assert server.most_at_once == 1


@pytest.mark.parametrize("answer", [Answer(delay_s=3600), Answer(content="slow" * 1000, drip_s=3600)])
def test_the_server_stops_amid_a_silence(answer: Answer) -> None:
    arrived = threading.Event()

    def mind(request: Request) -> Answer:
        arrived.set()
        return answer

    with ThreadPoolExecutor(1) as pool:
        with LLMServer(mind) as server:
            asked = pool.submit(ask, server, timeout=3600)
            assert arrived.wait(60)
        with pytest.raises(openai.APIConnectionError):
            asked.result()


def test_a_stopped_server_answers_nobody() -> None:
    with LLMServer(script(["here"])) as server:
        connected = client(server)
        assert connected.models.list().data
    with pytest.raises(openai.APIConnectionError):
        connected.models.list()


def test_a_script_is_followed_and_its_last_answer_stays() -> None:
    mind = script(
        [{"a": 1}, "text", Answer(content=None), lambda request: answer_json(request, {"form": request.form})]
    )
    answers = [mind(request(form)) for form in ("tool", "plain", "plain", "strict", "tool")]
    assert answers[0].tool_calls == [("answer", '{"a": 1}')]
    assert [answer.content for answer in answers[1:4]] == ["text", None, '{"form": "strict"}']
    assert answers[4].tool_calls == [("answer", '{"form": "tool"}')]


def outcome(server: LLMServer, form: str) -> str:
    try:
        completion = ask(server, form)
        return type(said(completion)).__name__
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("form", ["strict", "tool", "plain"])
def test_a_hostile_mind_shows_all_its_manners_over_http(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    mind = Hostile(seed=3, silence_s=0.01, drip_s=0.0001)
    with LLMServer(mind) as server:
        outcomes = {outcome(server, form) for _ in mind.manners}
    assert mind.drawn == dict.fromkeys(mind.manners, 1)
    assert {
        "dict",
        "list",
        "JSONDecodeError",
        "RateLimitError",
        "InternalServerError",
        "BadRequestError",
        "APIConnectionError",
    } <= outcomes
    assert capfd.readouterr().err == ""


def steady(answer: Answer) -> tuple[Any, ...]:
    """Leave out the random identifiers of a raw body."""
    body = len(answer.raw or b"")
    return replace(answer, raw=None), body


def test_a_hostile_mind_is_the_same_for_the_same_seed() -> None:
    minds: list[Mind] = [Hostile(7), Hostile(7), Hostile(8)]
    first, again, other = ([steady(mind(request())) for _ in range(150)] for mind in minds)
    assert first == again
    assert first != other


@pytest.mark.parametrize("schema", [PROPOSAL, STOP, {}])
def test_hostile_texts_are_varied_and_repeatable(schema: dict[str, Any]) -> None:
    first, again = (
        [Hostile.text(rng, schema) for _ in range(1000)] for rng in (random.Random(1), random.Random(1))
    )
    assert first == again
    outcomes = set()
    for text in first:
        try:
            outcomes.add(type(json.loads(text)))
        except (ValueError, RecursionError) as error:
            outcomes.add(type(error))
    assert {dict, list, json.JSONDecodeError, RecursionError} <= outcomes
