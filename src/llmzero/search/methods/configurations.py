"""Random configurations, and which have been tried."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

from llmzero.core.hparams import Catalogue, HParams, Parameter, Value

DRAWS = 100  # for a configuration that was not tried; after that, all are gone through


def random_configuration(catalogue: Catalogue, rng: random.Random) -> HParams:
    """Return a configuration drawn evenly on every parameter's scale."""
    return {name: parameter.sample(rng) for name, parameter in catalogue.items()}


class TriedConfigurations:
    """The configurations that were tried: a small catalogue is used up instead of repeated."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._keys: set[str] = set()

    def __contains__(self, hparams: HParams) -> bool:
        return self._key(hparams) in self._keys

    def add(self, hparams: HParams) -> None:
        """Add a configuration."""
        self._keys.add(self._key(hparams))

    @property
    def all(self) -> bool:
        """Whether there is no other configuration."""
        return self.catalogue.size is not None and len(self._keys) >= self.catalogue.size

    def draw(self, rng: random.Random) -> HParams | None:
        """Return a random configuration that was not tried; None where all were.

        Of a catalogue whose configurations cannot be counted, it may be one that was tried.
        """
        if self.all:
            return None
        for _ in range(DRAWS):
            hparams = random_configuration(self.catalogue, rng)
            if hparams not in self:
                return hparams
        if self.catalogue.size is None:
            return hparams
        every = itertools.product(*map(every_value, self.catalogue.values()))
        configurations = (dict(zip(self.catalogue, values, strict=True)) for values in every)
        return next(hparams for hparams in configurations if hparams not in self)

    def _key(self, hparams: HParams) -> str:
        return repr([hparams[name] for name in self.catalogue])


def every_value(parameter: Parameter) -> Iterable[Value]:
    """Return all values of a parameter that can be counted."""
    return parameter.choices or range(int(parameter.low or 0), int(parameter.high or 0) + 1)
