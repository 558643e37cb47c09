"""Errors of set-up end the start with their remedy, over real HTTP and TLS; a search meets them once."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llmzero.agents.endpoint import CallError, LlmSettings
from llmzero.core.errors import UserError
from tests.llm_server import Answer, LLMServer, Mind, Request
from tests.unit.agents.test_endpoint import CALL, QUESTION, ask, endpoint, good

VARIABLES = (
    *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """Shake hands with a certificate that nobody knows; yield the port."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    context.wrap_socket(connection, server_side=True).close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def no_model(status: int, **error: str) -> Mind:
    body = json.dumps({"error": {"message": "x", "type": "invalid_request_error", **error}}).encode()
    return lambda request: Answer(status=status, raw=body)


# --- the environment ---


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "ALL_PROXY",
            "socks5://127.0.0.1:9",
            r"ALL_PROXY: a SOCKS proxy needs the package socksio.*pip",
        ),
        ("https_proxy", "socks5h://127.0.0.1:9", r"https_proxy: a SOCKS proxy needs the package socksio"),
        ("HTTP_PROXY", "foo://user:hidden@127.0.0.1:9", r"HTTP_PROXY: Unknown scheme for proxy"),
        ("SSL_CERT_FILE", "/no/such/file", r"SSL_CERT_FILE: the certificates that it names cannot be read"),
        ("SSL_CERT_FILE", __file__, r"SSL_CERT_FILE: the certificates.*PEM"),
        ("HTTP_PROXY", "http://127.0.0.1:9", r"nobody answers.*HTTP_PROXY, through which it is asked"),
    ],
)
def test_an_environment_that_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with LLMServer(good) as server:
        made = endpoint(server.url, tmp_path, retries=5)
        with pytest.raises(UserError, match=words) as refused:
            made.check()
        assert "hidden" not in str(refused.value)
        assert server.requests == []


def test_a_host_that_has_no_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the name no-such-host\.invalid cannot be resolved.*llm\.base_url"):
        endpoint("http://no-such-host.invalid/v1", tmp_path).check()


# --- addresses ---


@pytest.mark.parametrize("path", ["chat/completions", "chat/completions/", "chat", "responses"])
def test_an_address_of_a_function_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"llm\.base_url names one of an endpoint's functions"):
        LlmSettings(base_url=f"https://host/v1/{path}")


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_address_without_its_version_is_refused(tmp_path: Path, slash: str) -> None:
    with LLMServer(good) as server:
        address = f"{server.url.removesuffix('/v1')}{slash}"
        with pytest.raises(UserError, match=f"lacks /v1; give llm.base_url={server.url}"):
            endpoint(address, tmp_path).check()
        assert server.requests == []


def test_an_address_where_nothing_is_is_refused(tmp_path: Path) -> None:
    with LLMServer(good) as server, pytest.raises(UserError, match=r"there is no /chat/completions at this"):
        endpoint(server.url.replace("/v1", "/api/v2"), tmp_path).check()


@pytest.mark.parametrize("version", ["", "/v1"])
def test_a_web_page_with_status_200_is_no_endpoint(tmp_path: Path, version: str) -> None:
    page = Answer(raw=b"<!DOCTYPE html><title>Chat</title>", headers={"content-type": "text/html"})
    with LLMServer(lambda request: page, listing=page, anywhere=page) as server:
        address = server.url.removesuffix("/v1") + version
        with pytest.raises(UserError, match=r"llm\.base_url: there is no /chat/completions.*a page of HTML"):
            endpoint(address, tmp_path).check()


def test_a_web_page_in_place_of_the_version_says_where_it_is(tmp_path: Path) -> None:
    page = Answer(raw=b"<!DOCTYPE html><title>Chat</title>", headers={"content-type": "text/html"})
    with (
        LLMServer(good, anywhere=page) as server,
        pytest.raises(UserError, match=f"lacks /v1; give llm.base_url={server.url}"),
    ):
        endpoint(server.url.removesuffix("/v1"), tmp_path).check()


@pytest.mark.parametrize("status", [301, 308])
def test_an_address_that_leads_elsewhere_is_refused(tmp_path: Path, status: int) -> None:
    away = Answer(status=status, raw=b"", headers={"location": "https://there/v1/models"})
    with (
        LLMServer(good, listing=away) as server,
        pytest.raises(UserError, match=r"leads on to https://there/v1"),
    ):
        endpoint(server.url, tmp_path).check()


def test_the_wrong_scheme_is_named(tmp_path: Path) -> None:
    with LLMServer(good) as server, pytest.raises(UserError, match=r"must begin with http://"):
        endpoint(server.url.replace("http:", "https:"), tmp_path).check()
    with tls_server(tmp_path) as port:
        with pytest.raises(UserError, match=r"does it want https://\?"):
            endpoint(f"http://127.0.0.1:{port}/v1", tmp_path).check()
        with pytest.raises(UserError, match=r"certificate is not trusted.*set SSL_CERT_FILE") as refused:
            endpoint(f"https://127.0.0.1:{port}/v1", tmp_path).check()
    assert "REQUESTS_CA_BUNDLE" not in str(refused.value)


def test_certificates_of_other_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/some/file")
    with tls_server(tmp_path) as port, pytest.raises(UserError, match=r"REQUESTS_CA_BUNDLE is not read here"):
        endpoint(f"https://127.0.0.1:{port}/v1", tmp_path).check()


# --- models and keys ---

