"""A language model behind an OpenAI-compatible endpoint: one call in, text out, whatever the endpoint does.

Calls are retried with back-off by the openai client, bounded in time and size, limited in number at once over all searches of
this machine, refused for a while after repeated failure, stored and charged by the journal. How the endpoint wants to be asked
for JSON is found out once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from llmzero.agents.journal import CallId, CallJournal, Tape
from llmzero.agents.text import estimated_tokens, json_object
from llmzero.core.errors import UserError
from llmzero.core.settings import setting

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

Form = Literal["bounded", "strict", "tool", "plain"]
Message = dict[str, Any]

# Of JSON answers, the most binding first: a schema that is kept to with bounds on texts, which not every endpoint knows and which keep
# small models from rambling; without them; the arguments of a tool; a request in words.
FORMS: tuple[Form, ...] = ("bounded", "strict", "tool", "plain")
ANSWER_TOOL = "answer"
BODY_LIMIT = 8_000_000  # bytes of a reply that are read
BODY_TRIES = 2  # for a reply that breaks off: the client itself retries all else
SLOT_POLL_S = 0.1
UNSUPPORTED = (400, 404, 422, 501)


class CallError(Exception):
    """No reply: the endpoint is silent, ill, out of budget, or the call was not made because it has been so."""


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the message's content, or the arguments of the tool that was asked for.
        tool_calls: (id, name, arguments as sent) of every tool call.
        cut: whether the reply ended at the limit of its length.
    """

    text: str
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompt and reply."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Dialect:
    """How an endpoint is asked: the form of JSON answers, and the name of the limit on their length."""

    form: Form = "bounded"
    limit: str = "max_completion_tokens"

    def after(self, complaint: str) -> Dialect | None:
        """Return what to try after the endpoint refused a request; None where nothing is left."""
        if self.limit in complaint and self.limit != "max_tokens":
            return replace(self, limit="max_tokens")
        position = FORMS.index(self.form)
        return replace(self, form=FORMS[position + 1]) if position + 1 < len(FORMS) else None


@dataclass
class LlmSettings:
    """`llm`: a language model behind an OpenAI-compatible endpoint, for whichever of agent, early stopper and method asks one."""

    model: str | None = setting(None, "its name at the endpoint")
    base_url: str | None = setting(None, "e.g. http://localhost:8000/v1; null is OpenAI's own")
    api_key_env: str | None = setting(
        "OPENAI_API_KEY", "the environment variable that holds the key; null where there is none"
    )
    timeout_s: float = setting(
        120.0, "seconds of silence, and of a whole reply, before a try is given up", low=0.001
    )
    retries: int = setting(
        4, "tries after 408, 409, 429, 5xx and failed connections, with back-off", low=0, high=100
    )
    max_at_once: int = setting(
        8, "calls under way at one time from this machine, over all processes of this user", low=1, high=1024
    )
    max_reply_tokens: int = setting(4000, "limit of a reply", low=1)
    temperature: float | None = setting(None, "null leaves it to the endpoint", low=0, high=2)
    extra: dict[str, Any] = setting(
        {}, "further fields of every request, e.g. +llm.extra={reasoning_effort: low}"
    )
    price_input: float | None = setting(None, "dollars a million tokens; budget.llm_dollars needs it", low=0)
    price_output: float | None = setting(None, "dollars a million tokens; budget.llm_dollars needs it", low=0)
    breaker_failures: int = setting(
        3, "failed calls in a row after which none is made for breaker_pause_s", low=1
    )
    breaker_pause_s: float = setting(300.0, "seconds", low=0)
    cassette: str | None = setting(
        None,
        "record keeps every call in cassette_dir too; replay answers from there, or from a search directory",
        choices=("record", "replay"),
    )
    cassette_dir: str = setting("runs/cassette", "where calls are recorded and replayed from")
    prompts: str | None = setting(None, "folder of templates that replace those of conf/agent/prompts")


