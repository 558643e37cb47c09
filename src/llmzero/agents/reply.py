"""Replies of a language model, read with as little trust as possible, in all shapes that there are."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from llmzero.agents.complaints import ReplyError, complaint_in, error_of
from llmzero.agents.streamed import joined_stream
from llmzero.agents.text import estimated_tokens, one_line
from llmzero.core.redaction import redacted

Message = dict[str, Any]  # of a conversation, in the words of the protocol
CUT = ("length", "max_tokens", "model_length")
FILTERED = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "refusal")
# Where endpoints put the answer of a message without content: read by them, or taken for reasoning.
INSTEAD = ("parsed", "reasoning_content", "reasoning", "reasoning_details", "thinking")
PROMPT = ("prompt_tokens", "input_tokens")  # as endpoints count them
COMPLETION = ("completion_tokens", "output_tokens")
SAID = 300  # characters of a refusal


@dataclass(frozen=True)
class Reply:
    """What a language model replied, and what it cost.

    Attributes:
        text: the message's content and the arguments of the tool that had to be called. Where a message has
            neither, what stands in its place: some endpoints take the whole answer for reasoning. It is as it
            came: secrets are taken out of what is read in it, and of what is stored.
        tool_calls: (id, name, arguments as sent) of every tool call.
        cut: whether the reply ended at the limit of its length.
        trouble: why there is no answer, as far as the reply says so: a refusal, or a filter.
    """

    text: str
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    trouble: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of prompt and reply."""
        return self.prompt_tokens + self.completion_tokens


class NoCompletionError(ReplyError):
    """What came with status 200 is a page of HTML, or anything else that no such endpoint sends."""


def read_reply(body: bytes, request: Message) -> Reply:
    """Return the reply in the body of a chat completion, without its price. It may hold secrets.

    Args:
        body: JSON, if the endpoint keeps the protocol, or a stream of it.
        request: the request that it answers.

    Raises:
        ReplyError: it holds an error instead.
        Exception: of any other kind, where the body is no chat completion.
    """
    completion = _completion(body)
    choice = _choice(completion)
    message = choice.get("message") or choice.get("delta") or choice.get("text")
    message = message if isinstance(message, dict) else {"content": message}
    reason = str(choice.get("finish_reason") or "").lower()
    tool_calls, cut = _tool_calls(message), reason in CUT
    had_to_call = bool(tool_calls) and ("tool_choice" in request or "tools" not in request)
    said = [_text(message.get("content")), *(call[2] for call in tool_calls if had_to_call)]
    if not cut and (had_to_call or not tool_calls) and not any(part.strip() for part in said):
        said = [next((text for name in INSTEAD if (text := _text(message.get(name)))), "")]
    text = "\n".join(part for part in said if part)
    if completion.get("error") and not (text or tool_calls):
        raise _failure(completion, completion.get("usage"))
    usage = completion.get("usage")
    return Reply(
        text,
        tool_calls,
        cut=cut,
        prompt_tokens=_tokens(usage, PROMPT, json.dumps(request["messages"])),
        completion_tokens=_tokens(usage, COMPLETION, text),
        trouble=_trouble(message, reason),
    )


def _completion(body: bytes) -> Mapping[str, Any]:
    """Return the chat completion in a body.

    Raises:
        ReplyError: there is none.
    """
    text = body.decode(errors="replace").lstrip("\ufeff")
    if text.lstrip()[:1] == "<":
        title = re.search(r"<title[^<>]*>([^<>]*)", text, re.IGNORECASE)
        named = f" ({one_line(redacted(title[1]), 80)})" if title and title[1].strip() else ""
        raise NoCompletionError(f"the reply is a page of HTML{named} and no JSON; is llm.base_url right?")
    try:
        document = _document(text)
    except ValueError:
        raise NoCompletionError(
            f"the reply is no JSON: {one_line(redacted(text), SAID) or 'it is empty'}"
        ) from None
    if not isinstance(document, dict):
        raise NoCompletionError("the reply is JSON, but no chat completion")
    return document


