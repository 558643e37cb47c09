"""Answers of a language model: their schema, made from the catalogue, and their review, which bounds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmzero.agents.changes import (
    MOST,
    MOST_CHANGES,
    PHRASE,
    SENTENCE,
    Remarks,
    checkpoint_of,
    finite_number,
    usable_changes,
    useless,
)
from llmzero.agents.found_json import SEARCHED
from llmzero.agents.text import clean, one_line, share
from llmzero.core.files import MAX_DEPTH
from llmzero.core.hparams import Parameter
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.fit import MIN_DISTANCE
from llmzero.evidence.proposal import PATHOLOGIES, Alternative, Expected, Proposal

PARAGRAPH = 4000  # characters of a model's words that are stored
JSON_TYPES = {bool: "boolean", int: "integer", float: "number"}
NO_METRICS = "none"  # the name of a metric where there is none
ACTIONS = ("change", "continue", "close")
ALTERNATIVE = {"changes", "resume_from", "expected"}  # alone, they are what is left of a reply that was cut
NO_ANSWER = (
    "There is no complete JSON object with the key `changes` in your reply: of the last "
    f"{SEARCHED} characters, what is not nested more than {MAX_DEPTH} deep is read."
)
SHARES = ("score", "low", "high", "probability", "probability_best")  # what is expected, from 0 to 1


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


# --- the schema ---


def answer_schema(evidence: Evidence) -> dict[str, Any]:
    """Return the JSON schema of a proposal, with the names and bounds of the catalogue."""
    diagnosis = f"the gravest first; one of {', '.join(PATHOLOGIES)}, or a few words of your own"
    low, high = lengths(evidence)
    elsewhere = {
        "type": "string",
        "enum": [evidence.stage.node_id, *others(evidence)],
        "description": "the stage that is continued",
    }
    return _object(
        {
            "observations": {"type": "array", "maxItems": 6, "items": _text(300)},
            "diagnosis": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": {**_text(60), "description": diagnosis},
            },
            "rationale": _text(1000),
            "action": {
                "type": "string",
                "enum": actions(evidence),
                "description": "continue trains on unchanged, with an empty list of changes; close: the "
                "parent gets no more children, for the reason in the rationale",
            },
            **({"parent": elsewhere} if others(evidence) else {}),
            "changes": _list_of({"anyOf": [_change_schema(each) for each in evidence.catalogue.values()]}),
            "resume_from": _resume_schema(evidence),
            **({"length": length_schema(low, high)} if low < high else {}),
            "expected": _expected_schema(evidence),
            "alternative": {"anyOf": [_alternative_schema(evidence), {"type": "null"}]},
        }
    )


def others(evidence: Evidence) -> dict[str, StageView]:
    """Return the stages that could be continued in place of the one in question."""
    return {view.node_id: view for view in evidence.standing.others} if evidence.standing else {}


def actions(evidence: Evidence) -> list[str]:
    """Return what a model may answer: it may not close the only stage that can be continued."""
    return [action for action in ACTIONS if action != "close" or others(evidence)]


def lengths(evidence: Evidence) -> tuple[float, float]:
    """Return the least and the greatest length of a stage, in multiples of the usual one.

    It is no greater than what is left of the stages, unless that is less than the usual one.
    """
    low, high = evidence.lengths
    return low, min(high, max(1.0, evidence.budget_left.get("stages", high)))


def length_schema(low: float, high: float) -> dict[str, Any]:
    """Return the JSON schema of a stage's length."""
    return {
        "type": "number",
        "minimum": low,
        "maximum": high,
        "description": "of the stage, as a multiple of the usual length",
    }


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": most}


def _list_of(change: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "maxItems": MOST_CHANGES, "items": dict(change)}


def _resume_schema(evidence: Evidence) -> dict[str, Any]:
    steps = [{"type": "integer", "enum": list(evidence.checkpoints)}] if evidence.checkpoints else []
    return {"anyOf": [{"type": "string", "enum": ["best", "last"]}, *steps]}


def _expected_schema(evidence: Evidence) -> dict[str, Any]:
    metric = {
        "name": {"type": "string", "enum": list(evidence.metric_catalogue) or [NO_METRICS]},
        "direction": {"type": "string", "enum": ["up", "down"]},
    }
    meanings = {
        "score": "best validation score that the new stage will reach",
        "low": "lower end of the score's 80 % interval",
        "high": "upper end of the score's 80 % interval",
        "probability": "that the score passes the parent's best score",
        "probability_best": "that the score passes the best score of the search",
    }
    shares = {
        name: {"type": "number", "minimum": 0, "maximum": 1, "description": meaning}
        for name, meaning in meanings.items()
    }
    metrics = {"type": "array", "maxItems": 6, "items": _object(metric)}
    return _object({**shares, "metrics": metrics, "effect": _text(200)})


