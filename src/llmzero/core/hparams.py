"""The catalogue of tunables: what a search may change, within which bounds, and what it does."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

from llmzero.core.errors import UserError

Group = Literal["capacity", "regularization", "optimization"]
Kind = Literal["float", "int", "choice"]
Scale = Literal["log", "linear"]
Value = Any  # a float, an int, or of a choice whatever is one of its options: a text, a truth value, None
HParams = dict[str, Value]

LARGEST = 1e15  # of bounds and values: whatever is computed with them stays finite


@dataclass(frozen=True)
class Parameter:
    """One tunable: a `float` or `int` with `low` and `high`, or any of them with ordered `choices`.

    Attributes:
        explores: whether a larger value has the policy explore more, so that scores may fall before they
            rise.
    """

    name: str
    group: Group
    kind: Kind
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    scale: Scale = "linear"
    choices: tuple[Value, ...] | None = None
    unit: str | None = None
    explores: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values, for people: `0.0 to 0.2` or `4, 8, 16`."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        return f"{self.kind} from {self.low:g} to {self.high:g}"

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value; for parameters without choices."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def count(self) -> int | None:
        """How many values are allowed; None where they cannot be counted."""
        if self.choices is not None:
            return len(self.choices)
        low, high = self.bounds
        return int(high) - int(low) + 1 if self.kind == "int" else None

    def problem(self, value: Value) -> str | None:
        """Return what is wrong with a value, or None where it is allowed."""
        if self.choices is not None:
            valid = any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool)
                for choice in self.choices
            )
            return None if valid else f"{self.name}={value!r}: must be {self.allowed}"
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        low, high = self.bounds
        if not numeric or not low <= value <= high or (self.kind == "int" and value != int(value)):
            return f"{self.name}={value!r}: must be {self.allowed}"
        return None

    def clamp(self, value: float) -> Value:
        """Return the allowed value nearest to a number."""
        if self.choices is not None:
            numbers = [c for c in self.choices if isinstance(c, int | float)]
            return min(numbers, key=lambda c: abs(c - value))
        low, high = self.bounds
        bounded = min(max(value, low), high)
        return round(bounded) if self.kind == "int" else float(f"{bounded:.4g}")

    def settled(self, value: Value) -> Value:
        """Return an allowed value as the catalogue writes it: 8.0 as 8 for an int, 1 as 1.0 for a float."""
        if self.choices is not None:
            return next(choice for choice in self.choices if choice == value)
        return int(value) if self.kind == "int" else float(value)

    def position(self, value: Value) -> float:
        """Return where a value lies between the lowest (0) and the highest (1) on the parameter's scale."""
        if self.choices is not None:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        low, high = map(self._scaled, self.bounds)
        return (self._scaled(value) - low) / (high - low)

    def at(self, position: float) -> Value:
        """Return the value at a position in [0, 1]: the inverse of `position`."""
        position = min(max(position, 0.0), 1.0)
        if self.choices is not None:
            return self.choices[round(position * (len(self.choices) - 1))]
        low, high = map(self._scaled, self.bounds)
        scaled = low + position * (high - low)
        return self.clamp(math.exp(scaled) - self._offset if self.scale == "log" else scaled)

    def sample(self, rng: random.Random) -> Value:
        """Return a value drawn evenly on the parameter's scale."""
        return rng.choice(self.choices) if self.choices is not None else self.at(rng.random())

    @property
    def _offset(self) -> float:
        """Lets a log scale begin at zero: log(x + offset)."""
        low, high = self.bounds
        return 0.0 if low else high * 1e-3

    def _scaled(self, value: float) -> float:
        return math.log(value + self._offset) if self.scale == "log" else float(value)


