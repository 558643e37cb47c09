"""Answers of a language model: their schema, made from the catalogue, and their review, which bounds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmzero.agents.text import clean, one_line, share
from llmzero.core.hparams import Catalogue, HParams, Parameter
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.fit import known_not_to_fit, nearly_equal
from llmzero.evidence.proposal import PATHOLOGIES, Expected, Proposal, Resume

PARAGRAPH, SENTENCE, PHRASE = 4000, 500, 80  # characters of a model's words that are stored
JSON_TYPES = {bool: "boolean", int: "integer", float: "number"}
MOST = 40  # changes, observations and diagnoses that are looked at


@dataclass(frozen=True)
class Review:
    """What a reply amounts to.

    Attributes:
        complaints: what is wrong with it, for the model to mend.
        proposal: what can be used of it, with `notes` on what was clamped or left out; None where
            nothing can.
    """

    complaints: tuple[str, ...]
    proposal: Proposal | None


def answer_schema(evidence: Evidence) -> dict[str, Any]:
    """Return the JSON schema of a proposal, with the names and bounds of the catalogue."""

    def text(most: int) -> dict[str, Any]:
        return {"type": "string", "maxLength": most}

    steps = [{"type": "integer", "enum": list(evidence.checkpoints)}] if evidence.checkpoints else []
    metric = {
        "name": {"type": "string", "enum": list(evidence.metric_catalogue) or ["none"]},
        "direction": {"type": "string", "enum": ["up", "down"]},
    }
    expected = {
        "score": {"type": "number", "description": "best validation score that the new stage will reach"},
        "probability": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "that this passes the parent's best score",
        },
        "metrics": {"type": "array", "maxItems": 6, "items": _object(metric)},
        "effect": text(200),
    }
    changes = [_change_schema(parameter) for parameter in evidence.catalogue.values()]
    diagnosis = f"the gravest first; one of {', '.join(PATHOLOGIES)}, or a few words of your own"
    return _object(
        {
            "observations": {"type": "array", "maxItems": 6, "items": text(300)},
            "diagnosis": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": {**text(60), "description": diagnosis},
            },
            "rationale": text(1000),
            "changes": {"type": "array", "minItems": 1, "maxItems": 6, "items": {"anyOf": changes}},
            "resume_from": {"anyOf": [{"type": "string", "enum": ["best", "last"]}, *steps]},
            "expected": _object(expected),
        }
    )


def review(value: Mapping[str, Any] | None, evidence: Evidence, agent: str) -> Review:
    """Return what a reply amounts to. Whatever it is, the proposal in it keeps to the catalogue's bounds."""
    if value is None:
        return Review(("There is no complete JSON object with the key `changes` in your reply.",), None)
    changes, reasons, complaints, notes = _changes(value.get("changes"), evidence)
    resume, trouble = checkpoint_of(value.get("resume_from", "best"), evidence)
    complaints += trouble
    notes += [f"{text} The best checkpoint was taken." for text in trouble]
    complaints += _missing_words(value)
    blocked = _blocked(changes, resume, evidence)
    proposal = Proposal(
        agent=agent,
        diagnosis=tuple(one_line(name, PHRASE) for name in _texts(value.get("diagnosis"))),
        rationale=clean(value.get("rationale") or "", PARAGRAPH),
        changes=changes,
        resume=resume,
        observations=tuple(one_line(text, SENTENCE) for text in _texts(value.get("observations"))),
        reasons=reasons,
        expected=_expected(value.get("expected"), evidence),
        notes=tuple(dict.fromkeys(notes)),
    )
    return Review(tuple(dict.fromkeys([*complaints, *blocked])), None if blocked else proposal)


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def value_schema(parameter: Parameter) -> dict[str, Any]:
    """Return the JSON schema of a parameter's values."""
    if parameter.choices is not None:
        kinds = sorted({JSON_TYPES.get(type(choice), "string") for choice in parameter.choices})
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(parameter.choices)}
    low, high = parameter.bounds
    return {"type": "integer" if parameter.kind == "int" else "number", "minimum": low, "maximum": high}


def _change_schema(parameter: Parameter) -> dict[str, Any]:
    name = {"type": "string", "enum": [parameter.name]}
    return _object(
        {"name": name, "value": value_schema(parameter), "reason": {"type": "string", "maxLength": 200}}
    )


# --- changes ---