def _alternative_schema(evidence: Evidence) -> dict[str, Any]:
    """Return the schema of the second-best proposal; allowed values are those of `changes`."""
    change = {
        "name": {"type": "string", "enum": list(evidence.catalogue)},
        "value": {"type": ["number", "string", "boolean"]},
        "reason": _text(200),
    }
    resume, expected = _resume_schema(evidence), _expected_schema(evidence)
    return _object({"changes": _list_of(_object(change)), "resume_from": resume, "expected": expected})


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
    return _object({"name": name, "value": value_schema(parameter), "reason": _text(200)})


# --- the review ---


def review(value: Mapping[str, Any] | None, evidence: Evidence, agent: str) -> Review:
    """Return what a reply amounts to. Whatever it is, the proposal in it keeps to the catalogue's bounds."""
    if value is None or value.keys() == ALTERNATIVE:
        return Review((NO_ANSWER,), None)
    remarks = Remarks()
    action = _action(value.get("action"), evidence, remarks)
    proposal = Proposal(
        agent=agent,
        diagnosis=tuple(one_line(name, PHRASE) for name in _texts(value.get("diagnosis"))),
        rationale=clean(value.get("rationale") or "", PARAGRAPH),
        changes={},
        observations=tuple(one_line(text, SENTENCE) for text in _texts(value.get("observations"))),
        action=action,
    )
    remarks.complaints += _missing_words(value)
    if action == "close":
        return _closing(proposal, value, evidence, remarks)
    parent = _parent(value.get("parent"), evidence, remarks)
    evidence = seen_from(parent, evidence) if parent is not None else evidence
    length = length_of(value.get("length"), evidence, remarks)
    proposal = _with_changes(replace(proposal, parent=parent, length=length), value, evidence, remarks)
    blocked = useless(proposal.changes, proposal.resume, evidence)
    if action == "change" and not proposal.changes:
        blocked = (
            "Nothing is changed: every value is what the stage has already. To train on unchanged, answer "
            "with the action `continue`."
        )
    alternative = _alternative(value.get("alternative"), proposal, evidence, remarks)
    complaints = tuple(dict.fromkeys([*remarks.complaints, *([blocked] if blocked else [])]))
    notes = tuple(dict.fromkeys(remarks.notes))
    return Review(complaints, None if blocked else replace(proposal, alternative=alternative, notes=notes))


def seen_from(node_id: str, evidence: Evidence) -> Evidence:
    """Return the evidence for a child of one of the other stages, as far as there is some."""
    return replace(
        evidence,
        stage=others(evidence)[node_id],
        children=[view for view in evidence.history if view.parent_id == node_id],
        checkpoints=(),
        best_step=None,
    )


def _closing(proposal: Proposal, value: Mapping[str, Any], evidence: Evidence, remarks: Remarks) -> Review:
    """Return what an answer amounts to that closes the stage in question: nothing without a reason, or where
    it names another stage.
    """
    own, named = evidence.stage.node_id, value.get("parent")
    elsewhere = named is not None and named != own
    if elsewhere:
        remarks.complaints.append(
            f"parent={one_line(repr(named), PHRASE)}: the action `close` closes {own}, the stage in "
            f"question; the parent must be {own}."
        )
    if value.get("changes"):
        remarks.notes.append("The action `close` starts no stage: its changes were left out.")
    usable = bool(_texts([value.get("rationale")])) and not elsewhere
    closing = replace(proposal, notes=tuple(remarks.notes))
    return Review(tuple(remarks.complaints), closing if usable else None)


def _action(value: Any, evidence: Evidence, remarks: Remarks) -> str:
    allowed = actions(evidence)
    if value is None or value in allowed:
        return value or "change"
    only = f": {evidence.stage.node_id} is the only stage that can be continued" if value == "close" else ""
    problem = f"action={one_line(repr(value), PHRASE)}: must be one of {', '.join(allowed)}{only}."
    remarks.add(problem, "Taken for `change`.")
    return "change"


def _parent(value: Any, evidence: Evidence, remarks: Remarks) -> str | None:
    """Return the stage that is to be continued; None is the one that was asked about."""
    own, allowed = evidence.stage.node_id, others(evidence)
    if value is None or value == own:
        return None
    if isinstance(value, str) and value in allowed:
        return value
    problem = f"parent={one_line(repr(value), PHRASE)}: must be one of {', '.join([own, *allowed])}."
    remarks.add(problem, f"Taken for {own}.")
    return None


