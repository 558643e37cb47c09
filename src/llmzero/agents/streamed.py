"""Replies that come as a stream, though none was asked for: their pieces are put together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmzero.agents.complaints import error_of


def joined_stream(body: str) -> dict[str, Any] | None:
    """Return the chat completion that a body of server-sent events, or of JSON lines, amounts to.

    None where it is no such body.

    Raises:
        ValueError: an event is broken, as it is where the stream breaks off.
    """
    events = list(_events(body))
    if not events:
        return None
    message: dict[str, Any] = {}
    calls: dict[Any, dict[str, Any]] = {}
    choice: dict[str, Any] = {"message": message}
    completion: dict[str, Any] = {}
    for event in events:
        of_ollama = isinstance(event.get("message"), dict)
        if event.get("error") or not ("choices" in event or of_ollama or error_of(event) is None):
            return event
        completion |= {key: event[key] for key in ("usage",) if event.get(key)}
        for piece in event.get("choices") or ([event] if of_ollama else ()):
            if piece.get("index"):  # another choice than the first
                continue
            choice |= {key: piece[key] for key in ("finish_reason", "error") if piece.get(key)}
            _join(message, calls, piece.get("delta") or piece.get("message") or {})
        completion["choices"] = [choice]
    if calls:
        message["tool_calls"] = list(calls.values())
    return completion


def _events(body: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream; nothing where a body is none."""
    lines = re.split(r"\r\n|\r|\n", body.lstrip("\ufeff"))
    heads = {line.partition(":")[0] for line in lines if line.strip() and line[0] not in "{:"}
    if not heads <= {"data", "event", "id", "retry"}:
        return
    carried = (line.removeprefix("data:").strip() for line in lines if line.startswith(("data:", "{")))
    text = "\n".join(line for line in carried if line not in ("", "[DONE]"))
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):  # a value says itself where it ends: some servers leave out the empty lines
        event, end = decoder.raw_decode(text, position)
        if not isinstance(event, dict):
            raise ValueError("an event of the stream is no JSON object")
        yield event
        position = end + 1


def _join(message: dict[str, Any], calls: dict[Any, dict[str, Any]], delta: Mapping[str, Any]) -> None:
    """Add a piece of a message to it."""
    for key, value in delta.items():
        if key == "tool_calls":
            for call in value or ():
                _join_call(calls.setdefault(call.get("index", call.get("id")), {}), call)
        elif key == "function_call" and isinstance(value, dict):
            _join_call(calls.setdefault(key, {}), {"function": value})
        elif isinstance(value, str) and key != "role":
            message[key] = (message.get(key) or "") + value
        elif isinstance(value, list):
            message[key] = [*(message.get(key) or ()), *value]


def _join_call(call: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a piece of a call of a tool to it: names come once, arguments in pieces."""
    function = call.setdefault("function", {"name": "", "arguments": ""})
    given = piece.get("function") or {}
    call["id"] = piece.get("id") or call.get("id") or ""
    function["name"] = given.get("name") or function["name"]
    arguments = given.get("arguments")
    function["arguments"] = (
        arguments if isinstance(arguments, dict) else function["arguments"] + (arguments or "")
    )
