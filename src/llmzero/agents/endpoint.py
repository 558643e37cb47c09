"""A language model behind an OpenAI-compatible endpoint: a call gets a reply or an error, whatever happens.

Calls are retried with back-off by the openai client, bounded in time and size (transport.py), limited in
number at one time (slots.py), refused for a while after repeated failure (breaker.py), and stored and charged
by the journal (journal.py). The first replies tell how the endpoint has to be asked for JSON (dialects.py).
What no retry mends is known before a search (checkup.py).
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmzero.agents.breaker import Breaker
from llmzero.agents.checkup import check_endpoint, client_problem, lasting_problem, told, unreachable
from llmzero.agents.complaints import ReplyError, complaint_of
from llmzero.agents.dialects import Dialect, DialectSearch
from llmzero.agents.journal import CallId, CallJournal, Tape
from llmzero.agents.reply import Message, Reply, read_reply
from llmzero.agents.slots import slot
from llmzero.agents.text import one_line
from llmzero.core.errors import UserError
from llmzero.core.redaction import MARK, SHORTEST, keep_secret, looks_like_key, masked, redacted_data
from llmzero.core.settings import setting

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

BODY_TRIES = 2  # for a reply that breaks off: the client itself retries all else
CHECK_S = 10.0  # seconds that an endpoint has to list its models
SLOT_TIMEOUTS = 5  # timeouts that a call waits for a slot: others may be in a queue before it
BACK_OFF_S, LONGEST_BACK_OFF_S = 0.5, 8.0  # before a request is sent again whose reply holds an error
TRANSPORT_FIELDS = ("extra_headers", "extra_query", "timeout")  # of `extra`: not of a request's body


class CallError(Exception):
    """There is no reply: the endpoint failed, has failed repeatedly before, or the budget is spent."""


@dataclass
class LlmSettings:
    """`llm`: the language model that agent, early stopper and search method ask, if they ask one."""

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
        {},
        "further fields of every request, e.g. {reasoning_effort: low}; secrets in it, such as "
        "extra_headers, are written to no file",
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

    def __post_init__(self) -> None:
        """Refuse secrets where they would be written to files, and keep those in `extra` from there.

        Raises:
            UserError: the address holds more than that, or a key stands in place of its variable's name.
        """
        if problem := _address_problem(self.base_url):
            keep_secret(self.base_url or "")
            raise UserError(f"llm.base_url {problem}")
        name = self.api_key_env
        if name is not None and (looks_like_key(name) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)):
            keep_secret(name)
            raise UserError(
                "llm.api_key_env: must be the name of an environment variable, such as OPENAI_API_KEY, and "
                "not the key itself"
            )
        masked(self.extra)
        headers = self.extra.get("extra_headers")
        for name, value in headers.items() if isinstance(headers, dict) else ():
            if not (isinstance(value, str) and value.isascii() and value.isprintable()):
                raise UserError(
                    f"llm.extra.extra_headers.{one_line(name, 80)}: must be a text of printable ASCII "
                    "characters, as no request can carry another; a number wants quotes"
                )


def _address_problem(address: str | None) -> str | None:
    """Return what is wrong with an address, without quoting it; None where nothing is."""
    if address is None:
        return None
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or not address.isprintable() or " " in address:
        return "is no address; it must be like https://HOST/v1"
    parts_beyond = {"password": parts.password, "user name": "@" in parts.netloc, "query": "?" in address}
    if re.search(r"/(chat|completions|responses|embeddings|messages)/?$", parts.path):
        return (
            "names one of an endpoint's functions; leave off what follows the version, as in https://HOST/v1"
        )
    name = next((name for name, there in {**parts_beyond, "fragment": "#" in address}.items() if there), None)
    return name and (
        f"contains a {name}, which would be written to files; put a key into an environment variable "
        "and name that in llm.api_key_env, and further parts of a request into llm.extra"
    )


class Endpoint:
    """One model of one endpoint. Several threads may ask at once.

    Raises:
        UserError: no model is named, or the key cannot be sent, or not be redacted.
    """

    def __init__(self, settings: LlmSettings) -> None:
        self.settings = settings
        self.model = settings.model or ""
        self._tape = Tape(settings.cassette, Path(settings.cassette_dir))
        self._key = _key(settings.api_key_env, self.replays)
        self._journal: CallJournal | None = None
        self._client: OpenAI | None = None
        self._client_lock = threading.Lock()
        self._dialects = DialectSearch()
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_pause_s)
        self._label = f"model {self.model} at {settings.base_url or 'OpenAI'}"
        if not self.model:
            raise UserError("llm.model: needs the name of a model, e.g. llm.model=NAME llm.base_url=URL")

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

    def connected(self, journal: CallJournal) -> Endpoint:
        """Return the same endpoint, whose calls go to another journal; what was learnt of it is shared."""
        self._openai()
        other = copy(self)
        other.connect(journal)
        return other

    def check(self) -> None:
        """Check the set-up; warn of an endpoint that is merely ill.

        The list of models costs nothing. A model that is not in it is asked for one token.

        Raises:
            UserError: the key is missing or not accepted, the address, the model or the environment is wrong,
                or nobody answers.
        """
        from openai import APIConnectionError, APITimeoutError

        if self.replays:
            return
        if self.settings.api_key_env and not self._key:
            raise UserError(
                f"llm.api_key_env={self.settings.api_key_env}: this environment variable, which holds the "
                f"key for model {self.model}, is not set; set it, or give llm.api_key_env=null where the "
                "endpoint wants no key"
            )
        if MARK in json.dumps(self.settings.extra):
            raise UserError(
                f"llm.extra: {MARK} stands there for secrets, which are stored nowhere; give the values again"
            )
        client = self._openai().with_options(timeout=CHECK_S, max_retries=0)
        try:
            with self._slot(CHECK_S):
                check_endpoint(client, self.model, self.settings.api_key_env, self.settings.extra)
        except UserError as error:
            raise UserError(f"{self._label}: {error}") from None
        except Exception as error:
            problem = lasting_problem(error, self.model, self.settings.api_key_env)
            if problem is None and isinstance(error, APITimeoutError):
                log.warning(
                    "%s has not answered within %.0f s; the search begins all the same", self._label, CHECK_S
                )
            elif problem is None and isinstance(error, APIConnectionError):
                problem = unreachable(error, str(client.base_url))
            elif problem is None:
                log.warning(
                    "%s does not list its models (%s); the search begins all the same",
                    self._label,
                    told(error),
                )
            if problem is not None:
                raise UserError(f"{self._label}: {problem}") from None

    def ask(
        self,
        call: CallId,
        messages: Sequence[Message],
        *,
        schema: dict[str, Any] | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> Reply:
        """Return the reply to a conversation. One that was just made may hold secrets; a stored one has none.

        Args:
            call: what it is for; the journal finds a call that was made before.
            messages: in the words of the protocol, images as data URLs.
            schema: the JSON schema that the reply is asked to keep; nothing guarantees that it does.
            tools: functions the model may call instead of answering.

        Raises:
            CallError: there is no reply.
            UserError: a replay asks for what was never recorded.
        """
        assert self._journal is not None, "connect() comes first"
        messages = redacted_data(messages)
        name = self._journal.name(call)
        self._journal.count(call)
        with self._journal.alone(name):
            record = self._journal.find(name)
            if record is not None:
                self._journal.charge_found(name, record)
            if record is None and self.replays:
                record = self._tape.replay(name) | {"dollars": 0.0, "replayed": True}
                self._journal.write(name, record)
            if record is None:
                record = self._call(self._journal, name, messages, schema, tools)
        if record["error"]:
            raise CallError(record["error"])
        fields = ("text", "cut", "prompt_tokens", "completion_tokens", "dollars")
        return Reply(
            **{field: record[field] for field in fields},
            trouble=record.get("trouble", ""),
            tool_calls=tuple(tuple(tool_call) for tool_call in record["tool_calls"]),
        )

    def _call(
        self,
        journal: CallJournal,
        name: str,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        tools: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Make a call, unless budget or breaker forbid it; return its record, which is stored and charged."""
        started, reply, error = time.monotonic(), Reply(""), None
        lost: list[Reply] = []
        form = "tools" if tools else "none"
        if budget := journal.spent():
            error = f"budget.{budget} is spent"
        elif self._breaker.is_open:
            error = (
                f"{self._label} failed {self._breaker.failures} times in a row and is left alone for "
                f"{self._breaker.pause_s:.0f} s"
            )
        made = error is None
        if made:
            try:
                reply, dialect = self._answer(messages, schema, tools, lost)
                form = dialect.form if schema else form
                self._breaker.succeed()
            except Exception as failure:  # whatever an endpoint can do to a client ends here
                problem = lasting_problem(failure, self.model, self.settings.api_key_env)
                error = f"{type(failure).__name__}: {problem or told(failure)}"
                self._fail(error, lasting=problem is not None or isinstance(failure, UserError))
        paid = [*lost, reply]
        record = {
            "made": made,
            "model": self.model,
            "base_url": self.settings.base_url,
            "form": form,
            "messages": deepcopy(list(messages)),
            "seconds": round(time.monotonic() - started, 3),
            "error": error,
            **asdict(reply),
            "prompt_tokens": sum(each.prompt_tokens for each in paid),
            "completion_tokens": sum(each.completion_tokens for each in paid),
            "dollars": sum(each.dollars for each in paid),
        }
        stored = {
            **record,
            **{part: redacted_data(record[part]) for part in ("text", "tool_calls", "trouble")},
        }
        self._tape.write(name, deepcopy(stored))
        journal.write(name, stored)
        return record

    def _fail(self, error: str, lasting: bool) -> None:
        log.warning("%s: %s", self._label, error)
        if self._breaker.fail(lasting):
            log.warning(
                "%s is left alone for %.0f s; until then rules decide in its place",
                self._label,
                self._breaker.pause_s,
            )

    def _answer(
        self,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        tools: Sequence[dict[str, Any]],
        lost: list[Reply],
    ) -> tuple[Reply, Dialect]:
        """Return the reply to a conversation, and the dialect that got it; try others after a refusal.

        Replies that cost something and hold no answer are added to `lost`.
        """
        tried = [self._dialects.dialect]
        while True:
            request = self._request(tried[-1], messages, schema, tools)
            # One that has been waited for is not waited for again in every other form.
            retries = self.settings.retries if len(tried) == 1 else 0
            try:
                with self._slot(SLOT_TIMEOUTS * self.settings.timeout_s):
                    reply = self._send(request, retries, lost)
            except Exception as refusal:
                complaint = complaint_of(refusal)
                optional = request.get("extra_body", {})
                following = complaint and self._dialects.after_refusal(
                    tried, complaint, schema is not None, optional
                )
                if not following:
                    raise
                self._tell_dropped(tried[-1], following, refusal)
                tried.append(following)
                continue
            self._dialects.learn(tried[-1], reply, bool(schema))
            return reply, tried[-1]

    def _request(
        self,
        dialect: Dialect,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        tools: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Return a request as the client's method takes it: what it need not know goes into `extra_body`."""
        request: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
        }
        if dialect.limit is not None:
            request[dialect.limit] = self.settings.max_reply_tokens
        if tools:
            request["tools"] = list(tools)
        elif schema:
            request |= dialect.asking(messages, schema)
        fields = {"temperature": self.settings.temperature} if self.settings.temperature is not None else {}
        extra = dict(self.settings.extra)
        fields |= extra.pop("extra_body", None) or {}
        fields |= {name: extra.pop(name) for name in list(extra) if name not in TRANSPORT_FIELDS}
        fields = {name: value for name, value in fields.items() if name not in dialect.dropped}
        return {**request, **extra, **({"extra_body": fields} if fields else {})}

    def _tell_dropped(self, before: Dialect, after: Dialect, refusal: Exception) -> None:
        unlimited = ["a limit of replies"] if before.limit is not None and after.limit is None else []
        for name in [*unlimited, *(after.dropped - before.dropped)]:
            log.warning("%s does not take %s, which is left out: %s", self._label, name, told(refusal))

    def _send(self, request: dict[str, Any], retries: int, lost: list[Reply]) -> Reply:
        """Send a request, and again where the reply breaks off, is garbled or holds a passing error.

        The client itself retries all else.
        """
        from openai import APIConnectionError, APIStatusError

        completions = self._openai().with_options(max_retries=retries).chat.completions
        for attempt in itertools.count():
            try:
                with completions.with_streaming_response.create(**request) as response:
                    reply = read_reply(response.read(), request)
                    return replace(reply, dollars=self._price(reply))
            except (APIStatusError, APIConnectionError, TimeoutError):
                raise
            except Exception as error:
                complaint = error.complaint if isinstance(error, ReplyError) else None
                if isinstance(error, ReplyError):
                    nothing = Reply("", prompt_tokens=error.usage[0], completion_tokens=error.usage[1])
                    lost.append(replace(nothing, dollars=self._price(nothing)))
                more = BODY_TRIES - 1 if complaint is None else retries if complaint.passing else 0
                if attempt >= more:
                    raise
                if complaint is not None:
                    time.sleep(min(BACK_OFF_S * 2**attempt, LONGEST_BACK_OFF_S))
        raise AssertionError("the last try returns or raises")

    def _price(self, reply: Reply) -> float:
        """Return the dollars that a reply cost, by prices a million tokens."""
        price_input, price_output = self.settings.price_input or 0.0, self.settings.price_output or 0.0
        return (reply.prompt_tokens * price_input + reply.completion_tokens * price_output) / 1e6

    def _slot(self, timeout_s: float) -> AbstractContextManager[None]:
        return slot(self.settings.base_url or "openai", self.settings.max_at_once, timeout_s)

    def _openai(self) -> OpenAI:
        with self._client_lock:
            return self._client or self._new_client()

    def _new_client(self) -> OpenAI:
        from openai import OpenAI

        from llmzero.agents.transport import bounded_client

        for chatter in ("httpx", "httpx2"):  # a line for every request, in the middle of the search's own
            logging.getLogger(chatter).setLevel(logging.WARNING)
        try:
            http_client = bounded_client()
        except Exception as error:  # whatever the environment makes of it
            raise UserError(f"{self._label}: {client_problem(error)}") from None
        self._client = OpenAI(
            api_key=self._key or "none",
            base_url=self.settings.base_url,
            timeout=self.settings.timeout_s,
            max_retries=self.settings.retries,
            http_client=http_client,
        )
        return self._client


def _key(variable: str | None, replays: bool) -> str | None:
    """Return the key in an environment variable, from which an editor's line end is taken; None without one.

    Raises:
        UserError: it has characters that cannot be sent, or is too short to be redacted; not where nothing is
            sent (`replays`).
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    keep_secret(key)
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"llm.api_key_env={variable}: the key in this environment variable holds blanks, control "
            "characters or letters beyond ASCII, which no request can carry; set it to the key alone"
        )
    if 0 < len(key) < SHORTEST and not replays:
        raise UserError(
            f"llm.api_key_env={variable}: the key in this environment variable has {len(key)} characters; "
            f"one of fewer than {SHORTEST} cannot be told from words, so it cannot be kept out of files and "
            "logs; give the server a longer one, or llm.api_key_env=null where it asks for none"
        )
    return key or None