def length_of(value: Any, evidence: Evidence, remarks: Remarks) -> float:
    """Return the length of the stage as a multiple of the usual one, which it is where none is given."""
    low, high = lengths(evidence)
    number = finite_number(value)
    if value is None:
        return 1.0
    if number is None or isinstance(value, str) or not low <= number <= high:
        clamped = 1.0 if number is None else min(max(number, low), high)
        problem = f"length={one_line(repr(value), PHRASE)}: must be a number from {low:g} to {high:g}."
        remarks.add(problem, f"Taken for {clamped:g}.")
        return clamped
    return float(f"{number:.3g}")


def _with_changes(
    proposal: Proposal, value: Mapping[str, Any], evidence: Evidence, remarks: Remarks
) -> Proposal:
    """Return a proposal with the changes of an answer, and the checkpoint and expectations with them."""
    entries = value.get("changes")
    if proposal.action == "continue":
        if entries:
            problem = "The action `continue` trains on unchanged: `changes` must be an empty list."
            remarks.add(problem, "They were left out.")
        entries = []
    changes, reasons = usable_changes(entries, evidence, remarks)
    resume, trouble = checkpoint_of(value.get("resume_from", "best"), evidence)
    for text in trouble:
        remarks.add(text, "The best checkpoint was taken.")
    expected = _expected(value.get("expected"), evidence, remarks)
    return replace(proposal, changes=changes, reasons=reasons, resume=resume, expected=expected)


def _alternative(value: Any, first: Proposal, evidence: Evidence, remarks: Remarks) -> Alternative | None:
    """Return the second-best proposal where it can be used as it is."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        problem = "alternative: must be null, or an object with changes, resume_from and expected."
        remarks.add(problem, "It was left out.")
        return None
    own = Remarks()
    wanted = _with_changes(replace(first, action="change"), value, evidence, own)
    new, taken = ({**evidence.stage.hparams, **each.changes} for each in (wanted, first))
    blocked = useless(wanted.changes, wanted.resume, evidence)
    if not wanted.changes:
        own.complaints.append("Nothing is changed.")
    elif evidence.catalogue.distance(new, taken) < MIN_DISTANCE and wanted.resume == first.resume:
        own.complaints.append("This is nearly the proposal itself.")
    elif blocked:
        own.complaints.append(blocked)
    for complaint in own.complaints:
        remarks.add(f"alternative: {complaint}", "It was left out.")
    if own.complaints or wanted.expected is None:
        return None
    return Alternative(wanted.changes, wanted.resume, wanted.reasons, wanted.expected)


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


# --- expectations ---


def _expected(value: Any, evidence: Evidence, remarks: Remarks) -> Expected | None:
    """Return what the model expects, as far as it said so in numbers and names that mean something."""
    if not isinstance(value, Mapping):
        names = ", ".join((*SHARES, "metrics"))
        remarks.add(f"`expected` must be an object with {names} and effect.", "It says nothing.")
        return None
    shares = {name: share(value.get(name)) for name in SHARES}
    for name in [name for name, number in shares.items() if number is None]:
        said = f"={one_line(repr(value[name]), PHRASE)}" if name in value else " is missing"
        remarks.add(f"expected.{name}{said}: must be a number from 0 to 1.", "Left out.")
    interval = [shares[name] for name in ("low", "score", "high")]
    known = [number for number in interval if number is not None]
    if known != sorted(known):
        remarks.add("expected: low, score and high must be in ascending order.", "The interval was left out.")
        shares |= {"low": None, "high": None}
    if not isinstance(value.get("effect"), str) or not value["effect"].strip():
        remarks.add("expected.effect must be a text.", "Left out.")
    effect = clean(value.get("effect") or "", SENTENCE)
    metrics = _directions(value.get("metrics"), evidence, remarks)
    if not (known or metrics or effect or shares["probability"] or shares["probability_best"]):
        return None
    return Expected(**shares, metrics=metrics, effect=effect, incumbent=evidence.incumbent_score)


def _directions(entries: Any, evidence: Evidence, remarks: Remarks) -> dict[str, str]:
    """Return `up` or `down` by the name of a metric."""
    if not isinstance(entries, list):
        remarks.add("expected.metrics must be a list of objects with name and direction.", "Left out.")
        return {}
    directions: dict[str, str] = {}
    for entry in entries[:MOST]:
        name, way = (
            (entry.get("name"), entry.get("direction")) if isinstance(entry, Mapping) else (None, None)
        )
        known = isinstance(name, str) and name in evidence.metric_catalogue
        if known and way in ("up", "down"):
            directions.setdefault(str(name), str(way))
        elif evidence.metric_catalogue or name != NO_METRICS:
            problem = f"expected.metrics: {one_line(entry, PHRASE)} must name a metric, and up or down."
            remarks.add(problem, "Left out.")
    return directions
