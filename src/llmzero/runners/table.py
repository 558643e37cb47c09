"""Stages that are answered from a table: real training that was done before, searched in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.core.length import Length
from llmzero.core.settings import REQUIRED, setting
from llmzero.core.stage import StageSpec
from llmzero.runners.simulated import ClockedRunner
from llmzero.runners.tables.format import Table, known_tables, read_table, table_file
from llmzero.runners.tables.stage import TableStage

SLACK = 0.01  # of a stage: replays are sized by what stages came to, which is their length but for rounding


@dataclass
class TableRunnerSettings:
    """`runner=table`."""

    table: str = setting(REQUIRED, "a tree of benchmarks/tables as NAME or NAME-SEED, or a file")


class TableRunner(ClockedRunner):
    """Runs stages of a table on a simulated clock: they take the device seconds that they took in reality."""

    any_length = False  # paths end where those of the table do
    exact = False  # a stage ends with the validation nearest to its length

    def __init__(self, settings: TableRunnerSettings) -> None:
        super().__init__()
        self.settings = settings
        self._tables: dict[Path, Table] = {}

    def table(self, seed: int) -> Table:
        """Return the tree of a seed.

        Raises:
            UserError: there is none.
        """
        file = table_file(self.settings.table, seed)
        if file not in self._tables:
            self._tables[file] = read_table(file)
        return self._tables[file]

    def check(self, seeds: Sequence[int], catalogue: Catalogue, length: Length, depth: int) -> None:
        """Refuse a search that asks for what a table has not; its own seed comes first, then fresh ones."""
        wanted = self.settings.table
        for seed in seeds[1:]:
            if table_file(wanted, seed) == table_file(wanted, seeds[0]):
                raise UserError(
                    f"table={wanted}: is one tree, and has no stages of a fresh seed {seed}; set "
                    f"search.confirm_seeds=0, or name another table: {known_tables()}"
                )
        for table in map(self.table, seeds):
            name, own = table.file.name, table.length
            if catalogue.keys() != table.catalogue.keys():
                raise UserError(
                    f"hparams: {name} has {', '.join(table.catalogue)}; leave hparams to runner=table"
                )
            for key, theirs in table.catalogue.items():
                choices = catalogue[key].choices
                if choices is None or any(theirs.problem(value) for value in choices):
                    raise UserError(
                        f"hparams.parameters.{key}: {name} has {theirs.allowed}; leave it to runner=table"
                    )
            each = 1.0  # of the table's stages
            if (length.steps is None) == (own.steps is None):
                each = (length.steps or length.flops or 0) / (own.steps or own.flops or 1)
            if depth * each > table.depth + SLACK:
                raise UserError(
                    f"search.max_depth={depth}: {name} has paths of {table.depth} stages of {own}, and "
                    f"{depth} of {length} were asked for; leave depth and length to runner=table"
                )

    def _training(self, spec: StageSpec) -> TableStage:
        return TableStage(spec, self.table(spec.seed))
