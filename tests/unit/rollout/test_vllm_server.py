"""Who may command vLLM's servers: real HTTP, with the middleware that real servers are started with."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from torch import Tensor

from llmzero.cli import composed
from llmzero.config import TrainConfig
from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.rollout.base import Sampling
from llmzero.rollout.settings import VllmServerSettings
from llmzero.rollout.vllm_key import RequireKey
from llmzero.rollout.vllm_server import VllmServerEngine

KEY = "0123456789abcdef0123456789abcdef"
MODELS = {"data": [{"max_model_len": 64}]}
CHOICE = {"index": 0, "token_ids": [5, 2], "logprobs": {"token_logprobs": [-0.5, -0.25]}}


class Server:
    """Speaks what the engine asks of vLLM, behind the middleware or behind nothing."""

    def __init__(self, *, guarded: bool, redirect: str | None = None) -> None:
        self.seen: list[tuple[str, str | None]] = []  # paths and keys that reached the application
        self.redirect = redirect
        self.application: Any = RequireKey(self.answer) if guarded else self.answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asyncio.run(outer.handle(self))

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    async def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Pass a request to the application as ASGI servers do."""
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                handler.send_response(message["status"])
                for name, value in message["headers"]:
                    handler.send_header(name.decode(), value.decode())
                handler.end_headers()
            else:
                handler.wfile.write(message["body"])

        headers = [(name.lower().encode(), value.encode()) for name, value in handler.headers.items()]
        scope = {"type": "http", "method": handler.command, "path": handler.path, "headers": headers}
        await self.application(scope, None, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        key = dict(scope["headers"]).get(b"authorization")
        self.seen.append((scope["path"], None if key is None else key.decode()))
        answers = {"/v1/models": MODELS, "/v1/completions": {"choices": [CHOICE]}}
        status, headers = 200, []
        if self.redirect:
            status, headers = 302, [(b"Location", f"{self.redirect}{scope['path']}".encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answers.get(scope["path"])).encode()})


class Weights:
    """A policy of one number."""

    eos_ids = (2,)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "weight", torch.ones(1)


def engine(tmp_path: Path, url: str, **settings: Any) -> VllmServerEngine:
    return VllmServerEngine(
        VllmServerSettings(urls=[url], exchange_dir=str(tmp_path), timeout_s=60.0, **settings)
    )


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    return KEY


def test_the_key_is_sent_with_every_call(tmp_path: Path, key: str) -> None:
    server = Server(guarded=True)
    sampler = engine(tmp_path, server.url)
    sampler.start(Weights())  # type: ignore[arg-type]
    assert sampler.generate([[1, 3]], Sampling(4)).completions == [[5, 2]]
    assert {path for path, _ in server.seen} == {
        *("/v1/models", "/v1/completions", "/collective_rpc", "/reset_prefix_cache")
    }
    assert {sent for _, sent in server.seen} == {f"Bearer {key}"}


def test_another_key_is_refused(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(guarded=True)
    monkeypatch.setenv("MY_KEY", KEY[::-1])
    with pytest.raises(RuntimeError, match="answered 401") as raised:
        engine(tmp_path, server.url, api_key_env="MY_KEY").start(Weights())  # type: ignore[arg-type]
    assert KEY[::-1] not in str(raised.value)
    assert not server.seen


@pytest.mark.parametrize("value", [None, "", "short", f"{KEY}\r", f"{KEY}\n", f"{KEY} ", f"{KEY}é"])
def test_a_key_that_cannot_be_sent_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("VLLM_API_KEY", value)
    with pytest.raises(UserError, match=r"rollout\.api_key_env=VLLM_API_KEY") as raised:
        engine(tmp_path, "http://127.0.0.1:9").start(Weights())  # type: ignore[arg-type]
    assert not value or value.strip() not in str(raised.value)
    with pytest.raises(UserError, match="VLLM_API_KEY"):
        RequireKey(lambda *_: None)  # type: ignore[arg-type, return-value]


def test_a_server_that_takes_weights_from_anybody_is_refused(tmp_path: Path, key: str) -> None:
    server = Server(guarded=False)
    with pytest.raises(
        UserError, match=rf"{server.url}.*--middleware llmzero\.rollout\.vllm_key\.RequireKey"
    ):
        engine(tmp_path, server.url).start(Weights())  # type: ignore[arg-type]
    assert server.seen == [("/collective_rpc", None)], "the key is not sent there"
    assert not list(tmp_path.iterdir()), "no weights are written"
    engine(tmp_path, server.url, api_key_env=None).start(Weights())  # type: ignore[arg-type]
    assert {sent for _, sent in server.seen} == {None}, "unless somebody says that nobody else reaches it"


def test_a_server_cannot_send_the_key_elsewhere(tmp_path: Path, key: str) -> None:
    elsewhere = Server(guarded=False)
    server = Server(guarded=True, redirect=elsewhere.url)
    with pytest.raises(RuntimeError, match="answered 302"):
        engine(tmp_path, server.url).start(Weights())  # type: ignore[arg-type]
    assert server.seen
    assert not elsewhere.seen


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        *(
            (path, 401)
            for path in ("/collective_rpc", "/reset_prefix_cache", "/sleep", "/server_info", "/docs")
        ),
        *((path, 401) for path in ("/v1/models", "/healthy", "/health/", "/health/../collective_rpc", "/")),
    ],
)
@pytest.mark.parametrize("sent", [None, "Bearer wrong", KEY, f"bearer {KEY}", "Bearer "])
def test_every_path_but_health_wants_the_key(key: str, path: str, status: int, sent: str | None) -> None:
    server = Server(guarded=True)
    request = Request(server.url + path, headers={"Authorization": sent} if sent else {})
    try:
        with urlopen(request, timeout=60) as response:
            found = response.status
    except HTTPError as error:
        found = error.code
    assert found == status
    assert len(server.seen) == (status == 200)


@pytest.mark.parametrize(
    "url", [f"http://{KEY}@h:1", f"http://h:1/v1?api_key={KEY}", "h:8000", "http://h:1#x"]
)
def test_addresses_hold_no_keys(url: str) -> None:
    overrides = ["rollout=vllm_server", f"rollout.urls=['{url}']", "stage_dir=stage"]
    with pytest.raises(UserError, match=r"rollout\.urls\[0\]: must be like http://HOST:PORT") as raised:
        make(composed("train", TrainConfig, overrides).rollout, "rollout")
    assert KEY not in str(raised.value)


def test_a_key_in_place_of_its_name_is_refused_unseen() -> None:
    for name in (KEY, f"k{KEY}", "sk-abcdefgh", "A B"):
        with pytest.raises(UserError, match=r"rollout\.api_key_env: must be the name") as raised:
            VllmServerSettings(urls=["http://h:1"], api_key_env=name)
        assert name not in str(raised.value)
