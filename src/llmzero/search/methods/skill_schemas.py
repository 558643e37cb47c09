"""The tools of `search=skill` in the words of the chat protocol, and the check of a call's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmzero.agents.answer import length_schema, value_schema
from llmzero.agents.changes import MOST
from llmzero.agents.text import one_line
from llmzero.core.hparams import Catalogue
from llmzero.evidence.proposal import PATHOLOGIES

NAMED = 60  # characters of a wrong name or argument that are quoted
JSON_KINDS = {"string": str, "object": dict}


class RefusedError(Exception):
    """A call cannot be carried out; the message is for the model."""


def check_arguments(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise `RefusedError` with all that is wrong with the arguments of a call: names, types and choices."""
    properties = schema["properties"]
    unknown = [
        f"{one_line(name, NAMED)} is no argument; there are {', '.join(properties) or 'none'}."
        for name in arguments
        if name not in properties
    ]
    missing = [f"The argument {name} is missing." for name in schema["required"] if name not in arguments]
    wrong = [_wrong(name, arguments[name], properties[name]) for name in arguments if name in properties]
    if problems := [*unknown[:MOST], *missing, *filter(None, wrong)]:
        raise RefusedError(" ".join(problems))


def _wrong(name: str, value: Any, schema: Mapping[str, Any]) -> str:
    """Return what is wrong with an argument; empty where its type is right."""
    kind = JSON_KINDS.get(schema.get("type", ""))
    if "enum" in schema and value not in schema["enum"]:
        return f"{name}={one_line(repr(value), NAMED)}: must be one of {', '.join(schema['enum'])}."
    if kind is not None and not isinstance(value, kind):
        return f"{name}={one_line(repr(value), NAMED)}: must be {'an object' if kind is dict else 'a text'}."
    return ""


def tool_schemas(catalogue: Catalogue, lengths: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the tools in the words of the protocol, with the catalogue's names and bounds.

    `lengths` are the least and the greatest of a stage, in multiples of the usual one.
    """
    stage = {"stage": {"type": "string", "description": "its id, as in 0003"}}
    reason = {"reason": {"type": "string"}}
    start = {
        "parent": {"type": "string", "description": "id of a stage that has ended; 0000 is the base model"},
        "checkpoint": {
            "anyOf": [{"type": "string", "enum": ["best", "last"]}, {"type": "integer"}],
            "description": "of the parent; a number is a step",
        },
        "changes": {
            "type": "object",
            "properties": {p.name: value_schema(p) for p in catalogue.values()},
            "additionalProperties": False,
        },
        **reason,
    }
    diagnosis = {
        "diagnosis": {
            "type": "string",
            "description": f"of the parent: {', '.join(PATHOLOGIES)}, or a few words of your own",
        }
    }
    until = {"until": {"type": "string", "enum": ["validation", "end"]}}
    return [
        _tool("list_skills", "List the skills: what is known of tuning GRPO.", {}),
        _tool("read_skill", "Read a skill.", {"name": {"type": "string"}}),
        _tool(
            "list_runs",
            "List all stages with parent, changes, state, score and cost; the budget left; the best so far.",
            {},
        ),
        _tool("read_metrics", "Read the training dynamics of a stage, which may still run.", stage),
        _tool("read_rollouts", "Read the latest sampled completions of a stage.", stage),
        _tool(
            "start_stage",
            "Start a stage from a parent's checkpoint, as soon as a worker is free; what is not in changes "
            "stays as in the parent.",
            start,
            {**diagnosis, **({"length": length_schema(*lengths)} if lengths[0] < lengths[1] else {})},
        ),
        _tool(
            "stop_stage",
            "End a running stage early; it keeps its checkpoints and its score.",
            {**stage, **reason},
        ),
        _tool(
            "wait",
            "Wait for a validation point (of one stage, or of any), or for the end of any stage.",
            {},
            {**stage, **until},
        ),
        _tool(
            "finish",
            "End the session for good. Running stages run to their end.",
            {"summary": {"type": "string"}},
        ),
    ]


def _tool(
    name: str, description: str, required: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }
