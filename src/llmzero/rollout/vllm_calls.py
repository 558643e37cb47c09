"""Calls of vLLM's servers over HTTP: with the key, bounded in size, and never sent on to another server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from llmzero.core.errors import UserError

REPLY_BYTES = 2**28
ERROR_BYTES = 500  # of a refusal, for the message
START = "docs/vllm.md says how to start a server"


class Call(NamedTuple):
    """A call of a server: a POST where there is a body, else a GET."""

    url: str
    path: str
    body: dict[str, Any] | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirection an error: it would take the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def fetch(call: Call, key: str | None) -> Any:
    """Make a call and return the answer.

    Raises:
        RuntimeError: the server refused it, or answered with anything but JSON of bounded size.
        UserError: the server cannot be reached.
    """
    address = call.url + call.path
    try:
        with _opener.open(_request(call, key)) as response:
            text = response.read(REPLY_BYTES + 1)
    except urllib.error.HTTPError as error:
        answer = error.read(ERROR_BYTES).decode(errors="replace")
        raise RuntimeError(f"{address} answered {error.code}: {answer}; {START}") from error
    except urllib.error.URLError as error:
        raise UserError(f"rollout.urls: {call.url} cannot be reached ({error.reason}); {START}") from error
    if len(text) > REPLY_BYTES:
        raise RuntimeError(f"{address} answered more than {REPLY_BYTES} bytes")
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise RuntimeError(f"{address} answered what is no JSON ({error})") from error


def demands_key(url: str, timeout_s: float) -> bool:
    """Return whether a server refuses to load weights for somebody without a key.

    Raises:
        UserError: the server cannot be reached.
    """
    try:
        _opener.open(_request(Call(url, "/collective_rpc", {}), None), timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"rollout.urls: {url} cannot be reached ({reason}); {START}") from error
    return False


def _request(call: Call, key: str | None) -> urllib.request.Request:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    body = None if call.body is None else json.dumps(call.body).encode()
    return urllib.request.Request(call.url + call.path, body, headers)
