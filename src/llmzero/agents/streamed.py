"""Replies that come as a stream, though none was asked for: their pieces are put together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any


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
        if event.get("error"):
            return event
        completion |= {key: event[key] for key in ("usage",) if event.get(key)}
        for piece in event.get("choices") or ():
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
    for data in _data(lines):
        if data.strip() not in ("", "[DONE]"):
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError("an event of the stream is no JSON object")
            yield event


def _data(lines: list[str]) -> Iterator[str]:
    """Yield what each event carries; its lines belong together up to an empty one."""
    held: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("data:"):
            held.append(line[5:])
        elif line.startswith("{"):
            yield line
        elif not line.strip():
            yield "\n".join(held)
            held = []


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
