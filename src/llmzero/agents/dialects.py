"""Dialects: how an endpoint is asked for JSON, which its first replies tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmzero.agents.reply import Message, Reply
from llmzero.agents.text import json_object

Form = Literal["bounded", "strict", "tool", "plain"]

# Forms of a request for JSON, the most binding first: a schema with bounds on the lengths of texts, which
# keep small models from rambling but which not every endpoint knows; a schema without them; the arguments
# of a tool; a request in words.
FORMS: tuple[Form, ...] = ("bounded", "strict", "tool", "plain")
ANSWER_TOOL = "answer"
UNSUPPORTED = (
    400,
    404,
    422,
    501,
)  # HTTP status codes of a request that asks for what an endpoint does not have


@dataclass(frozen=True)
class Dialect:
    """How an endpoint is asked: the form of JSON answers, and the field that limits their length."""

    form: Form = "bounded"
    limit: str = "max_completion_tokens"

    def after(self, complaint: str) -> Dialect | None:
        """Return what to try after the endpoint refused a request; None where nothing is left."""
        if self.limit in complaint and self.limit != "max_tokens":
            return replace(self, limit="max_tokens")
        position = FORMS.index(self.form)
        return replace(self, form=FORMS[position + 1]) if position + 1 < len(FORMS) else None

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
        return {"messages": with_schema(messages, schema)}

    def heeded(self, reply: Reply) -> bool:
        """Whether a reply came in the form that was asked for, or would have, had it not been cut."""
        if self.form == "tool":
            return bool(reply.tool_calls)
        begun = reply.cut and reply.text.lstrip()[:1] == "{"
        return bool(json_object(reply.text, "")) or begun


class DialectSearch:
    """Finds out the dialect of an endpoint from what it refuses and what it ignores.

    Attributes:
        dialect: the one to ask in next.
    """

    def __init__(self) -> None:
        self.dialect = Dialect()
        self._settled = False

    def after_refusal(
        self, dialect: Dialect, status: int, complaint: str, wants_json: bool
    ) -> Dialect | None:
        """Return what to try after a refusal with an HTTP status; None where no other dialect would help."""
        open_question = wants_json or dialect.limit in complaint
        if self._settled or status not in UNSUPPORTED or not open_question:
            return None
        return dialect.after(complaint)

    def learn(self, dialect: Dialect, reply: Reply, wants_json: bool) -> None:
        """Keep the dialect that got a reply. Where its form was ignored, a plainer one is next."""
        self.dialect = dialect
        if wants_json and not self._settled:
            plainer = dialect.after("")
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
