"""Dialects: how an endpoint is asked for JSON and which fields it takes, which its first replies tell."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmzero.agents.complaints import Complaint
from llmzero.agents.found_json import json_object
from llmzero.agents.reply import Message, Reply

Form = Literal["bounded", "strict", "tool", "object", "plain"]

# Forms of a request for JSON, the most binding first: a schema with bounds on the lengths of texts, which
# keep small models from rambling but which not every endpoint knows; a schema without them; the arguments
# of a tool; any JSON object; a request in words.
FORMS: tuple[Form, ...] = ("bounded", "strict", "tool", "object", "plain")
WITHOUT_SCHEMA = ("object", "plain")
LIMITS = ("max_completion_tokens", "max_tokens")
ANSWER_TOOL = "answer"
# HTTP status codes of a request that asks for what an endpoint does not have. None is an error within a reply
# of status 200 that names none. Some servers fail over a schema that they cannot compile, with status 500.
UNSUPPORTED = (None, 400, 404, 415, 422, 500, 501)
FORM_NAMED = re.compile(
    r"response.?format|json.?(schema|object|mode)|schema|grammar|guided|structured|tool|function|parameter",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Dialect:
    """How an endpoint is asked.

    Attributes:
        form: of JSON answers.
        limit: the field that limits their length; None where the endpoint takes neither name of it.
        dropped: optional fields that it does not take.
    """

    form: Form = "bounded"
    limit: str | None = LIMITS[0]
    dropped: frozenset[str] = frozenset()

    def plainer(self, *, no_schema: bool = False) -> Dialect | None:
        """Return the dialect with the next form, or the next without a schema; None where there is none."""
        left = FORMS[FORMS.index(self.form) + 1 :]
        following = next((form for form in left if not no_schema or form in WITHOUT_SCHEMA), None)
        return replace(self, form=following) if following else None

    def mended(self, complaint: Complaint, optional: Collection[str]) -> list[Dialect]:
        """Return the dialects without a field that the endpoint complains of, the one to try first first."""
        if self.limit is not None and complaint.refuses(self.limit):
            other = LIMITS[1 - LIMITS.index(self.limit)]
            return [replace(self, limit=limit) for limit in (other, None)]
        refused = (name for name in optional if name not in self.dropped and complaint.refuses(name))
        return [replace(self, dropped=self.dropped | {name}) for name in refused]

    def asking(self, messages: Sequence[Message], schema: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a request that ask for an answer which keeps a JSON schema."""
        if self.form in ("bounded", "strict"):
            wanted = schema if self.form == "bounded" else without_lengths(schema)
            answer = {"name": ANSWER_TOOL, "strict": True, "schema": wanted}
            return {"response_format": {"type": "json_schema", "json_schema": answer}}
        if self.form == "tool":
            answer = {"name": ANSWER_TOOL, "description": "Give the answer.", "parameters": schema}
            return {
                "tools": [{"type": "function", "function": answer}],
                "tool_choice": {"type": "function", "function": {"name": ANSWER_TOOL}},
            }
        any_object = {"response_format": {"type": "json_object"}} if self.form == "object" else {}
        return {"messages": with_schema(messages, schema), **any_object}

    def heeded(self, reply: Reply) -> bool:
        """Whether a reply came in the form that was asked for."""
        return bool(reply.tool_calls) if self.form == "tool" else json_object(reply.text, "") is not None


class DialectSearch:
    """Finds out the dialect of an endpoint from what it refuses and what it ignores.

    Attributes:
        dialect: the one to ask in next.
    """

    def __init__(self) -> None:
        self.dialect = Dialect()
        self._settled = False

    def after_refusal(
        self, tried: Sequence[Dialect], complaint: Complaint, wants_json: bool, optional: Collection[str]
    ) -> Dialect | None:
        """Return what to try after a refusal; None where no other dialect would help.

        Args:
            tried: the dialects of this request, the refused one last.
            complaint: why the endpoint refused it.
            wants_json: whether the request was one for JSON.
            optional: fields of the request that can be left out.
        """
        if complaint.status not in UNSUPPORTED or complaint.no_model or complaint.unpaid:
            return None
        mended = (dialect for dialect in tried[-1].mended(complaint, optional) if dialect not in tried)
        if (following := next(mended, None)) is not None:
            return following
        named = FORM_NAMED.search(complaint.text) is not None
        # What names no form may still be about one, as long as none was found good. Not so 404, which says
        # that the address is wrong. Status 500 may be any illness, so few forms are tried.
        guessed = not self._settled and complaint.status != 404
        if not wants_json or not (named or guessed):
            return None
        return tried[-1].plainer(no_schema=complaint.status == 500 and not named)

    def learn(self, dialect: Dialect, reply: Reply, wants_json: bool) -> None:
        """Keep the dialect that got a reply. Where its form was ignored, a plainer one is next.

        A reply that was cut or filtered, or is a refusal, tells nothing of forms.
        """
        self.dialect = dialect
        if wants_json and not self._settled and not (reply.cut or reply.trouble):
            plainer = dialect.plainer()
            self._settled = dialect.heeded(reply) or plainer is None
            self.dialect = dialect if self._settled or plainer is None else plainer


def with_schema(messages: Sequence[Message], schema: dict[str, Any]) -> list[Message]:
    """Return the messages with the schema at the end of the first: JSON is asked for in words."""
    request = (
        "\n\nAnswer with one JSON object and nothing else. It keeps this JSON schema:\n"
        f"<answer-schema>\n{json.dumps(schema)}\n</answer-schema>"
    )
    first = messages[0]
    return [{**first, "content": first["content"] + request}, *messages[1:]]


def without_lengths(schema: Any) -> Any:
    """Return a JSON schema without bounds on the lengths of texts."""
    if isinstance(schema, dict):
        return {key: without_lengths(value) for key, value in schema.items() if key != "maxLength"}
    return [without_lengths(item) for item in schema] if isinstance(schema, list) else schema
