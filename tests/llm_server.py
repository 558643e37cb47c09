"""A local endpoint of the OpenAI chat-completions protocol, and minds that answer behind it."""

from __future__ import annotations

import json
import random
import re
import select
import socket
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

COUNTED: Any = object()
PRESENT = re.compile(r"^- (\w+): now ([^;\s]+)", re.MULTILINE)  # in the prompt of a proposer
DRIP_BYTES = 16
SCHEMA_IN_TEXT = re.compile(r"^<answer-schema>\n(.*?)\n</answer-schema>$", re.MULTILINE | re.DOTALL)
UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."
UNSUPPORTED_FORMS = {
    "strict": "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
    "tool": UNSUPPORTED.format("tools"),
    "object": "'response_format.type' must be 'text'.",
}
ERROR_KINDS = {401: ("invalid_request_error", "invalid_api_key"), 429: ("requests", "rate_limit_exceeded")}


def _parts(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content") or []
        yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(messages: list[dict[str, Any]]) -> str:
    return "\n".join(part["text"] for part in _parts(messages) if part["type"] == "text")


@dataclass(frozen=True)
class Request:
    """One POST to /v1/chat/completions.

    Names of headers are in lower case; `ignored` are forms that the endpoint does not notice.
    """

    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    @property
    def text(self) -> str:
        """All texts of all messages."""
        return _text(self.body["messages"])

    @property
    def system(self) -> str:
        """The texts of the system messages."""
        return _text([m for m in self.body["messages"] if m["role"] in ("system", "developer")])

    @property
    def last_user(self) -> str:
        """The text of the last message of the user."""
        return _text([m for m in self.body["messages"] if m["role"] == "user"][-1:])

    @property
    def images(self) -> list[str]:
        """The URLs of all images."""
        return [
            part["image_url"]["url"] for part in _parts(self.body["messages"]) if part["type"] == "image_url"
        ]

    @property
    def asked_forms(self) -> list[str]:
        """The forms of answer that the body asks for beyond plain text, noticed or not."""
        kinds = {"json_schema": "strict", "json_object": "object"}
        kind = kinds.get((self.body.get("response_format") or {}).get("type"))
        return ["tool"] * bool(self.body.get("tools")) + [kind] * (kind is not None)

    @property
    def form(self) -> str:
        """The form in which the mind is to answer: "strict", "tool", "object" or "plain"."""
        return next((form for form in self.asked_forms if form not in self.ignored), "plain")

    @property
    def function(self) -> dict[str, Any]:
        """The first function on offer."""
        return self.body["tools"][0]["function"]

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must obey."""
        if self.form == "strict":
            return self.body["response_format"]["json_schema"]["schema"]
        if self.form == "tool" and isinstance(self.body.get("tool_choice"), dict):
            return self.function["parameters"]
        return None


@dataclass(frozen=True)
class Answer:
    """What a mind returns, and the manner in which the server is to deliver it.

    Attributes:
        content: the text of the message.
        tool_calls: (name, arguments) of the functions called; arguments that are a string go out verbatim.
        status: the HTTP status.
        error: the message that goes with a status of 400 and above.
        headers: further headers, in lower case.
        delay_s: silence before the first byte.
        raw: the whole body, instead of a well-formed one.
        cut_after: close the connection after so many bytes of the body.
        drip_s: the pause between the small pieces in which the body goes out.
        endless: send the body again and again, until the client hangs up.
        finish_reason: of the only choice.
        usage: by default counted from the texts; None leaves it out.
    """

    content: str | None = None
    tool_calls: Sequence[tuple[str, dict[str, Any] | str]] = ()
    status: int = 200
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    raw: bytes | None = None
    cut_after: int | None = None
    drip_s: float = 0.0
    endless: bool = False
    finish_reason: str = "stop"
    usage: Any = COUNTED


Mind = Callable[[Request], Answer]


def _message(answer: Answer) -> dict[str, Any]:
    calls = [
        (name, arguments if isinstance(arguments, str) else json.dumps(arguments))
        for name, arguments in answer.tool_calls
    ]
    functions = [
        {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": {"name": n, "arguments": a}}
        for n, a in calls
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content,
        "refusal": None,
        "annotations": [],
    }
    return {**message, "tool_calls": functions} if functions else message


def _usage(request: Request, message: dict[str, Any]) -> dict[str, int]:
    said = (message["content"] or "") + "".join(
        call["function"]["arguments"] for call in message.get("tool_calls", ())
    )
    prompt, completion = len(request.text) // 4, len(said) // 4
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(request: Request, answer: Answer) -> dict[str, Any]:
    """Wrap an answer into the body of a chat completion."""
    message = _message(answer)
    usage = _usage(request, message) if answer.usage is COUNTED else answer.usage
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.body.get("model"),
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        ],
        **({} if usage is None else {"usage": usage}),
    }


def _error(answer: Answer) -> dict[str, Any]:
    kind, code = ERROR_KINDS.get(
        answer.status, ("server_error" if answer.status >= 500 else "invalid_request_error", None)
    )
    return {"error": {"message": answer.error, "type": kind, "param": None, "code": code}}


def _encoded(request: Request, answer: Answer) -> bytes:
    if answer.raw is not None:
        return answer.raw
    return json.dumps(_error(answer) if answer.status >= 400 else completion(request, answer)).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LLMServer

    def do_GET(self) -> None:
        self._reply(self.server.unauthorized(self._lower_headers()) or self._models())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self._reply(self._nothing_here())
            return
        request = Request(body, self._lower_headers(), self.server.silent_forms)
        with self.server.busy_with(request):
            answer = self.server.answer(request)
            last = self._begin(answer, _encoded(request, answer))
        # A client that has the whole answer may ask again at once, so the request ends before the last bytes.
        self.wfile.write(last)

    def _reply(self, answer: Answer) -> None:
        self.wfile.write(self._begin(answer, _encoded(Request({}), answer)))

    def _models(self) -> Answer:
        if self.path != "/v1/models":
            return self._nothing_here()
        models = [
            {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "tests"}
            for name in self.server.models
        ]
        return self.server.listing or Answer(raw=json.dumps({"object": "list", "data": models}).encode())

    def _nothing_here(self) -> Answer:
        return self.server.anywhere or Answer(status=404, error=f"Invalid URL ({self.command} {self.path})")

    def _lower_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _begin(self, answer: Answer, body: bytes) -> bytes:
        """Send all but the last piece of an answer, which is returned."""
        self._pause(answer.delay_s)
        self.send_response(answer.status)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": f"req_{uuid.uuid4().hex}",
        }
        if answer.endless:
            del headers["content-length"]
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection |= answer.cut_after is not None or answer.endless
        while answer.endless:
            self.wfile.write(body)
            self.server.sent += len(body)
            self._pause(answer.drip_s)
        *early, last = _pieces(body[: answer.cut_after], DRIP_BYTES if answer.drip_s else len(body) or 1)
        for piece in early:
            self.wfile.write(piece)
            self._pause(answer.drip_s)
        return last

    def _pause(self, seconds: float) -> None:
        """Wait; the connection becomes readable when the client hangs up or the server stops."""
        if select.select([self.connection], [], [], seconds)[0]:
            raise ConnectionAbortedError

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


def _pieces(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)] or [b""]


class LLMServer(ThreadingHTTPServer):
    """Serves a mind at `url` inside a `with` block.

    Args:
        mind: called for every request that is not refused, from several threads at once.
        forms: the answer forms that the endpoint supports; others get status 400.
        silent_forms: forms that it accepts and ignores.
        api_key: what requests must bear; None for anything.
        models: names that GET /v1/models lists.
        listing: what it answers instead of a list.
        anywhere: what it answers where nothing is.
        rejects: keys of the body that get status 400.

    Attributes:
        requests: all requests so far, the refused ones too.
        in_progress: how many are being answered; those whose client hung up amid a pause are not.
        most_at_once: the greatest number of requests in progress at one time.
        sent: bytes of endless bodies so far.
    """

    request_queue_size = 128

    def __init__(
        self,
        mind: Mind,
        *,
        forms: Sequence[str] = ("strict", "tool", "object", "plain"),
        silent_forms: Sequence[str] = (),
        api_key: str | None = None,
        models: Sequence[str] = ("scripted",),
        listing: Answer | None = None,
        anywhere: Answer | None = None,
        rejects: Sequence[str] = (),
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mind, self.forms, self.silent_forms = mind, forms, silent_forms
        self.api_key, self.models, self.rejects = api_key, models, rejects
        self.listing, self.anywhere, self.sent = listing, anywhere, 0
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.in_progress = 0
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop, and hang up on everyone, which also wakes handlers from a pause."""
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report whatever went wrong, except that a client hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @contextmanager
    def busy_with(self, request: Request) -> Iterator[None]:
        """Count a request while it is in progress."""
        with self._lock:
            self.requests.append(request)
            self.in_progress += 1
            self.most_at_once = max(self.most_at_once, self.in_progress)
        try:
            yield
        finally:
            with self._lock:
                self.in_progress -= 1

    def answer(self, request: Request) -> Answer:
        """Refuse a request or let the mind answer it."""
        return self.unauthorized(request.headers) or self._unsupported(request) or self.mind(request)

    def unauthorized(self, headers: dict[str, str]) -> Answer | None:
        """Refuse a request without the right key."""
        authorization = headers.get("authorization", "")
        if self.api_key is None or authorization == f"Bearer {self.api_key}":
            return None
        key = authorization.removeprefix("Bearer ")
        wrong = f"Incorrect API key provided: {key}. You can find your API key in your account settings."
        return Answer(status=401, error=wrong if authorization else "You didn't provide an API key.")

    def _unsupported(self, request: Request) -> Answer | None:
        forms = [
            UNSUPPORTED_FORMS[form]
            for form in request.asked_forms
            if form not in (*self.forms, *self.silent_forms)
        ]
        errors = forms + [UNSUPPORTED.format(key) for key in self.rejects if key in request.body]
        return Answer(status=400, error=errors[0]) if errors else None


# Sensible minds


def answer_text(request: Request, text: str) -> Answer:
    """Answer a text where the request wants the answer: in a tool call or as content."""
    return (
        Answer(tool_calls=[(request.function["name"], text)])
        if request.form == "tool"
        else Answer(content=text)
    )


def answer_json(request: Request, value: dict[str, Any]) -> Answer:
    """Answer a JSON object in the form that the request wants."""
    return answer_text(request, json.dumps(value))


def asked_schema(request: Request) -> dict[str, Any]:
    """Return the schema that the request or its prompt asks for; empty if there is none."""
    in_text = SCHEMA_IN_TEXT.findall(request.text)
    return request.schema or (json.loads(in_text[-1]) if in_text else {})


def _value(rng: random.Random, schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return rng.choice(schema["enum"])
    draw = rng.randint if schema["type"] == "integer" else rng.uniform
    return draw(schema["minimum"], schema["maximum"])


def _proposal(rng: random.Random, schema: dict[str, Any]) -> dict[str, Any]:
    options = [option["properties"] for option in schema["properties"]["changes"]["items"]["anyOf"]]
    chosen = rng.sample(options, min(len(options), rng.choice([1, 2])))
    answer = {
        "observations": [
            "The validation score has been level over the last points.",
            "Entropy falls slowly.",
        ],
        "diagnosis": ["plateau"],
        "rationale": (
            "The policy still moves, but the score does not follow. "
            "A modest change should show whether it can rise again."
        ),
        "changes": [
            {
                "name": o["name"]["enum"][0],
                "value": _value(rng, o["value"]),
                "reason": "It may lift the plateau.",
            }
            for o in chosen
        ],
        "action": "change",
        "resume_from": "best",
        "length": 1,
        "expected": expected(metrics=[{"name": _metric(schema), "direction": "down"}]),
        "alternative": None,
    }
    return {name: value for name, value in answer.items() if name in schema["properties"]}


def _metric(schema: dict[str, Any]) -> str:
    """Return a metric that the schema knows; an endpoint's mind is asked without `expected`, too."""
    wanted = schema["properties"].get("expected", {}).get("properties", {})
    names = wanted["metrics"]["items"]["properties"]["name"]["enum"] if wanted else ["entropy"]
    return "entropy" if "entropy" in names else names[0]


def expected(**other: Any) -> dict[str, Any]:
    """Return what a model may expect of a stage."""
    return {
        "score": 0.5,
        "low": 0.4,
        "high": 0.55,
        "probability": 0.6,
        "probability_best": 0.3,
        "metrics": [{"name": "entropy", "direction": "down"}],
        "effect": "The score rises above the plateau.",
        **other,
    }


def sensible(rng: random.Random, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a valid proposal or stopping decision, whichever the schema asks for; empty if neither."""
    properties = schema.get("properties", {})
    if "changes" in properties:
        return _proposal(rng, schema)
    return (
        {"stop": False, "probability": 0.5, "reason": "The score may still rise."}
        if "stop" in properties
        else {}
    )


def scripted(request: Request) -> Answer:
    """Answer sensibly, and the same to the same last text of the user."""
    rng, present = random.Random(request.last_user), dict(PRESENT.findall(request.system))
    value = sensible(rng, asked_schema(request))
    while any(str(each["value"]) == present.get(each["name"]) for each in value.get("changes", ())):
        value = sensible(rng, asked_schema(request))
    return answer_json(request, value) if value else Answer(content="I have nothing to say.")


def script(answers: Iterable[Answer | dict[str, Any] | str | Mind]) -> Mind:
    """Give the next of the answers at each request, and the last one for ever."""
    left, lock = deque(answers), threading.Lock()

    def mind(request: Request) -> Answer:
        with lock:
            answer = left.popleft() if len(left) > 1 else left[0]
        if isinstance(answer, Answer):
            return answer
        if isinstance(answer, dict):
            return answer_json(request, answer)
        return Answer(content=answer) if isinstance(answer, str) else answer(request)

    return mind


# Ill manners: texts


def _word(rng: random.Random) -> str:
    return "".join(
        chr(rng.randrange(rng.choice([0x20, 0x80, 0x3000, 0x110000]))) for _ in range(rng.randrange(1, 8))
    )


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Return any JSON value."""
    scalars = [None, True, False, 0, -1, 0.5, 2**70, 1e308, float("nan"), float("inf"), "", "0.1", _word(rng)]
    kind = rng.randrange(4 if depth < 3 else 2)
    if kind < 2:
        return rng.choice(scalars)
    items = [junk(rng, depth + 1) for _ in range(rng.randrange(3))]
    return items if kind == 2 else {_word(rng): item for item in items}


def _positions(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _positions(item)


def _change(rng: random.Random, container: Any, key: Any) -> None:
    container[key] = junk(rng)


def _drop(rng: random.Random, container: Any, key: Any) -> None:
    del container[key]


def _rename_or_repeat(rng: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[_word(rng)] = container.pop(key)
    else:
        container.append(container[key])


def _mutated(rng: random.Random, value: dict[str, Any]) -> str:
    for _ in range(rng.randrange(1, 4)):
        positions = list(_positions(value))
        if positions:
            rng.choice([_change, _drop, _rename_or_repeat])(rng, *rng.choice(positions))
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    position = rng.randrange(len(text))
    return rng.choice([text, text, text, text[:position], text[:position] + _word(rng) + text[position:]])


def _truncated(rng: random.Random, value: dict[str, Any]) -> str:
    text = json.dumps(value)
    return text[: rng.randrange(1, len(text))]


def _numbers_become(token: str, rng: random.Random, value: dict[str, Any]) -> str:
    return re.sub(r"(?<=: )-?\d[\d.e+-]*", token, json.dumps(value))


def _changes_become(change: dict[str, Any], rng: random.Random, value: dict[str, Any]) -> str:
    return json.dumps({**value, "changes": [{**old, **change} for old in value.get("changes", [{}])]})


def _out_of_range(rng: random.Random, value: dict[str, Any]) -> str:
    return _changes_become({"value": rng.choice([-1e12, 1e12, 10**30, -1, "no such choice"])}, rng, value)


WRONG_TYPES = {
    str: 7,
    bool: "maybe",
    int: "many",
    float: ["many"],
    list: {"0": None},
    dict: "none",
    type(None): "anything",
}
CONTROLS = "\x00\x07\x08\r\x1b[2J\x1b[31m\x1b]0;title\x07\x7f\x9b\u202e"


def _field_missing(rng: random.Random, value: dict[str, Any]) -> str:
    holder = value.get("expected", value) if rng.random() < 0.5 else value
    if holder:
        del holder[rng.choice(sorted(holder))]
    return json.dumps(value)


def _odd_alternative(rng: random.Random, value: dict[str, Any]) -> str:
    second = {name: value[name] for name in ("changes", "resume_from", "expected") if name in value}
    if second:
        _change(rng, second, rng.choice(sorted(second)))
    return json.dumps({**value, "alternative": rng.choice([second, [second], value, "none", 7])})


HUGE = "9" * 20_000
ODD_FIELDS = {
    "action": ["stop", "CLOSE", "close", "continue", ["change"], {"change": True}, 1, True, HUGE],
    "length": [0, -1, 0.49, 2.01, 1e300, 10**400, "2", True, [1], float("nan"), HUGE],
    "parent": ["0000", "9999", "../..", 1, True, [], {"id": "0001"}, HUGE],
}


def _odd_field(name: str, rng: random.Random, value: dict[str, Any]) -> str:
    return json.dumps({**value, name: rng.choice(ODD_FIELDS[name])})


TEXTS: dict[str, Callable[[random.Random, dict[str, Any]], str]] = {
    "mutated": _mutated,
    "truncated": _truncated,
    "prose around": lambda rng, value: (
        f"Sure! Here is what I propose:\n\n{json.dumps(value)}\n\nLet me know {{if}} you need more."
    ),
    "fence": lambda rng, value: f"```json\n{json.dumps(value, indent=2)}\n```",
    "wrong types": lambda rng, value: json.dumps(
        {key: WRONG_TYPES[type(item)] for key, item in value.items()}
    ),
    "changes of wrong types": lambda rng, value: json.dumps(
        {**value, "changes": [None, 3, "lr", [], {"name": 7, "value": {}, "reason": []}]}
    ),
    "name of a wrong type": partial(_changes_become, {"name": {"is": ["learning_rate"]}}),
    "unknown name": partial(_changes_become, {"name": "no_such_parameter"}),
    "out of range": _out_of_range,
    "field missing": _field_missing,
    "odd alternative": _odd_alternative,
    **{f"odd {name}": partial(_odd_field, name) for name in ODD_FIELDS},
    "expectations of wrong types": lambda rng, value: json.dumps(
        {**value, "expected": {name: rng.choice(["high", None, -1, 7, [0.5]]) for name in expected()}}
    ),
    "six changes": lambda rng, value: json.dumps({**value, "changes": 6 * value.get("changes", [{}])[:1]}),
    "nan": partial(_numbers_become, "NaN"),
    "infinity": partial(_numbers_become, "-Infinity"),
    "overflow": partial(_numbers_become, "1e999"),
    "endless integer": partial(_numbers_become, "9" * 5000),
    "no changes": lambda rng, value: json.dumps({**value, "changes": []}),
    "repeated changes": lambda rng, value: json.dumps({**value, "changes": 3 * value.get("changes", [{}])}),
    "repeated keys": lambda rng, value: json.dumps(value)[:-1] + ', "changes": null, "stop": null}',
    "empty": lambda rng, value: "",
    "blank": lambda rng, value: " \n\t ",
    "empty object": lambda rng, value: "{}",
    "list": lambda rng, value: json.dumps([value]),
    "scalar": lambda rng, value: rng.choice(["null", "true", "3", '"plateau"', "NaN"]),
    "deep lists": lambda rng, value: "[" * 100_000,
    "deep objects": lambda rng, value: '{"changes":' * 100_000,
    "megabyte": lambda rng, value: json.dumps(
        {**value, "rationale": "so " * 350_000, "reason": "so " * 350_000}
    ),
    "escaped controls": lambda rng, value: json.dumps({**value, "rationale": CONTROLS, "reason": CONTROLS}),
    "raw controls": lambda rng, value: json.dumps(value).replace(" ", f" {CONTROLS}") + CONTROLS,
    "escaped surrogates": lambda rng, value: json.dumps(
        {**value, "rationale": "\ud800 \udfff", "reason": "\ud800"}
    ),
    "raw surrogates": lambda rng, value: json.dumps(
        {**value, "rationale": "\ud800 \udfff", "reason": "\ud800"}, ensure_ascii=False
    ),
}

# Ill manners: everything around the text

HTML = (
    b"<html><head><title>502 Bad Gateway</title></head>"
    b"<body><center><h1>502 Bad Gateway</h1></center></body></html>"
)
REFUSAL = {"role": "assistant", "content": None, "refusal": "I'm sorry, I can't assist with that."}
FIXED = {
    "null content": Answer(),
    "429": Answer(status=429, error="Rate limit reached for requests per min.", headers={"retry-after": "0"}),
    "500": Answer(
        status=500, error="The server had an error while processing your request. Sorry about that!"
    ),
    "503": Answer(status=503, error="The engine is currently overloaded, please try again later."),
    "400": Answer(
        status=400,
        error="This model's maximum context length is 8192 tokens, however you requested 9000 tokens.",
    ),
    "html": Answer(raw=HTML, headers={"content-type": "text/html"}),
    "html called json": Answer(raw=HTML),
    "html error": Answer(status=502, raw=HTML, headers={"content-type": "text/html"}),
    "empty body": Answer(raw=b""),
    "null body": Answer(raw=b"null"),
    "list body": Answer(raw=b"[]"),
    "not utf-8": Answer(raw=b'{"choices": "\xff\xfe"}'),
    "choices missing": Answer(
        raw=b'{"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "scripted"}'
    ),
    "unknown function": Answer(tool_calls=[("no_such_function", {"a": 1})], finish_reason="tool_calls"),
}
BENT: dict[str, dict[str, Any]] = {
    "refusal": {"choices": [{"index": 0, "finish_reason": "stop", "message": REFUSAL}]},
    "choices empty": {"choices": []},
    "choices null": {"choices": None},
    "choices a text": {"choices": "none"},
    "choices an object": {"choices": {"0": {"message": REFUSAL}}},
    "choice null": {"choices": [None]},
    "message missing": {"choices": [{"index": 0, "finish_reason": "stop"}]},
    "message a text": {"choices": [{"index": 0, "finish_reason": "stop", "message": "yes"}]},
    "content a number": {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {**REFUSAL, "content": 7}}]
    },
    "content a list": {
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {**REFUSAL, "content": [{"type": "text", "text": "yes"}]},
            }
        ]
    },
    "calls a text": {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {**REFUSAL, "tool_calls": "none"}}]
    },
    "call null": {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {**REFUSAL, "tool_calls": [None]}}]
    },
    "usage null": {"usage": None},
    "usage a text": {"usage": "much"},
    "usage of texts": {"usage": {"prompt_tokens": "many", "completion_tokens": [], "total_tokens": None}},
    "usage negative": {"usage": {"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10}},
    "usage huge": {
        "usage": {"prompt_tokens": 10**30, "completion_tokens": 1e300, "total_tokens": float("inf")}
    },
}

Manner = Callable[[random.Random, Request], Answer]


def _said(
    text: Callable[[random.Random, dict[str, Any]], str], rng: random.Random, request: Request
) -> Answer:
    return answer_text(request, text(rng, sensible(rng, asked_schema(request))))


def _well_said(rng: random.Random, request: Request, **manner: Any) -> Answer:
    return replace(_said(lambda _, value: json.dumps(value), rng, request), **manner)


def _bent(parts: dict[str, Any], rng: random.Random, request: Request) -> Answer:
    return Answer(raw=json.dumps(completion(request, _well_said(rng, request)) | parts).encode())


def _cut(rng: random.Random, request: Request) -> Answer:
    body = json.dumps(completion(request, _well_said(rng, request))).encode()
    return Answer(raw=body, cut_after=len(body) // 2)


def _broken_call(rng: random.Random, request: Request) -> Answer:
    name = request.function["name"] if request.form == "tool" else "answer"
    return Answer(tool_calls=[(name, '{"changes": [')], finish_reason="tool_calls")


class Hostile:
    """A mind with ill manners: all of them in as many requests as there are, then all again in another order.

    Attributes:
        manners: their names.
        drawn: how often each was shown.
    """

    def __init__(self, seed: int = 0, *, silence_s: float = 0.2, drip_s: float = 0.001) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._manners: dict[str, Manner] = {
            **{name: partial(_said, text) for name, text in TEXTS.items()},
            **{name: lambda rng, request, answer=answer: answer for name, answer in FIXED.items()},
            **{name: partial(_bent, parts) for name, parts in BENT.items()},
            "content always": lambda rng, request: Answer(
                content=json.dumps(sensible(rng, asked_schema(request)))
            ),
            "broken arguments": _broken_call,
            "usage missing": partial(_well_said, usage=None),
            "length": lambda rng, request: replace(_said(_truncated, rng, request), finish_reason="length"),
            "content filter": lambda rng, request: Answer(content="", finish_reason="content_filter"),
            "half a body": _cut,
            "silence": partial(_well_said, delay_s=silence_s),
            "drip": partial(_well_said, drip_s=drip_s),
        }
        self.manners = list(self._manners)
        self.drawn: Counter[str] = Counter()

    def __call__(self, request: Request) -> Answer:
        with self._lock:
            count = self.drawn.total()
            turn, position = divmod(count, len(self.manners))
            name = random.Random(f"{self._seed}/{turn}").sample(self.manners, len(self.manners))[position]
            self.drawn[name] += 1
        return self._manners[name](random.Random(f"{self._seed}//{count}"), request)

    @staticmethod
    def text(rng: random.Random, schema: dict[str, Any]) -> str:
        """Return a hostile answer to a question with that schema, mostly a mutated valid one."""
        write = _mutated if rng.random() < 0.8 else rng.choice(list(TEXTS.values()))
        return write(rng, sensible(rng, schema))