def _changes(entries: Any, evidence: Evidence) -> tuple[HParams, dict[str, str], list[str], list[str]]:
    """Return usable changes, their reasons, complaints, and notes on what was clamped or left out."""
    if not isinstance(entries, list):
        return {}, {}, ["`changes` must be a list of objects with name, value and reason."], []
    wanted: HParams = {}
    reasons: dict[str, str] = {}
    complaints: list[str] = []
    notes: list[str] = []
    for entry in entries[:MOST]:
        name, value, problem = _entry(entry, evidence.catalogue)
        if problem:
            complaints.append(problem)
            notes.append(
                f"{problem} {'Clamped to ' + format(value, 'g') + '.' if value is not None else 'Left out.'}"
            )
        if value is None:
            continue
        if wanted.get(name, value) != value:
            complaints.append(f"{name} is changed twice, to {wanted[name]} and to {value}.")
            notes.append(f"{complaints[-1]} The first was taken.")
            continue
        wanted[name] = value
        reasons[name] = clean(entry.get("reason") or "", SENTENCE)
    changes = evidence.catalogue.changes(evidence.stage.hparams, {**evidence.stage.hparams, **wanted})
    return changes, {name: reasons[name] for name in changes}, complaints, notes


def _entry(entry: Any, catalogue: Catalogue) -> tuple[str, Any, str | None]:
    """Return a change's name, the value that can be used of it (None: none), and what is wrong with it."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        return (
            "",
            None,
            f"{one_line(entry, PHRASE)} is no change: it must be an object with name, value and reason.",
        )
    name, value = entry["name"], entry.get("value")
    if name not in catalogue:
        return "", None, one_line(catalogue.problems({name: value})[0], SENTENCE) + "."
    parameter = catalogue[name]
    problem = parameter.problem(value)
    if problem is None:
        return name, parameter.settled(value), None
    return (
        name,
        _nearest(parameter, value),
        f"{name}={one_line(repr(value), PHRASE)}: must be {parameter.allowed}.",
    )


def _nearest(parameter: Parameter, value: Any) -> Any:
    """Return the allowed value nearest to a number, or to a text that is one; None for anything else."""
    numeric = parameter.choices is None or all(
        isinstance(c, int | float) and not isinstance(c, bool) for c in parameter.choices
    )
    if (
        not numeric
        or isinstance(value, bool)
        or not isinstance(value, int | float | str)
        or len(str(value)[:400]) > 300
    ):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return parameter.clamp(number) if math.isfinite(number) else None


def _blocked(changes: HParams, resume: Resume, evidence: Evidence) -> list[str]:
    """Return why a stage with these changes would be of no use."""
    if not changes:
        return ["Nothing is changed: every value is what the stage has already."]
    new = {**evidence.stage.hparams, **changes}
    if failed := known_not_to_fit(evidence, new):
        assert failed.cause is not None
        sizes = ", ".join(
            f"{name}={failed.hparams[name]}"
            for name in failed.cause.get("hparams", {})
            if name in failed.hparams
        )
        return [
            f"This needs at least the memory of {failed.node_id} ({sizes}), which ran out of it. "
            "Propose something smaller."
        ]
    for child in nearly_equal(evidence, new):
        if child.resume == resume:
            outcome = f"scored {child.score:.3f}" if child.score is not None else child.state
            return [
                f"This is nearly the configuration of {child.node_id}, which was tried from the same "
                f"checkpoint ({outcome}). Propose another."
            ]
    return []


# --- the rest ---


def checkpoint_of(value: Any, evidence: Evidence) -> tuple[Resume, list[str]]:
    """Return where to resume from, `best` where the wish cannot be met, and why it cannot."""
    if value == "best" or value == "last":
        return value, []
    if isinstance(value, int) and not isinstance(value, bool) and value in evidence.checkpoints:
        names: dict[int | None, Resume] = {max(evidence.checkpoints): "last", evidence.best_step: "best"}
        return names.get(value, value), []
    there = ", ".join(map(str, evidence.checkpoints))
    return "best", [
        f"resume_from={one_line(repr(value), PHRASE)}: must be best, last"
        + (f" or one of the steps {there}." if there else ".")
    ]


def _missing_words(value: Mapping[str, Any]) -> list[str]:
    complaints = []
    if not isinstance(value.get("rationale"), str) or not value["rationale"].strip():
        complaints.append("`rationale` must be a text.")
    if not _texts(value.get("diagnosis")):
        complaints.append("`diagnosis` must be a list of at least one text.")
    return complaints


def _texts(value: Any) -> list[str]:
    """Return the texts of a list; a single text counts as a list of one."""
    items: Sequence[Any] = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [item for item in items[:MOST] if isinstance(item, str) and item.strip()]


def _expected(value: Any, evidence: Evidence) -> Expected | None:
    """Return what the model expects, as far as it said so in numbers and names that mean something."""
    if not isinstance(value, Mapping):
        return None
    entries = (
        [e for e in value.get("metrics") or () if isinstance(e, Mapping)]
        if isinstance(value.get("metrics"), list)
        else []
    )
    directions = {
        e["name"]: e["direction"]
        for e in entries
        if e.get("direction") in ("up", "down") and isinstance(e.get("name"), str)
    }
    recorded = {name: way for name, way in directions.items() if name in evidence.metric_catalogue}
    expected = Expected(
        share(value.get("score")),
        share(value.get("probability")),
        recorded,
        clean(value.get("effect") or "", SENTENCE),
    )
    return None if expected == Expected() else expected