class Endpoint:
    """One model of one endpoint."""

    def __init__(self, settings: LlmSettings) -> None:
        self.settings = settings
        self.model = settings.model or ""
        self._tape = Tape(settings.cassette, Path(settings.cassette_dir))
        self._key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
        self._journal: CallJournal | None = None
        self._client: OpenAI | None = None
        self._dialect, self._settled = Dialect(), False
        self._failures, self._paused_until = 0, 0.0
        if not self.model:
            raise UserError("llm.model: needs the name of a model, e.g. llm.model=NAME llm.base_url=URL")
        if urlsplit(settings.base_url or "").password:
            raise UserError(
                f"llm.base_url of model {self.model} contains a password; put it into an environment variable and "
                "name that in llm.api_key_env"
            )

    @property
    def replays(self) -> bool:
        """Whether nothing is asked, and everything is answered from a cassette."""
        return self.settings.cassette == "replay"

    def knows(self, call: CallId) -> bool:
        """Whether a replay has an answer to the next call of this kind."""
        return self._journal is not None and self._tape.find(self._journal.name(call)) is not None

    def connect(self, journal: CallJournal) -> None:
        """Store and charge all calls in `journal` from now on."""
        self._journal = journal

    def check(self) -> None:
        """Raise `UserError` where the key is missing or not accepted, or where nobody answers; an endpoint may be ill."""
        from openai import APIConnectionError, APITimeoutError, AuthenticationError, PermissionDeniedError

        if self.replays:
            return
        if self.settings.api_key_env and not self._key:
            raise UserError(
                f"llm.api_key_env={self.settings.api_key_env}: this environment variable, which holds the key for model "
                f"{self.model}, is not set; set it, "
                "or give llm.api_key_env=null where the endpoint wants no key"
            )
        try:
            self._openai().with_options(timeout=10, max_retries=0).models.list()
        except (AuthenticationError, PermissionDeniedError) as error:
            raise UserError(
                f"{self._where}: the key in {self.settings.api_key_env} is not accepted: {self._redacted(str(error))}"
            ) from None
        except APITimeoutError:
            log.warning("%s has not answered within 10 s; the search begins all the same", self._where)
        except APIConnectionError as error:
            raise UserError(
                f"{self._where}: nobody answers there ({self._redacted(str(error.__cause__ or error))}); is it running?"
            ) from None
        except Exception as error:
            log.warning(
                "%s does not list its models (%s); the search begins all the same",
                self._where,
                self._redacted(str(error)),
            )

    def ask(
        self,
        call: CallId,
        messages: Sequence[Message],
        *,
        schema: dict[str, Any] | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> Reply:
        """Return the reply to a conversation.

        Args:
            call: what it is for; the journal finds a call that was made before.
            messages: in the words of the protocol, images as data URLs.
            schema: the JSON schema that the reply is asked to keep; nothing guarantees that it does.
            tools: functions the model may call instead of answering.

        Raises:
            CallError: there is no reply.
        """
        assert self._journal is not None, "connect() comes first"
        name = self._journal.name(call)
        self._journal.count(call)
        known = self._journal.find(name)
        if known is None and self.replays:
            known = self._tape.find(name)
            if known is None:
                raise self._tape.missing(name)
            known |= {"dollars": 0.0, "replayed": True}
            self._journal.write(name, known)
        record = known if known is not None else self._call(name, messages, schema, tools)
        if record["error"]:
            raise CallError(record["error"])
        fields = ("text", "cut", "prompt_tokens", "completion_tokens", "dollars")
        return Reply(
            **{f: record[f] for f in fields}, tool_calls=tuple(tuple(made) for made in record["tool_calls"])
        )

    # --- one call ---

    def _call(
        self,
        name: str,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        tools: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Make a call and return its record, which is stored and charged."""
        assert self._journal is not None
        started, reply, error = time.monotonic(), Reply(""), self._refusal(self._journal)
        made, form = error is None, "tools" if tools else "none"
        if made:
            try:
                reply, dialect = self._answered(messages, schema, tools)
                form = dialect.form if schema else form
                self._failures = 0
            except Exception as failure:  # whatever an endpoint can do to a client ends here
                error = self._redacted(f"{type(failure).__name__}: {failure}")[:1000]
                self._failed(error)
        record = {
            "made": made,
            "model": self.model,
            "base_url": self.settings.base_url,
            "form": form,
            "messages": deepcopy(list(messages)),
            "seconds": round(time.monotonic() - started, 3),
            "error": error,
            **asdict(reply),
        }
        self._tape.write(name, deepcopy(record))
        self._journal.write(name, record)
        return record

    def _refusal(self, journal: CallJournal) -> str | None:
        if budget := journal.spent():
            return f"budget.{budget} is spent"
        if time.monotonic() < self._paused_until:
            return f"{self._where} failed {self.settings.breaker_failures} times in a row and is left alone for {self.settings.breaker_pause_s:.0f} s"
        return None

    def _failed(self, error: str) -> None:
        self._failures += 1
        log.warning("%s: %s", self._where, error.splitlines()[0])
        if self._failures >= self.settings.breaker_failures:
            self._paused_until, self._failures = time.monotonic() + self.settings.breaker_pause_s, 0
            log.warning(
                "%s is left alone for %.0f s; until then rules decide in its place",
                self._where,
                self.settings.breaker_pause_s,
            )

    def _answered(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, tools: Sequence[dict[str, Any]]
    ) -> tuple[Reply, Dialect]:
        """Ask in the endpoint's dialect; find it out where it is not known yet."""
        from openai import APIStatusError

        dialect = self._dialect
        while True:
            try:
                with slot(self.settings.base_url or "openai", self.settings.max_at_once):
                    reply = self._sent(self._request(dialect, messages, schema, tools))
            except APIStatusError as refused:
                open_question = schema is not None or dialect.limit in str(refused)
                following = (
                    dialect.after(str(refused))
                    if refused.status_code in UNSUPPORTED and open_question and not self._settled
                    else None
                )
                if following is None:
                    raise
                dialect = following
                continue
            self._learn(dialect, reply, schema)
            return reply, dialect

    def _learn(self, dialect: Dialect, reply: Reply, schema: dict[str, Any] | None) -> None:
        """Keep what worked. An endpoint that accepts a form and ignores it is asked in a plainer one next time."""
        self._dialect = dialect
        if schema and not self._settled:
            kept = (
                reply.tool_calls
                if dialect.form == "tool"
                else json_object(reply.text, "") or (reply.cut and reply.text.lstrip()[:1] == "{")
            )
            plainer = dialect.after("")
            self._settled = bool(kept) or plainer is None
            self._dialect = dialect if self._settled or plainer is None else plainer

    def _request(
        self,
        dialect: Dialect,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        tools: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            dialect.limit: self.settings.max_reply_tokens,
            **self.settings.extra,
        }
        if self.settings.temperature is not None:
            request["temperature"] = self.settings.temperature
        if tools:
            request["tools"] = list(tools)
        elif schema and dialect.form in ("bounded", "strict"):
            asked = schema if dialect.form == "bounded" else without_lengths(schema)
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": ANSWER_TOOL, "strict": True, "schema": asked},
            }
        elif schema and dialect.form == "tool":
            request["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": ANSWER_TOOL,
                        "description": "Give the answer.",
                        "parameters": schema,
                    },
                }
            ]
            request["tool_choice"] = {"type": "function", "function": {"name": ANSWER_TOOL}}
        elif schema:
            request["messages"] = with_schema(messages, schema)
        return request

    def _sent(self, request: dict[str, Any]) -> Reply:
        """Send a request, and again where the reply breaks off or is garbled: the client has retried all else by itself."""
        from openai import APIConnectionError, APIStatusError

        for last in [*[False] * (BODY_TRIES - 1), True]:
            try:
                with self._openai().chat.completions.with_streaming_response.create(**request) as response:
                    return self._reply(self._body(response.iter_bytes()), request)
            except (APIStatusError, APIConnectionError, TimeoutError):
                raise
            except Exception:
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def _body(self, chunks: Iterator[bytes]) -> bytes:
        """Read a reply, bounded in time and size."""
        deadline, body = time.monotonic() + self.settings.timeout_s, b""
        for chunk in chunks:
            body += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"the reply was not complete after {self.settings.timeout_s:.0f} s")
            if len(body) > BODY_LIMIT:
                raise ValueError(f"the reply is longer than {BODY_LIMIT} bytes")
        return body

    def _reply(self, body: bytes, request: dict[str, Any]) -> Reply:
        """Read a chat completion, with as little trust as possible."""
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        calls = [
            (c.get("id", ""), c["function"]["name"], c["function"]["arguments"])
            for c in message.get("tool_calls") or ()
        ]
        made = [
            (self._redacted(str(i)), self._redacted(str(name)), self._redacted(str(arguments)))
            for i, name, arguments in calls
        ]
        text = (
            made[0][2] if made and "tool_choice" in request else self._redacted(_text(message.get("content")))
        )
        usage = completion.get("usage")
        prompt_tokens = _count(usage, "prompt_tokens", json.dumps(request["messages"]))
        completion_tokens = _count(usage, "completion_tokens", text)
        dollars = (
            prompt_tokens * (self.settings.price_input or 0.0)
            + completion_tokens * (self.settings.price_output or 0.0)
        ) / 1e6
        return Reply(
            text,
            tuple(made),
            choice.get("finish_reason") == "length",
            prompt_tokens,
            completion_tokens,
            dollars,
        )

    # --- the key ---

    def _openai(self) -> OpenAI:
        if self._client is None:
            from openai import OpenAI

            for chatter in ("httpx", "httpx2"):  # a line for every request, in the middle of the search's own
                logging.getLogger(chatter).setLevel(logging.WARNING)
            self._client = OpenAI(
                api_key=self._key or "none",
                base_url=self.settings.base_url,
                timeout=self.settings.timeout_s,
                max_retries=self.settings.retries,
            )
        return self._client

    def _redacted(self, text: str) -> str:
        """Return a text without the key, which an endpoint may send back."""
        return text.replace(self._key, "[key]") if self._key else text

    @property
    def _where(self) -> str:
        return f"model {self.model} at {self.settings.base_url or 'OpenAI'}"