def _document(text: str) -> Any:
    """Return what a body says in JSON, or in a stream of it.

    Raises:
        ValueError: it is neither, or breaks off.
    """
    try:
        return json.loads(text)
    except ValueError:
        streamed = joined_stream(text)
        if streamed is None:
            raise
        return streamed


def _choice(completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first choice of a chat completion.

    Raises:
        ReplyError: there is none; the endpoint's own words say why, if it has any.
    """
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if choice is None and isinstance(completion.get("message"), dict):  # Ollama's own protocol
        return dict(completion)
    failed = isinstance(choice, dict) and choice.get("error")
    if isinstance(choice, dict) and not failed:
        return choice
    raise _failure(choice if isinstance(choice, dict) else completion, completion.get("usage"))


def _failure(document: Mapping[str, Any], usage: Any) -> ReplyError:
    """Return the error for what holds one in place of an answer, or nothing at all."""
    error, charged = error_of(document), (_tokens(usage, PROMPT, ""), _tokens(usage, COMPLETION, ""))
    if error is None:
        return ReplyError("the reply holds no choices", usage=charged)
    complaint = complaint_in(error)
    code = f" {complaint.status}" if complaint.status else ""
    return ReplyError(
        f"the reply holds an error{code} in place of an answer: {complaint.told}", complaint, charged
    )


def _tool_calls(message: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Return id, name and arguments of every call of a tool, the one of the old protocol too."""
    calls = message.get("tool_calls") or ()
    legacy = message.get("function_call")
    calls = [calls] if isinstance(calls, dict) else calls if isinstance(calls, list) else []
    calls = [*calls, {"function": legacy}] if isinstance(legacy, dict) else calls
    read = []
    for call in calls:
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if isinstance(function, dict) and function:
            sent = _arguments(function.get("arguments", function.get("parameters")))
            name = function.get("name") or ""
            read.append(tuple(str(part) for part in (call.get("id") or "", name, sent)))
    return tuple((call_id, name, sent) for call_id, name, sent in read)


def _arguments(arguments: Any) -> str:
    """Return the arguments of a call in JSON, which some endpoints encode twice and others not at all."""
    if isinstance(arguments, str) and arguments.lstrip().startswith('"'):
        with suppress(ValueError):
            inner = json.loads(arguments)
            return inner if isinstance(inner, str) else arguments
    return arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)


def _text(content: Any) -> str:
    """Return a message's text, which some endpoints send as parts, or as the object that it describes."""
    if isinstance(content, dict):
        return _part(content) if "text" in content or "type" in content else json.dumps(content)
    if isinstance(content, list):
        return "".join(_part(part) if isinstance(part, dict) else str(part or "") for part in content)
    return str(content or "")


def _part(part: Mapping[str, Any]) -> str:
    """Return the text of a part of a message; reasoning and refusals have none under this key."""
    text = part.get("text") if part.get("type") not in ("reasoning", "thinking") else None
    return str((text.get("value") if isinstance(text, dict) else text) or "")


def _trouble(message: Mapping[str, Any], reason: str) -> str:
    """Return why a message holds no answer, as far as it says so."""
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    refusals = [message.get("refusal"), *(part.get("refusal") for part in parts if isinstance(part, dict))]
    refusal = next((text for text in refusals if isinstance(text, str) and text.strip()), None)
    if refusal:
        return f"The model refused to answer: {one_line(redacted(refusal), SAID)}"
    return f"A filter of the endpoint ended the reply (finish_reason={reason})." if reason in FILTERED else ""


def _tokens(usage: Any, names: tuple[str, ...], text: str) -> int:
    """Return how many tokens the endpoint says it used; an estimate where it says nothing sensible."""
    values = [usage.get(name) for name in names] if isinstance(usage, dict) else []
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
            return math.ceil(value)
    return estimated_tokens(text)
