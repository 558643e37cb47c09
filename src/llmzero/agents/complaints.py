"""What an endpoint complains of: read from the body of its error, whatever shape that has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmzero.agents.text import one_line
from llmzero.core.files import MAX_DEPTH
from llmzero.core.redaction import redacted

TOLD = 1000  # characters of an error
# Keys of an error under which an endpoint repeats the request, which names every field of it.
ECHOES = ("input", "body", "request", "ctx", "url")
# Keys that are an error's own; others may name a field of the request.
ENVELOPE = (
    *("error", "errors", "message", "msg", "detail", "details", "metadata", "raw"),
    *("type", "loc", "code", "param", "object"),
)
STATUS_KEYS = ("status", "status_code", "http_status", "code")
PASSING = re.compile(
    r"overload|rate.?limit|too many requests|try again|temporar|time.?out|timed out|busy|capacity|unavailable"
    r"|server.?error|internal error",
    re.IGNORECASE,
)
# Not the mere word billing, nor a quota that is exceeded: limits of a minute are told in these words, too.
UNPAID = re.compile(
    r"insufficient.?(quota|balance|credit|fund)|billing_(hard_limit|not_active)", re.IGNORECASE
)
NO_MODEL = re.compile(
    r"model[ _-]?not[ _-]?(found|exist|available|supported)"
    r"|(unknown|no such|invalid|unrecogni[sz]ed|unsupported) model|no models? (named|called|loaded|is loaded)"
    r"|not a chat model|^body\nmodel$"
    r"|invalid_model|not a valid model|deploymentnotfound|^model: \S+$|unable to access model"
    r"|\bmodels?\b[^.\n]{0,20}\S{0,120}[^.\n]{0,20}"
    r"(does not exist|doesn't exist|not (found|available|served|loaded))",
    re.IGNORECASE | re.MULTILINE,
)
ABOUT_NOTHING = ("none", "null", "undefined", "body", "request")  # as gateways fill in `param`


@dataclass(frozen=True)
class Complaint:
    """An error of an endpoint.

    Attributes:
        status: the HTTP status, or the one that the body of a reply gives in its place; None where it
            gives none.
        text: all that the body says, without what it repeats of the request.
        about: the field of the request that the body says it is about; empty where it does not say so.
    """

    status: int | None
    text: str
    about: str = ""

    @property
    def told(self) -> str:
        """Its words on a line."""
        return one_line(self.text, TOLD)

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        if self.unpaid:
            return False
        if self.status is not None:
            return self.status in (408, 409, 429) or self.status >= 500
        return PASSING.search(self.text) is not None

    @property
    def unpaid(self) -> bool:
        """Whether the account is used up."""
        return self.status == 402 or UNPAID.search(self.text) is not None

    @property
    def no_model(self) -> bool:
        """Whether the endpoint does not have the model that was asked for."""
        if "model_not_found" in self.text:  # which gateways send with any status
            return True
        if self.status not in (400, 404, 410, 422, None):
            return False
        if self.about == "model":
            return re.search(r"parameter|response_format|json_schema|\btool", self.text) is None
        return not self.about and NO_MODEL.search(self.text) is not None

    def refuses(self, field: str) -> bool:
        """Return whether it is about a field of the request: that it is named says so, in whatever words."""
        named = rf"(?<![\w-]){re.escape(field)}(?![\w-])"
        return re.search(named, self.about or self.text, re.IGNORECASE) is not None


class ReplyError(Exception):
    """A reply of status 200 that holds an error in place of an answer, or nothing that is one.

    Attributes:
        complaint: what the endpoint says; None where the reply is garbled, which may be an accident.
        usage: the tokens of prompt and reply that it charges all the same.
    """

    def __init__(
        self, text: str, complaint: Complaint | None = None, usage: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__(text)
        self.complaint, self.usage = complaint, usage


def complaint_of(error: BaseException) -> Complaint | None:
    """Return what an endpoint complains of, read from the body of its error; None where it did not answer."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return error.complaint if isinstance(error, ReplyError) else None
    body = error.response.text
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Complaint(error.status_code, redacted(body))
    return complaint_in(document, error.status_code)


def complaint_in(document: Any, status: int | None = None) -> Complaint:
    """Return what an error says that was read from JSON; `status` None takes the one in it."""
    error = document.get("error") if isinstance(document, Mapping) else None
    about = error.get("param") if isinstance(error, Mapping) else None
    return Complaint(
        status if status is not None else _status(document),
        redacted("\n".join(_texts(document))),
        about if isinstance(about, str) and about.lower() not in ABOUT_NOTHING else "",
    )


def error_of(document: Mapping[str, Any]) -> Any:
    """Return the error that a reply holds in place of choices; None where it holds none."""
    for key in ("error", "errors", "detail", "msg", "error_msg", "error_message", "base_resp"):
        if document.get(key):
            return {key: document[key], **{name: document[name] for name in STATUS_KEYS if name in document}}
    if document.get("object") == "error" or (document.get("message") and not document.get("choices")):
        return document
    return None


def _texts(value: Any, depth: int = MAX_DEPTH) -> Iterator[str]:
    """Yield all texts of an error but those under `ECHOES`, and keys that may be fields of a request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and depth:
        for key, item in value.items():
            if key not in (*ECHOES, *ENVELOPE, *STATUS_KEYS):
                yield key
            if key not in ECHOES:
                yield from _texts(item, depth - 1)
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _texts(item, depth - 1)


def _status(value: Any, depth: int = 4) -> int | None:
    """Return the first HTTP status of an error that an error names, from the outside in."""
    if not isinstance(value, Mapping) or not depth:
        return None
    for key in STATUS_KEYS:
        number = re.fullmatch(r"([45]\d\d)(\.0)?", str(value.get(key)))
        if number:
            return int(number[1])
    inner = (_status(item, depth - 1) for key, item in value.items() if key not in ECHOES)
    return next((status for status in inner if status is not None), None)
