"""Moving hyperparameters from the catalogue they were found with to another: the same step away from the practitioner's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmzero.core.documents import is_number
from llmzero.core.hparams import Catalogue, HParams, Parameter, Value


@dataclass(frozen=True)
class Source:
    """What values are measured by where they come from: the practitioner's values, and the choices of parameters that have some."""

    defaults: Mapping[str, Value]
    choices: Mapping[str, Sequence[Value]]

    @classmethod
    def of(cls, catalogue: Catalogue) -> Source:
        """Return what has to be kept of a catalogue."""
        return cls(
            catalogue.defaults(),
            {name: list(p.choices) for name, p in catalogue.items() if p.choices is not None},
        )

    def moved(self, parameter: Parameter, value: Value) -> tuple[Value, str | None]:
        """Return the value that stands to the practitioner's here as `value` does at the source, and a note where bounds cut it.

        Of choices that is as many positions up or down, of numbers as many times as much. Where neither can be told (a
        practitioner's value of zero, say) the value stays as it is, within bounds.
        """
        choices, at_source = (
            self.choices.get(parameter.name, ()),
            self.defaults.get(parameter.name, parameter.default),
        )
        if parameter.choices is not None and value in choices and at_source in choices:
            return _by_position(parameter, value, list(choices).index(value) - list(choices).index(at_source))
        numeric = parameter.choices is None or all(map(is_number, parameter.choices))
        return _by_ratio(parameter, value, at_source) if numeric and is_number(value) else (value, None)


def transferred(values: HParams, source: Source, catalogue: Catalogue) -> tuple[HParams, list[str]]:
    """Return values moved to a catalogue, with notes on those that bounds cut."""
    moves = {name: source.moved(catalogue[name], value) for name, value in values.items()}
    return {name: value for name, (value, _) in moves.items()}, [note for _, note in moves.values() if note]


def _by_position(parameter: Parameter, value: Value, steps: int) -> tuple[Value, str | None]:
    assert parameter.choices is not None
    wanted = parameter.choices.index(parameter.default) + steps
    reached = min(max(wanted, 0), len(parameter.choices) - 1)
    return parameter.choices[reached], None if reached == wanted else _cut(
        parameter, value, parameter.choices[reached]
    )


def _by_ratio(parameter: Parameter, value: float, at_source: Value) -> tuple[Value, str | None]:
    moves = is_number(at_source) and at_source > 0 and parameter.default not in (0, at_source)
    wanted = (
        float(f"{value * parameter.default / at_source:.12g}") if moves else value
    )  # free of the rounding that would pass a bound
    reached = wanted if parameter.problem(wanted) is None and not moves else parameter.clamp(wanted)
    low, high = (
        parameter.bounds if parameter.choices is None else (min(parameter.choices), max(parameter.choices))
    )
    return reached, None if low <= wanted <= high else _cut(parameter, value, reached)


def _cut(parameter: Parameter, value: Value, reached: Value) -> str:
    return f"{parameter.name}={value} goes beyond the bounds here: {reached} (must be {parameter.allowed})"
