"""Design rules: when to change which parameter and by how much, as a controller by the dynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmzero.core.documents import read_document, refuse, unknown_keys, write_document
from llmzero.core.files import finite
from llmzero.core.hparams import Catalogue, Parameter, suggestion
from llmzero.core.metrics import Metric, listed
from llmzero.evidence.diagnosis import late, ratio
from llmzero.evidence.evidence import Evidence
from llmzero.strategies.plain import (
    LONGEST_TEXT,
    MOST_ENTRIES,
    Check,
    is_count,
    is_finite,
    named,
    not_plain,
    or_null,
    problems,
    shown,
)

FORMAT = 1
HEADER = """\
# A design rule: what paid off in a search, as a controller without a schedule. After every stage the first
# clause of each parameter whose condition holds is applied: so many notches (of choices) or times so much
# (numbers), within bounds. support: transitions of the search in which the condition held and the parameter
# moved this way; improved: those that gained; gain: their mean. Several parameters changed at a time, so a
# clause tells of company, not of cause. docs/strategies.md explains.
"""
CLAUSE_KEYS = ("parameter", "notches", "factor", "when", "support", "improved", "gain", "basis")
CLAUSE: Mapping[str, Check] = {  # what stands there for people
    "support": (is_count, "an integer of at least 0"),
    "improved": (is_count, "an integer of at least 0"),
    "gain": (or_null(is_finite), "a finite number or null"),
    "basis": (
        lambda value: isinstance(value, str) and len(value) <= LONGEST_TEXT,
        f"a text of up to {LONGEST_TEXT} characters",
    ),
}


def observables(metrics: Mapping[str, Metric]) -> list[str]:
    """Return what conditions may observe: a stage's gain, and the late levels of the catalogue's metrics."""
    names = listed(metrics.values(), "observable")
    return ["gain", *(f"late {name}" for name in names), *(f"late/early {name}" for name in names)]


def observed(evidence: Evidence) -> dict[str, float]:
    """Return the observables of a finished stage: its gain over its parent, and late levels of metrics."""
    names = listed(evidence.metric_catalogue.values(), "observable")
    recorded = [name for name in names if evidence.column(name)]
    gain = {} if evidence.stage.gain is None else {"gain": evidence.stage.gain}
    levels = {f"late {metric}": late(evidence, metric) for metric in recorded}
    return {**gain, **levels, **{f"late/early {metric}": ratio(evidence, metric) for metric in recorded}}


@dataclass(frozen=True)
class Condition:
    """A bound on one of the `observables`; what was not recorded meets none."""

    observe: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, facts: Mapping[str, float]) -> bool:
        """Return whether the facts of a stage meet it."""
        value = facts.get(self.observe, math.nan)
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)

    def __str__(self) -> str:
        return (
            f"{self.observe} at most {self.at_most:g}"
            if self.at_most is not None
            else f"{self.observe} at least {self.at_least:g}"
        )


@dataclass(frozen=True)
class Clause:
    """Moves a parameter by `notches` (of choices) or a `factor` when a condition holds; with its evidence."""

    parameter: str
    when: Condition
    notches: int | None = None
    factor: float | None = None
    support: int = 0
    improved: int = 0
    gain: float | None = None
    basis: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the clause as it stands in the file."""
        fields = {
            **asdict(self),
            "when": {name: value for name, value in asdict(self.when).items() if value is not None},
        }
        return {name: fields[name] for name in CLAUSE_KEYS if fields[name] is not None}


def write_rule(path: Path, clauses: Sequence[Clause], provenance: Mapping[str, Any]) -> None:
    """Write a rule as `rule.yaml`."""
    write_document(
        path,
        HEADER,
        {
            "format": FORMAT,
            "provenance": finite(dict(provenance)),
            "clauses": [clause.to_dict() for clause in clauses],
        },
    )


def load_rule(key: str, path: Path, catalogue: Catalogue, metrics: Mapping[str, Metric]) -> list[Clause]:
    """Read and check a rule; `key` is the option that named it.

    Raises:
        UserError: the file is missing or malformed, has no clause, or names what the catalogues do not have.
    """
    document = read_document(key, path, FORMAT, ("provenance", "clauses"))
    entries = document["clauses"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_ENTRIES:
        refuse(
            key,
            path,
            [
                f"clauses={shown(entries)}: must be a list of at least one clause; "
                f"a search in which no change paid off finds none, and none finds over {MOST_ENTRIES}"
            ],
        )
    found = [
        f"clause {number}: {text}"
        for number, entry in enumerate(entries, 1)
        for text in _problems(entry, catalogue, observables(metrics))
    ]
    refuse(key, path, [*not_plain("provenance", document.get("provenance")), *found])
    return [Clause(**{**entry, "when": Condition(**entry["when"])}) for entry in entries]


def _problems(entry: Any, catalogue: Catalogue, observable: Sequence[str]) -> list[str]:
    """Return what is wrong with a clause."""
    if not isinstance(entry, dict) or not isinstance(entry.get("when"), dict):
        return [f"{shown(entry)}: must be a mapping with parameter, notches or factor, and when"]
    when, name = entry["when"], entry.get("parameter")
    found = [
        *unknown_keys(map(named, entry), CLAUSE_KEYS),
        *(f"when.{text}" for text in unknown_keys(map(named, when), ("observe", "at_most", "at_least"))),
        *problems(entry, CLAUSE),
    ]
    observe = when.get("observe")
    if observe not in observable:
        found.append(
            f"when.observe={named(observe)}: cannot be observed{suggestion(named(observe), observable)}"
        )
    bounds = [when[side] for side in ("at_most", "at_least") if side in when]
    if len(bounds) != 1 or not is_finite(bounds[0]):
        found.append(f"when={shown(when)}: must have at_most or at_least, a number")
    if not isinstance(name, str) or name not in catalogue:
        return [*found, f"parameter={named(name)}: unknown parameter{suggestion(named(name), catalogue)}"]
    return found + _size_problems(entry, catalogue[name])


def _size_problems(entry: Mapping[str, Any], parameter: Parameter) -> list[str]:
    """Return what is wrong with how far a clause moves."""
    factor, notches = entry.get("factor"), entry.get("notches")
    if parameter.choices is None:
        key, other, allowed = "factor", "notches", "a number above 0 other than 1"
        right = is_finite(factor) and factor > 0 and factor != 1
    else:
        key, other, allowed = "notches", "factor", "an integer other than 0"
        right = is_finite(notches) and isinstance(notches, int) and notches != 0
    found = []
    if not right:
        found.append(
            f"{key}={shown(entry.get(key))}: must be {allowed}, as {parameter.name} is {parameter.allowed}"
        )
    if other in entry:
        found.append(f"{other}={shown(entry[other])}: {parameter.name} moves by {key}")
    return found
