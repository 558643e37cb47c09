"""Grid search: chains under the configurations of a grid."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue, HParams, Parameter, Value, suggestion
from llmzero.core.settings import setting
from llmzero.search.methods.base import MethodContext, memo_of
from llmzero.search.methods.chains import ChainStart, ConstantChains
from llmzero.tree.tree import Tree

# What practitioners tune first, in this order.
TUNED = ("learning_rate", "kl_coef", "group_size", "temperature")
CELLS = 27  # of a grid that chooses itself, where the budget has no limit of stages


@dataclass
class GridSettings:
    """`search=grid`."""

    parameters: Any = setting(
        None, "number of values by parameter; the others keep their defaults. null: as the budget allows"
    )


class Grid(ConstantChains):
    """Trains each cell of a grid over a whole chain.

    The order is random, so that a budget that ends early has covered the grid evenly.

    Raises:
        UserError: a parameter of the grid is unknown, or has not that many values.
    """

    def __init__(self, settings: GridSettings, context: MethodContext) -> None:
        super().__init__(context, "grid")
        self.numbers = _chosen(context) if settings.parameters is None else settings.parameters
        check_grid(context.catalogue, self.numbers)
        self._cells: list[HParams] = []

    def start(self, tree: Tree, number: int) -> ChainStart | None:
        """Return the next cell; None after the last.

        The grid is stored with the first stage, so that a later change of the budget does not change it.
        """
        if not self._cells:
            first = tree.root.children[:1]
            if first:
                self.numbers = memo_of(self.context, tree[first[0]], {"grid": {str: int}})["grid"]
                check_grid(self.context.catalogue, self.numbers)
            self._cells = cells(self.context.catalogue, self.numbers)
            random.Random(f"{self.context.seed}/grid").shuffle(self._cells)
        if number >= len(self._cells):
            return None
        cell = self._cells[number]
        values = ", ".join(f"{name}={value}" for name, value in cell.items())
        memo = {"grid": self.numbers} if number == 0 else {}
        return ChainStart(
            {**self.context.catalogue.defaults(), **cell},
            f"Cell {number + 1} of {len(self._cells)}: {values}.",
            memo,
        )


def cells(catalogue: Catalogue, numbers: Mapping[str, int]) -> list[HParams]:
    """Return the cells of a grid, each the values of its parameters."""
    values = [spread(catalogue[name], number) for name, number in numbers.items()]
    return [dict(zip(numbers, cell, strict=True)) for cell in itertools.product(*values)]


def spread(parameter: Parameter, number: int) -> list[Value]:
    """Return the middles of `number` equal parts of a parameter's scale, without duplicates."""
    middles = [(i + 0.5) / number for i in range(number)]
    if parameter.choices is not None:
        return [parameter.choices[int(middle * len(parameter.choices))] for middle in middles]
    return list(dict.fromkeys(parameter.at(middle) for middle in middles))


def _chosen(context: MethodContext) -> dict[str, int]:
    """Return a grid for the budget: parameters get one more value in turn while every cell has a chain."""
    catalogue = context.catalogue
    names = [name for name in TUNED if name in catalogue] or list(catalogue)[: len(TUNED)]
    chains = CELLS if context.stages is None else math.ceil(context.stages / context.max_depth)
    numbers = dict.fromkeys(names, 1)
    while True:
        ample = [name for name in names if numbers[name] < (catalogue[name].count or math.inf)]
        grown = [
            name
            for name in ample
            if math.prod(numbers.values()) // numbers[name] * (numbers[name] + 1) <= chains
        ]
        if not grown:
            return {name: number for name, number in numbers.items() if number > 1} or dict.fromkeys(
                names[:1], 1
            )
        numbers[min(grown, key=lambda name: numbers[name])] += 1


def check_grid(catalogue: Catalogue, numbers: Any) -> None:
    """Check the numbers of values by parameter of a grid.

    Raises:
        UserError: a parameter is unknown, or has not that many values.
    """
    key = "search.method.parameters"
    if not isinstance(numbers, Mapping):
        raise UserError(
            f"{key}={numbers}: must be numbers of values by name, e.g. {{{next(iter(catalogue))}: 2}}"
        )
    if not numbers:
        raise UserError(
            f"{key}={{}}: has no parameter; name some with their numbers of values, "
            f"e.g. {{{next(iter(catalogue))}: 2}}, or give null"
        )
    for name, number in numbers.items():
        if name not in catalogue:
            raise UserError(f"{key}.{name}={number}: unknown parameter{suggestion(name, catalogue)}")
        most = catalogue[name].count or math.inf
        if not isinstance(number, int) or not 1 <= number <= most:
            raise UserError(
                f"{key}.{name}={number}: must be "
                + ("at least 1" if most == math.inf else f"from 1 to {most}, its number of values")
            )
