"""Replies of a language model, read with as little trust as possible."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llmzero.agents.text import estimated_tokens
from llmzero.core.redaction import redacted

Message = dict[str, Any]  # of a conversation, in the words of the protocol


@dataclass(frozen=True)
class Reply:
    """What a language model replied, and what it cost.

    Attributes:
        text: the message's content, or the arguments of the tool that had to be called.
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


def read_reply(body: bytes, request: Message) -> Reply:
    """Return the reply in the body of a chat completion, without its price, and without secrets.

    Args:
        body: JSON, if the endpoint keeps the protocol.
        request: the request that it answers.

    Raises:
        Exception: of any kind, where the body is no chat completion.
    """
    completion = json.loads(body)
    choice = completion["choices"][0]
    message = choice["message"]
    calls = [
        (call.get("id", ""), call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    tool_calls = tuple(
        (redacted(str(call_id)), redacted(str(name)), redacted(str(arguments)))
        for call_id, name, arguments in calls
    )
    had_to_call = bool(tool_calls) and "tool_choice" in request
    text = tool_calls[0][2] if had_to_call else redacted(_text(message.get("content")))
    usage = completion.get("usage")
    return Reply(
        text,
        tool_calls,
        cut=choice.get("finish_reason") == "length",
        prompt_tokens=_tokens(usage, "prompt_tokens", json.dumps(request["messages"])),
        completion_tokens=_tokens(usage, "completion_tokens", text),
    )


def _text(content: Any) -> str:
    """Return a message's text, which some endpoints send as a list of parts."""
    parts = content if isinstance(content, list) else [content]
    return "".join(
        str(part.get("text") or "") if isinstance(part, dict) else str(part or "") for part in parts
    )


def _tokens(usage: Any, name: str, text: str) -> int:
    """Return how many tokens the endpoint says it used; an estimate where it says nothing sensible."""
    value = usage.get(name) if isinstance(usage, dict) else None
    sensible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e9
    return value if sensible and isinstance(value, int) else estimated_tokens(text)
