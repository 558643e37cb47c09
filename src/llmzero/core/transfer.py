"""Carries hyperparameters to another catalogue, at the same distance from its practitioner's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmzero.core.documents import is_number
from llmzero.core.hparams import Catalogue, HParams, Parameter, Value


@dataclass(frozen=True)
class Source:
    """What is kept of the catalogue that values come from: its defaults, and its lists of choices."""

    defaults: Mapping[str, Value]
    choices: Mapping[str, Sequence[Value]]

    @classmethod
    def of(cls, catalogue: Catalogue) -> Source:
        """Return the defaults and choices of a catalogue."""
        choices = {name: list(p.choices) for name, p in catalogue.items() if p.choices is not None}
        return cls(catalogue.defaults(), choices)

    def moved(self, parameter: Parameter, value: Value) -> tuple[Value, str | None]:
        """Return the value that corresponds to `value` here, and a note where bounds cut it.

        A choice moves as many positions away from the default as at the source; a number keeps its ratio to
        the default. Where neither is defined (a default of zero, say) the value stays as it is, within
        bounds.
        """
        choices = self.choices.get(parameter.name, ())
        default = self.defaults.get(parameter.name, parameter.default)
        if parameter.choices is not None and value in choices and default in choices:
            return _by_position(parameter, value, list(choices).index(value) - list(choices).index(default))
        numeric = parameter.choices is None or all(map(is_number, parameter.choices))
        return _by_ratio(parameter, value, default) if numeric and is_number(value) else (value, None)


def transferred(values: HParams, source: Source, catalogue: Catalogue) -> tuple[HParams, list[str]]:
    """Return values moved to a catalogue, with notes on those that bounds cut."""
    moves = {name: source.moved(catalogue[name], value) for name, value in values.items()}
    return {name: value for name, (value, _) in moves.items()}, [note for _, note in moves.values() if note]


def _by_position(parameter: Parameter, value: Value, steps: int) -> tuple[Value, str | None]:
    assert parameter.choices is not None
    wanted = parameter.choices.index(parameter.default) + steps
    index = min(max(wanted, 0), len(parameter.choices) - 1)
    reached = parameter.choices[index]
    return reached, None if index == wanted else _cut_note(parameter, value, reached)


def _by_ratio(parameter: Parameter, value: float, source_default: Value) -> tuple[Value, str | None]:
    moves = is_number(source_default) and source_default > 0 and parameter.default not in (0, source_default)
    # Twelve digits: rounding errors of the product must not pass a bound.
    wanted = float(f"{value * parameter.default / source_default:.12g}") if moves else value
    reached = wanted if parameter.problem(wanted) is None and not moves else parameter.clamp(wanted)
    limits = (
        parameter.bounds if parameter.choices is None else (min(parameter.choices), max(parameter.choices))
    )
    return reached, None if limits[0] <= wanted <= limits[1] else _cut_note(parameter, value, reached)


def _cut_note(parameter: Parameter, value: Value, reached: Value) -> str:
    return f"{parameter.name}={value} goes beyond the bounds here: {reached} (must be {parameter.allowed})"
