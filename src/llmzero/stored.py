"""Configurations that directories keep: they may come from anybody, so what names code in them is checked.

Nothing is imported because a file says so: classes and functions are those of this package, or those that the
command's own configuration names, unless the user trusts the directory.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmzero.config import PARTS
from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import RESTORE
from llmzero.core.parts import make
from llmzero.core.settings import read
from llmzero.core.text import visible_line
from llmzero.grpo.settings import LOSSES
from llmzero.runners.base import ENTRY_POINT, StageRunner
from llmzero.search.settings import SearchConfig
from llmzero.tasks.verifiers import GUARDED, QUICK
from llmzero.tree.workspace import read_search_config

log = logging.getLogger(__name__)

# Our classes that `PARTS` has no schema of, by what the names of schemas of such parts begin with.
OTHERS: Mapping[str, Collection[str]] = {
    "method": (
        "llmzero.search.methods.agent_chain.AgentChain",
        "llmzero.search.methods.greedy.Greedy",
        "llmzero.search.methods.practitioner.Practitioner",
        "llmzero.search.methods.replay.ReplayMethod",
        "llmzero.search.methods.ruled.RuledChain",
    ),
    "stopper": ("llmzero.agents.stopper.NeverStop",),
    "tracking": ("llmzero.mirrors.tracking.NoTracking",),
}
# Groups whose `_target_` is imported, each with that beginning.
GROUPS = {
    **{name: name for name in ("task", "model", "rollout", "agent", "stopper", "runner", "tracking")},
    "search.method": "method",
}
# Settings that name a function or a loss by its import path, and what stands for one of ours.
PATHS: Mapping[str, Collection[str]] = {
    "runner.entry_point": (ENTRY_POINT,),
    "algorithm.loss": LOSSES,
    "task.verifier": (*QUICK, *GUARDED),
}


def stored_config(file: Path) -> SearchConfig:
    """Return the configuration that a search directory keeps.

    Raises:
        UserError: it is not one that this version understands.
    """
    config = read_search_config(file)
    try:
        search = read(SearchConfig, config, "")
        search.catalogue, search.metric_catalogue, search.budget.limits  # noqa: B018 - these are checked
        return search
    except UserError as error:
        raise DamagedFileError(file, error, RESTORE) from error


def runner_of(config: SearchConfig, directory: Path) -> StageRunner | None:
    """Return the runner of the configuration that a search directory keeps.

    None, with a warning, where it is not one of ours.
    """
    problems = list(_foreign_targets({"runner": config.runner}, {}))
    try:
        if not problems:
            runner: StageRunner = make(
                config.runner, "runner", workers=config.search.workers, directory=directory
            )
            return runner
    except UserError as error:
        problems = str(error).splitlines()
    log.warning("the search's runner is not asked: %s", visible_line("; ".join(problems)))
    return None


def refuse_foreign(where: str, stored: Mapping[str, Any], own: Mapping[str, Any], *, trusted: bool) -> None:
    """Check what a stored configuration names.

    Args:
        where: the key that names its directory, with its value.
        stored: the configuration, or the part of it that will be used.
        own: the command's configuration, which may name any code.
        trusted: whether the user trusts the directory; nothing is refused then.

    Raises:
        UserError: it names code that is neither ours nor named by `own`.
    """
    problems = [*_foreign_targets(stored, own), *_foreign_paths(stored, own)]
    if problems and not trusted:
        raise UserError(
            "\n  ".join([f"{where}: what is stored there names code from outside:", *problems])
            + "\nname the same on the command line, or give trusted=true to import it"
        )


def _foreign_targets(stored: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """Yield every group whose class is neither ours nor named by the command's own configuration."""
    for where, kind in GROUPS.items():
        target = value_at(stored, f"{where}._target_")
        ours = [path for name, (path, _) in PARTS.items() if name.startswith(f"{kind}_")]
        if target not in (None, value_at(own, f"{where}._target_"), *ours, *OTHERS.get(kind, ())):
            yield _not_ours(f"{where}._target_", target)


def _foreign_paths(stored: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """Yield every import path among the settings that is neither ours nor in the command's own."""
    for where, names in PATHS.items():
        path = value_at(stored, where)
        if path not in (None, value_at(own, where), *names):
            yield _not_ours(where, path)


def _not_ours(where: str, value: Any) -> str:
    return f"{where}={visible_line(str(value))[:200]}: is none of this program"


def value_at(config: Mapping[str, Any], where: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    value: Any = config
    for key in where.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
