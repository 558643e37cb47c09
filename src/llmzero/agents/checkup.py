"""Errors of set-up: what no retry mends is known before a search, and told with its remedy."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmzero.agents.complaints import TOLD, Complaint, ReplyError, complaint_of
from llmzero.agents.reply import NoCompletionError, read_reply
from llmzero.agents.text import one_line
from llmzero.core.errors import UserError
from llmzero.core.redaction import redacted

if TYPE_CHECKING:
    from openai import OpenAI

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
OTHER_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # of other programs' names for the same
NO_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH")
REDIRECTIONS = (301, 302, 303, 307, 308)
SHOWN = 10  # models


def lasting_problem(error: BaseException, model: str, key: str | None) -> str | None:
    """Return what is wrong with the set-up of an endpoint, and its remedy, if an error is due to that.

    Args:
        error: of a request, or of making the client.
        model: the model that was asked for.
        key: the name of the variable that holds the key.
    """
    complaint = complaint_of(error)
    if complaint is not None and complaint.status in REDIRECTIONS:
        there = one_line(redacted(str(_header(error, "location"))), 200)
        return f"llm.base_url: the address leads on to {there} ({told(error)}); give the one that answers"
    if complaint is not None:
        return _refusal(complaint, told(error), model, key)
    problems = (_tls(cause) for cause in _causes(error) if isinstance(cause, ssl.SSLError))
    return next((problem for problem in problems if problem), None)


def client_problem(error: Exception) -> str:
    """Return why no client can be made, which the environment is to blame for, and the remedy."""
    proxies = _named(PROXIES)
    if isinstance(error, ImportError) and proxies:
        return (
            f"{proxies}: a SOCKS proxy needs the package socksio, which is not installed; run `pip install "
            "socksio`, or unset the variable"
        )
    certificates = _named(CERTIFICATES)
    if isinstance(error, OSError) and certificates:  # of which the errors of TLS are a kind
        return (
            f"{certificates}: the certificates that it names cannot be read ({told(error)}); set it to a PEM "
            "file of certificates, or unset it"
        )
    if proxies:
        return f"{proxies}: {told(error)}; a proxy's address is like http://HOST:PORT"
    return f"no client can be made: {told(error)}"


def check_endpoint(client: OpenAI, model: str, key: str | None, extra: Mapping[str, Any]) -> None:
    """Check that an endpoint has a model, by its list or else by a call of one token.

    Args:
        client: with the timeout of the check, and without retries.
        model: its name.
        key: the name of the variable that holds the key.
        extra: further headers and the query of all requests.

    Raises:
        UserError: it has not, or the address is wrong.
        Exception: of the client, where the endpoint cannot be asked.
    """
    from openai import APIStatusError

    listed: list[str] | None = None
    try:
        listed = _models(client, extra)
    except APIStatusError as error:
        if error.status_code not in (403, 404, 405):  # there are keys that may ask and not list
            raise
    if listed is None or model not in listed:
        _try(client, model, key, extra, listed or [])


def told(error: BaseException) -> str:
    """Return what an error says on a line, without secrets: it may be in the words of the endpoint."""
    words, complaint = str(error), complaint_of(error)
    if complaint is not None and re.fullmatch(r"Error code: \d+", words):  # the client found no words in it
        words = f"{words} - {complaint.text}" if complaint.text.strip() else words
    return one_line(redacted(words), TOLD)


def _refusal(complaint: Complaint, words: str, model: str, key: str | None) -> str | None:
    """Return what is wrong with the set-up by an endpoint's own words."""
    if complaint.no_model:
        return f"llm.model={model}: the endpoint has no such model ({words})"
    if complaint.unpaid:
        return f"the account is used up ({words})"
    if complaint.status == 403 and key:
        return f"the endpoint forbids it: {words}; see that the key in {key} is for llm.model={model}"
    if complaint.status in (401, 403):
        return (
            f"the key in {key} is not accepted: {words}"
            if key
            else f"a key is wanted ({words}); name the variable that holds it in llm.api_key_env"
        )
    if complaint.status in (404, 405) and not re.search(r"parameter|tool|support", complaint.text):
        return _nothing_there(words)
    if complaint.status == 407:
        return f"{_named(PROXIES)}: the proxy wants a user and a password in its address ({words})"
    if complaint.status == 400 and re.search(r"HTTP request.{0,40}HTTPS", complaint.text, re.IGNORECASE):
        return f"llm.base_url: the endpoint speaks TLS, so the address must begin with https:// ({words})"
    return None