class Catalogue(Mapping[str, Parameter]):
    """All tunables by name, in the order of the file."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)

    @classmethod
    def from_config(
        cls,
        entries: Mapping[str, Mapping[str, Any]],
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Catalogue:
        """Build and check the catalogue.

        Args:
            entries: fields of each parameter by its name, as `conf/hparams` holds them.
            overrides: fields that replace single ones of `entries`, by the group that brings them (model,
                algorithm).

        Raises:
            UserError: an entry or an override is malformed.
        """
        for name, entry in _mapping("hparams.parameters", entries).items():
            _mapping(f"hparams.parameters.{name}", entry)
        merged = {name: dict(entry) for name, entry in entries.items()}
        for owner, changed in (overrides or {}).items():
            for name, changes in changed.items():
                if name not in merged:
                    raise UserError(f"{owner}.hparams.{name}: unknown parameter{suggestion(name, merged)}")
                merged[name] |= _mapping(f"{owner}.hparams.{name}", changes)
        return cls({name: _parameter(name, entry) for name, entry in merged.items()})

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    @cached_property
    def size(self) -> int | None:
        """How many configurations there are; None where a parameter is continuous."""
        counts = [parameter.count for parameter in self.values()]
        return math.prod(count for count in counts if count is not None) if None not in counts else None

    def defaults(self) -> HParams:
        """Return the practitioner's configuration."""
        return {name: parameter.default for name, parameter in self.items()}

    def problems(self, values: Mapping[str, Value]) -> list[str]:
        """Return everything that is wrong with a (possibly partial) set of values."""
        unknown = [
            f"{name}: unknown parameter{suggestion(name, self)}" for name in values if name not in self
        ]
        invalid = (self[name].problem(value) for name, value in values.items() if name in self)
        return unknown + [text for text in invalid if text]

    def complete(self, values: Mapping[str, Value]) -> HParams:
        """Return `values` over the defaults.

        Raises:
            UserError: a value is unknown or not allowed; the message lists all of them.
        """
        if problems := self.problems(_mapping("values", values)):
            raise UserError("; ".join(problems))
        return {**self.defaults(), **values}

    def distance(self, a: Mapping[str, Value], b: Mapping[str, Value]) -> float:
        """Return how far apart two configurations are: the largest difference in position (0 to 1)."""
        return max((abs(p.position(a[name]) - p.position(b[name])) for name, p in self.items()), default=0.0)

    def changes(self, old: Mapping[str, Value], new: Mapping[str, Value]) -> HParams:
        """Return the entries of `new` that differ from `old`."""
        return {name: new[name] for name in self if new[name] != old[name]}


def catalogue_of(config: Mapping[str, Any]) -> Catalogue:
    """Return a configuration's catalogue, with the bounds and defaults that model and algorithm override."""
    overrides = {
        group: _mapping(f"{group}.hparams", _mapping(group, config[group] or {}).get("hparams") or {})
        for group in ("model", "algorithm")
    }
    return Catalogue.from_config(_mapping("hparams", config["hparams"]).get("parameters", {}), overrides)


def _parameter(name: str, entry: Mapping[str, Any]) -> Parameter:
    names = {field.name for field in fields(Parameter)} - {"name"}
    where = f"hparams.parameters.{name}"
    if unknown := set(entry) - names:
        raise UserError(
            f"{where}: unknown field {', '.join(sorted(unknown))}; known: {', '.join(sorted(names))}"
        )
    if missing := {"default"} - set(entry) | {key for key in ("group", "kind") if entry.get(key) is None}:
        raise UserError(f"{where}: {', '.join(sorted(missing))} missing")
    values = {
        "description": "",
        **{key: value for key, value in entry.items() if value is not None or key == "default"},
    }
    _check_types(where, values)
    if "choices" in values:
        values["choices"] = tuple(values["choices"])
    parameter = Parameter(name=name, **values)
    for field, options in (("group", Group), ("kind", Kind), ("scale", Scale)):
        value = getattr(parameter, field)
        if value not in get_args(options):
            raise UserError(f"{where}.{field}={value!r}: must be one of {', '.join(get_args(options))}")
    _check_range(where, parameter)
    return parameter


def _check_types(where: str, values: Mapping[str, Any]) -> None:
    """Refuse what no catalogue can mean: it may be that of a search directory from anywhere."""
    for field in ("description", "unit"):
        if not isinstance(values.get(field, ""), str):
            raise UserError(f"{where}.{field}={values[field]!r:.100}: must be a text")
    if not isinstance(values.get("explores", False), bool):
        raise UserError(f"{where}.explores={values['explores']!r:.100}: must be true or false")
    for bound in ("low", "high"):
        if bound in values and not _is_finite(values[bound]):
            raise UserError(f"{where}.{bound}={values[bound]!r:.100}: must be a number")
    choices = values.get("choices", [])
    if not isinstance(choices, list | tuple):
        raise UserError(f"{where}.choices={choices!r:.100}: must be a list")
    for value in (values["default"], *choices):
        if not (value is None or isinstance(value, str | bool) or _is_finite(value)):
            raise UserError(f"{where}: {value!r:.100}: must be a text, a finite number, true, false or null")


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -LARGEST <= value <= LARGEST


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where}={value!r:.200}: must be a mapping of names to values")
    return value


def _check_range(where: str, parameter: Parameter) -> None:
    if parameter.choices is None:
        low, high = parameter.low, parameter.high
        if parameter.kind == "choice" or low is None or high is None or low >= high:
            raise UserError(f"{where}: needs choices, or low < high")
        if parameter.scale == "log" and low < 0:
            raise UserError(f"{where}.low={low}: a log scale begins at 0 or above")
    elif not parameter.choices:
        raise UserError(f"{where}.choices: is empty")
    if problem := parameter.problem(parameter.default):
        raise UserError(f"{where}.default: {problem}")


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the valid name that it resembles, or all of them."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(names)}"
