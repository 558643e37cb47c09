"""The HTTP client for language models: every response, whatever its status, is bounded in size and time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from socket import SHUT_RDWR
from typing import Any

from httpx2 import Client, Limits, Request, Response, SyncByteStream

BODY_LIMIT = 8_000_000  # bytes of a reply that are read
ERROR_LIMIT = 64_000  # bytes that are read of any other response: an error, a redirection


def bounded_client() -> Client:
    """Return a client that reads no more of a response than it wants and for no longer than its timeout.

    Compressed bodies are refused, as a few bytes of them can become any number; redirections are not
    followed, as an endpoint must not choose who gets the request. Every request has a connection of its own,
    which can be shut down.
    """
    return Client(
        headers={"Accept-Encoding": "identity"},
        limits=Limits(max_keepalive_connections=0),
        follow_redirects=False,
        event_hooks={"request": [_begin], "response": [_bound]},
    )


def _begin(request: Request) -> None:
    watch = Watch(request.extensions["timeout"]["read"])
    request.extensions |= {"trace": watch.trace, "watch": watch}


def _bound(response: Response) -> None:
    assert isinstance(response.stream, SyncByteStream)
    response.stream = BoundedBody(response.stream, response, response.request.extensions["watch"])


class Watch:
    """Keeps the time of a response: a body has to end within `seconds`, whatever else within twice as many.

    The client's own timeout is one of silence. An endpoint that sends a byte of its headers now and then, or
    one interim response after another, passes it for ever; so its connection is shut down.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.deadline = seconds, time.monotonic() + seconds
        self._socket: Any = None
        self._timer = threading.Timer(2 * seconds, self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    @property
    def late(self) -> bool:
        """Whether the time of the body is over."""
        return time.monotonic() >= self.deadline

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Take note of the connection, once it is there, and of a failure, after which nothing follows."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
        elif event.endswith(".failed"):
            self.end()

    def end(self) -> None:
        """Let go of the connection."""
        self._timer.cancel()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it has been closed
                self._socket.shutdown(SHUT_RDWR)


class BoundedBody(SyncByteStream):
    """The body of a response: that of an error ends at its limits, that of a reply breaks them with an error.

    Raises:
        TimeoutError: a reply is not complete in time.
        ValueError: it is longer than `BODY_LIMIT`, or compressed.
    """

    def __init__(self, body: SyncByteStream, response: Response, watch: Watch) -> None:
        self._body, self._watch = body, watch
        self._good = response.is_success
        self._encoding = response.headers.pop("content-encoding", "identity")

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes as they came."""
        try:
            yield from self._bounded()
        except Exception:
            if self._good and self._watch.late:
                raise TimeoutError(f"the reply was not complete after {self._watch.seconds:g} s") from None
            if self._good:
                raise

    def _bounded(self) -> Iterator[bytes]:
        size = 0
        if self._encoding.lower() not in ("identity", ""):
            raise ValueError(f"the reply is compressed ({self._encoding[:20]}), which was not asked for")
        for chunk in self._body:
            if self._watch.late:
                raise TimeoutError
            size += len(chunk)
            if self._good and size > BODY_LIMIT:
                raise ValueError(f"the reply is longer than {BODY_LIMIT} bytes")
            yield chunk
            if not self._good and size > ERROR_LIMIT:
                return

    def close(self) -> None:
        """Close the connection."""
        self._watch.end()
        self._body.close()