def _nothing_there(words: str) -> str:
    return (
        f"llm.base_url: there is no /chat/completions at this address ({words}); most addresses end in /v1, "
        "as https://HOST/v1"
    )


def _tls(error: ssl.SSLError) -> str | None:
    """Return what is wrong where TLS fails, and the remedy; None where the connection merely broke."""
    words = told(error)
    if (error.reason or "").startswith(NO_TLS):
        return f"llm.base_url: the endpoint speaks no TLS, so the address must begin with http:// ({words})"
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    mistaken = _named(OTHER_CERTIFICATES)
    return (
        f"the endpoint's certificate is not trusted ({words}); set SSL_CERT_FILE to a file in PEM format "
        "with the certificate of its authority" + (f", as {mistaken} is not read here" if mistaken else "")
    )


def unreachable(error: Exception, address: str) -> str:
    """Return why nobody answers at an address, and what to look at."""
    cause = told(error.__cause__ or error)
    proxies = _named(PROXIES)
    behind = f", and {proxies}, through which it is asked" if proxies else ""
    if any(isinstance(each, socket.gaierror) for each in _causes(error)):
        host = urlsplit(address).hostname
        return f"the name {host} cannot be resolved ({cause}); check llm.base_url and the network{behind}"
    broke_off = any(type(each).__name__ in ("ReadError", "RemoteProtocolError") for each in _causes(error))
    tls = ", and does it want https://?" if broke_off and address.startswith("http:") else "?"
    return f"nobody answers there ({cause}); is it running{tls}" + (
        f" Check llm.base_url{behind}" if behind else ""
    )


def _check_version(client: OpenAI, extra: Mapping[str, Any]) -> None:
    """Refuse an address that lacks its /v1: there is an endpoint where that is added.

    Raises:
        UserError: it does.
    """
    from openai import APIStatusError, AuthenticationError, OpenAIError, PermissionDeniedError

    address = str(client.base_url).rstrip("/")
    if re.search(r"/v\d+\w*$", address):
        return
    try:
        there = _models(client.with_options(base_url=f"{address}/v1"), extra) is not None
    except (AuthenticationError, PermissionDeniedError):
        there = True
    except (APIStatusError, OpenAIError, ValueError):
        there = False
    if there:
        raise UserError(f"llm.base_url={address}: lacks /v1; give llm.base_url={address}/v1")


def _models(client: OpenAI, extra: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the models that an endpoint lists; None where its reply is no such list."""
    reply = client.models.with_raw_response.list(**_transport(extra))
    try:
        document = json.loads(reply.text)
    except (ValueError, RecursionError):
        return None
    listed = document.get("data", document.get("models")) if isinstance(document, dict) else document
    if not isinstance(listed, list):
        return None
    return [str(each.get("id", each.get("name"))) for each in listed if isinstance(each, dict)]


def _try(client: OpenAI, model: str, key: str | None, extra: Mapping[str, Any], listed: list[str]) -> None:
    """Ask a model that is not listed for a token: lists may leave out what there is, as aliases.

    Raises:
        UserError: the endpoint says that there is no such model, or no such address.
    """
    from openai import APIStatusError

    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    ask = client.chat.completions.with_raw_response.create
    try:
        reply = ask(model=model, messages=messages, max_tokens=1, **_transport(extra))
        read_reply(reply.content, {"messages": messages})
    except (APIStatusError, ReplyError) as error:
        strange = isinstance(error, NoCompletionError)
        problem = _nothing_there(told(error)) if strange else lasting_problem(error, model, key)
        if problem is None:
            return
        if problem.startswith("llm.base_url"):
            _check_version(client, extra)
        close = get_close_matches(model, listed, SHOWN, 0.3) or listed[:SHOWN]
        there = f"; it lists {', '.join(one_line(redacted(name), 80) for name in close)}" if close else ""
        raise UserError(problem + there * problem.startswith("llm.model")) from None


def _transport(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: extra[name] for name in ("extra_headers", "extra_query") if extra.get(name)}


def _header(error: BaseException, name: str) -> str | None:
    """Return a header of the response that an error of the client is about."""
    response = getattr(error, "response", None)
    return response.headers.get(name) if response is not None else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _named(variables: tuple[str, ...]) -> str:
    """Return which of some environment variables are set, in either case; not their values."""
    return ", ".join(name for upper in variables for name in (upper, upper.lower()) if os.environ.get(name))
