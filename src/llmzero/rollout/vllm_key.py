"""The key of vLLM's servers: what the trainer sends, and what a server demands of every call.

vLLM's own `--api-key` covers the calls of OpenAI's interface alone, not those that load weights. A server
that is started with `--middleware llmzero.rollout.vllm_key.RequireKey` demands the key of its environment for
all. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.redaction import keep_secret

VARIABLE = "VLLM_API_KEY"  # as vLLM calls it
OPEN = ("/health",)  # says only whether the server lives
_KEY = re.compile(r"[!-~]{16,}", re.ASCII)

Application = Callable[[Any, Any, Any], Awaitable[None]]


def key_of(variable: str, setting: str) -> str:
    """Return the key that an environment variable holds.

    Args:
        variable: its name.
        setting: what named it, for messages.

    Raises:
        UserError: it is not set, or holds what no header can, or what is guessed.
    """
    key = os.environ.get(variable, "")
    keep_secret(key)
    if not key:
        raise UserError(
            f"{setting}={variable}: this environment variable, which holds the key of the vLLM servers, is "
            "not set; give servers and trainer the same one, e.g. of `openssl rand -hex 32`"
        )
    if not _KEY.fullmatch(key):
        raise UserError(
            f"{setting}={variable}: the key in this environment variable must be 16 or more printable ASCII "
            "characters, without spaces or line ends"
        )
    return key


class RequireKey:
    """ASGI middleware that answers 401 to whoever does not send the key in `VLLM_API_KEY`.

    Raises:
        UserError: the server was started without one.
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        self._expected = _digest(f"Bearer {key_of(VARIABLE, 'the server')}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a call on, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._has_key(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _has_key(self, headers: list[tuple[bytes, bytes]]) -> bool:
        sent = [value for name, value in headers if name.lower() == b"authorization"]
        return len(sent) == 1 and hmac.compare_digest(_digest(sent[0]), self._expected)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