@contextmanager
def slot(endpoint: str, slots: int) -> Iterator[None]:
    """Hold one of the slots that this user's processes on this machine share for an endpoint; the kernel frees those of the dead."""
    folder = Path(tempfile.gettempdir()) / f"llmzero-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stem = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
    while True:
        for i in range(slots):
            with (folder / f"{stem}-{i}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(SLOT_POLL_S)


def with_schema(messages: Sequence[Message], schema: dict[str, Any]) -> list[Message]:
    """Return the messages with the schema at the end of the first, for endpoints that know no other way to ask for JSON."""
    asked = f"\n\nAnswer with one JSON object and nothing else. It keeps this JSON schema:\n<answer-schema>\n{json.dumps(schema)}\n</answer-schema>"
    first = messages[0]
    return [{**first, "content": first["content"] + asked}, *messages[1:]]


def without_lengths(schema: Any) -> Any:
    """Return a JSON schema without bounds on the lengths of texts."""
    if isinstance(schema, dict):
        return {key: without_lengths(value) for key, value in schema.items() if key != "maxLength"}
    return [without_lengths(item) for item in schema] if isinstance(schema, list) else schema


def _text(content: Any) -> str:
    """Return a message's text, which some endpoints send as a list of parts."""
    parts = content if isinstance(content, list) else [content]
    return "".join(
        str(part.get("text") or "") if isinstance(part, dict) else str(part or "") for part in parts
    )


def _count(usage: Any, name: str, text: str) -> int:
    """Return how many tokens the endpoint says it used; an estimate where it says nothing sensible."""
    value = usage.get(name) if isinstance(usage, dict) else None
    sensible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e9
    return value if sensible and isinstance(value, int) else estimated_tokens(text)