NO_MODEL: tuple[tuple[int, dict[str, str]], ...] = (
    (404, {"code": "model_not_found"}),
    (404, {"message": "The model `scripted` does not exist or you do not have access to it."}),
    (404, {"message": 'model "scripted" not found, try pulling it first'}),
    (400, {"message": "scripted is not a valid model ID"}),
    (400, {"message": "Invalid model name passed in model=scripted. Call /v1/models"}),
    (404, {"type": "not_found_error", "message": "model: scripted"}),
    (404, {"message": "models/scripted is not found for API version v1main"}),
    (400, {"code": "model_not_supported", "message": "The requested model is not supported."}),
    (400, {"message": "Model not found", "param": "None", "type": "None"}),
    (400, {"message": "bad value", "param": "model"}),
    (400, {"message": "Unsupported model: scripted"}),
    (400, {"message": "No models loaded. Please load one."}),
    (200, {"message": "The model scripted does not exist", "code": "404"}),
    (404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}),
)


@pytest.mark.parametrize(("status", "error"), NO_MODEL)
def test_an_unknown_model_ends_the_start_and_is_asked_once_in_a_search(
    tmp_path: Path, status: int, error: dict[str, str]
) -> None:
    with LLMServer(no_model(status, **error), models=["scribe", "scripted-2"]) as server:
        made = endpoint(server.url, tmp_path, retries=5)
        with pytest.raises(
            UserError, match=r"llm\.model=scripted: the endpoint has no such model.*scripted-2"
        ):
            made.check()
        assert [request.body["max_tokens"] for request in server.requests] == [1]
        for words in ("has no such model", "left alone", "left alone"):
            with pytest.raises(CallError, match=words):
                ask(made)
        assert len(server.requests) == 2, "not in other forms, and not for the next stage"


def test_a_gateway_that_is_busy_without_the_model_is_no_excuse(tmp_path: Path) -> None:
    with (
        LLMServer(no_model(503, message="No channel", code="model_not_found"), models=["other"]) as server,
        pytest.raises(UserError, match=r"llm\.model=scripted: the endpoint has no such model"),
    ):
        endpoint(server.url, tmp_path).check()


def test_a_model_that_is_there_needs_no_place_in_a_list(tmp_path: Path) -> None:
    picky = Answer(status=400, error="'max_tokens' is not supported with this model.")
    for mind in (good, lambda request: picky):
        with LLMServer(mind, models=["another"]) as server:
            endpoint(server.url, tmp_path).check()
            assert len(server.requests) == 1
    with LLMServer(good, listing=Answer(status=404, error="no list")) as server:
        endpoint(server.url, tmp_path).check()


def test_a_key_that_may_not_list_models_is_tried(tmp_path: Path) -> None:
    with LLMServer(good, listing=Answer(status=403, error="Missing scopes: api.model.read")) as server:
        endpoint(server.url, tmp_path).check()
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Rate limit reached. Add a payment method at https://host/account/billing."},
        {"message": "You exceeded your current quota; retry in 9 s.", "status": "RESOURCE_EXHAUSTED"},
    ],
)
def test_a_limit_of_a_minute_is_a_passing_error(tmp_path: Path, error: dict[str, str]) -> None:
    answer = Answer(status=429, raw=json.dumps({"error": error}).encode())
    with LLMServer(lambda request: answer) as server:
        made = endpoint(server.url, tmp_path)
        for _ in range(2):
            with pytest.raises(CallError, match="RateLimitError"):
                ask(made)
        assert len(server.requests) == 2, "not left alone after the first"


@pytest.mark.parametrize(
    "words",
    [
        "The model scripted is fast. The parameter 'temperature' is not supported.",
        "This model does not support 'temperature'.",
        "Model scripted: parameter temperature not supported",
    ],
)
def test_a_model_without_a_field_is_there(tmp_path: Path, words: str) -> None:
    def picky(request: Request) -> Answer:
        return Answer(status=400, error=words) if "temperature" in request.body else good(request)

    with LLMServer(picky) as server:
        ask(endpoint(server.url, tmp_path, temperature=0.5))
        assert len(server.requests) == 2


def test_a_list_is_asked_with_the_headers_of_all_requests(tmp_path: Path) -> None:
    def behind(request: Request) -> Answer:
        return good(request) if request.headers.get("x-gateway") == "in" else Answer(status=403, error="out")

    with LLMServer(behind, models=["another"]) as server:
        endpoint(server.url, tmp_path, extra={"extra_headers": {"X-Gateway": "in"}}).check()
        with pytest.raises(UserError, match="a key is wanted"):
            endpoint(server.url, tmp_path).check()


@pytest.mark.parametrize("value", ["a\nb", "é", "a\x7f", 3, None])
def test_a_header_that_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"llm\.extra\.extra_headers\.X-A: must be a text"):
        LlmSettings(extra={"extra_headers": {"X-A": value}})


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=401, error="Incorrect API key provided"),
        Answer(status=403, error="not for you"),
        Answer(status=404, error="Not Found"),
        Answer(status=402, error="Payment required"),
        Answer(status=407, error="Proxy Authentication Required"),
        Answer(status=308, raw=b"", headers={"location": "https://there/v1"}),
        Answer(
            status=429,
            raw=b'{"error": {"code": "insufficient_quota", "message": "x"}}',
            headers={"retry-after-ms": "1"},
        ),
    ],
)
def test_a_lasting_error_in_a_search_is_met_once(tmp_path: Path, answer: Answer) -> None:
    with LLMServer(lambda request: answer) as server:
        made = endpoint(server.url, tmp_path)
        with pytest.raises(CallError):
            made.ask(CALL, QUESTION)
        with pytest.raises(CallError, match="is left alone"):
            ask(made)
        assert len(server.requests) == 1
