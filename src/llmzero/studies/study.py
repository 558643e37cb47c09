"""Studies: a search for each row (a method or a strategy), task and seed, all checked beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from llmzero.cli import composed, explain
from llmzero.config import StudyConfig
from llmzero.core.documents import dump_yaml, is_whole
from llmzero.core.errors import UserError
from llmzero.core.files import remove_temporary, write_atomic
from llmzero.search.final_test import FAILED
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.outcomes import read_summary
from llmzero.tree.workspace import CHANGEABLE, differences, read_config, without_secrets

OWN_KEYS = ("seed", "search_dir", "dry_run")  # set for each cell: no override may
CHANGEABLE_CELLS = (*(key for key in CHANGEABLE if key not in ("budget", "runner")), "seed")
NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, eq=False)
class Pair:
    """A row on a task: the configuration that its cells share, but for seed and directory."""

    row: str
    task: str
    config: SearchConfig
    folder: Path

    def cell(self, seed: int) -> Cell:
        """Return the search of a seed."""
        return Cell(self, seed)

    def check(self, seeds: Sequence[int]) -> None:
        """Raise `UserError` where its cells cannot work, or the folder holds other searches."""
        session = Session.from_config(self.cell(seeds[0]).config)
        search = self.config.search
        for seed in seeds[1:]:
            session.runner.check([seed], session.catalogue, search.length, search.max_depth)
        session.check_sources()
        session.check_models()
        if self._config_file.exists() and (
            listed := differences(read_config(self._config_file), asdict(self.config), CHANGEABLE_CELLS)
        ):
            raise UserError(
                f"{self.folder} holds other searches: {listed}. "
                "Choose another study_dir, or give the same values"
            )

    def claim(self) -> None:
        """Write the configuration into the folder, so that a later command cannot mix other searches in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(self.folder)
        write_atomic(self._config_file, dump_yaml(without_secrets(asdict(self.config))))

    @property
    def _config_file(self) -> Path:
        return self.folder / "config.yaml"


@dataclass(frozen=True, eq=False)
class Cell:
    """One search of a study."""

    pair: Pair
    seed: int

    def __str__(self) -> str:
        return f"{self.pair.row} on {self.pair.task}, seed {self.seed}"

    @property
    def directory(self) -> Path:
        """Its search directory."""
        return self.pair.folder / f"seed-{self.seed}"

    @property
    def config(self) -> SearchConfig:
        """Its whole configuration."""
        return replace(self.pair.config, seed=self.seed, search_dir=str(self.directory))

    def summary(self) -> dict[str, Any] | None:
        """Return its summary; None while it has not finished."""
        summary = read_summary(self.directory)
        return summary if summary and summary["state"] == "finished" else None

    def failed(self) -> dict[str, str]:
        """Return which baselines of its final test failed, and why."""
        failed: dict[str, str] = ((self.summary() or {}).get("test") or {}).get(FAILED, {})
        return failed


@dataclass(frozen=True)
class Study:
    """Rows x tasks x seeds, in `directory`; made from the configuration of a launcher."""

    directory: Path
    pairs: Sequence[Pair]
    seeds: Sequence[int]

    @property
    def cells(self) -> list[Cell]:
        """All searches, seed by seed, so that an unfinished study has something of every row."""
        return [pair.cell(seed) for seed in self.seeds for pair in self.pairs]

    @property
    def unfinished(self) -> list[Cell]:
        """The searches that have not finished."""
        return [cell for cell in self.cells if cell.summary() is None]

    @property
    def failed(self) -> list[str]:
        """The searches of which a baseline failed: which, and why."""
        return [f"{cell}: {name}: {why}" for cell in self.cells for name, why in cell.failed().items()]

    @property
    def open(self) -> list[Cell]:
        """The searches that the next run carries on: unfinished ones, and those of a failed baseline."""
        return [cell for cell in self.cells if cell.summary() is None or cell.failed()]

    @property
    def rows(self) -> list[str]:
        """Their names, in the order of the configuration."""
        return list(dict.fromkeys(pair.row for pair in self.pairs))

    @property
    def tasks(self) -> list[str]:
        """Their names, in the order of the configuration."""
        return list(dict.fromkeys(pair.task for pair in self.pairs))


Compose = Callable[[str, Sequence[str]], SearchConfig]


def study_of(config: StudyConfig, group: str, compose_row: Compose) -> Study:
    """Check a launcher's configuration and each of its searches; nothing is computed or written.

    Args:
        config: the launcher's.
        group: its key that holds the rows.
        compose_row: composes a search from the name of a row and the overrides of all and of a task.

    Raises:
        UserError: something cannot work; the message names the row and the task.
    """
    rows = getattr(config, group)
    for key, named in ((group, rows), ("tasks", config.tasks)):
        _check_named(key, named, str if key == "strategies" else list)
    directory = Path(config.study_dir).absolute()
    seeds = _seeds(config.seeds)
    print(f"checking {len(rows)} {group} on {len(config.tasks)} tasks ...", flush=True)
    pairs = [
        Pair(
            row,
            task,
            _checked(f"{group}.{row} on tasks.{task}", compose_row, row, [*config.common, *overrides]),
            directory / task / row,
        )
        for task, overrides in config.tasks.items()
        for row in rows
    ]
    for pair in pairs:
        _checked(f"{group}.{pair.row} on tasks.{pair.task}", pair.check, seeds)
    return Study(directory, pairs, seeds)


def _checked(where: str, check: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a check returns; its error names the row and the task."""
    try:
        return check(*arguments)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{where}: {explain(error)}") from error


def search_config(overrides: Sequence[str]) -> SearchConfig:
    """Compose the configuration of a search. Of overrides of the same key the last one counts.

    Raises:
        UserError: an override sets what is a study's own.
    """
    last = {override.partition("=")[0]: override for override in overrides}
    if own := [key for key in OWN_KEYS if key in last]:
        raise UserError(f"{last[own[0]]}: the study gives every search its own {own[0]}; remove it")
    return composed("search", SearchConfig, [*last.values(), "search_dir=unset"])


def _check_named(key: str, named: Any, kind: type[str] | type[list[str]]) -> None:
    """Raise `UserError` unless these are names with overrides (a list), or with files (a text)."""
    example = "{NAME: ['KEY=VALUE']}" if kind is list else "{NAME: PATH}"
    if not isinstance(named, dict) or not named:
        raise UserError(
            f"{key}={named}: must be a mapping with an entry at least; "
            f"give {key}={example}, or, to compare, study=small"
        )
    for name, value in named.items():
        if not NAME.fullmatch(str(name)):
            raise UserError(
                f"{key}.{name}: names become directories, so they are of letters, digits and . _ + - alone"
            )
        if not isinstance(value, kind) or not all(isinstance(part, str) for part in value):
            raise UserError(f"{key}.{name}={value}: give {key}={example}")


def _seeds(value: Any) -> list[int]:
    """Return the seeds of a study: 0, 1, ... of a count, or those of a list."""
    seeds = list(range(value)) if is_whole(value, 1) else value
    valid = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if not valid or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={value}: must be how many, at least 1, or a list of different integers")
    return list(seeds)
