"""The search directory: its files, one driver at a time, and the check that it belongs to the search."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmzero.core.documents import dump_yaml, read_yaml
from llmzero.core.errors import UserError
from llmzero.core.files import make_private, reading, remove_temporary, write_atomic
from llmzero.core.locations import refuse_links_out
from llmzero.core.redaction import masked
from llmzero.core.settings import path_argument
from llmzero.core.shapes import NOTHING, Shape, require
from llmzero.tree.lease import Lease
from llmzero.tree.upgrade import upgraded

ENDPOINT = (
    *("base_url", "api_key_env", "timeout_s", "retries", "max_at_once", "price_input", "price_output"),
    *("breaker_failures", "breaker_pause_s"),
)
# Keys that may differ when a search is continued: they change how much is done and where, not what the search
# is.
CHANGEABLE = (
    *("budget", "tracking", "dry_run", "search_dir", "runner", "model.cache_dir"),
    *(
        "search.workers",
        "search.confirm_seeds",
        "search.confirm_top",
        "search.test_incumbents",
        "search.test_constant",
        "search.prefetch",
        "search.report",
    ),
    *(f"llm.{key}" for key in ENDPOINT),
)

_PART: Shape = {"_target_?": (NOTHING, str)}
GROUPS: Shape = {  # of a search's configuration, and what is read of them
    "hparams": {"parameters": dict},
    **dict.fromkeys(("task", "model", "rollout"), (NOTHING, _PART)),
    **dict.fromkeys(("runner", "stopper", "tracking?"), _PART),
    "agent": {"_target_?": (NOTHING, str), "name": (NOTHING, str)},
    "search": {"name": str, "method": _PART},
    "metrics": {"metrics": dict},
    **dict.fromkeys(("algorithm", "trainer"), (NOTHING, dict)),
    "seed": int,
    "llm?": dict,
}


class Workspace:
    """Paths of a search directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes = path / "nodes"
        self.test = path / "test"
        self.confirm = path / "confirm"
        self.fixed = path / "fixed"
        self.pilots = path / "pilots"
        self.config_file = path / "config.yaml"
        self.tree_file = path / "tree.jsonl"
        self.summary_file = path / "summary.json"
        self.test_file = path / "test.json"
        self.confirmation_file = path / "confirmation.json"
        self.strategy_file = path / "strategy.yaml"
        self.rule_file = path / "rule.yaml"
        self.report_file = path / "report.html"
        self.lease_file = path / "driver.json"  # who drives the search
        self.stop_file = path / "stop"  # its presence asks the driver to end the search

    @contextmanager
    def opened(self, config: dict[str, Any]) -> Iterator[None]:
        """Hold the directory for one driver; write `config.yaml`, or check that it is this search's.

        Raises:
            UserError: the directory cannot be written, holds another search, or has a driver already.
        """
        try:
            make_private(self.path)  # it will hold transcripts, and pickles that a stage's process loads
            self.nodes.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"search_dir={self.path}: cannot be written ({error.strerror}); choose another search_dir"
            ) from error
        with Lease(self.lease_file).held():
            for directory in (self.nodes, self.test, self.confirm, self.fixed, self.pilots):
                refuse_links_out(directory, self.path)
            remove_temporary(self.path)
            self.stop_file.unlink(missing_ok=True)
            if self.config_file.exists():
                self.check_identity(config)
            write_atomic(self.config_file, dump_yaml(without_secrets(config)))
            yield

    def check_identity(self, config: dict[str, Any]) -> None:
        """Raise `UserError` where the directory holds a search with another configuration."""
        listed = differences(read_config(self.config_file), config)
        if listed:
            raise UserError(
                f"search_dir={self.path} holds another search: {listed}. "
                "Choose another search_dir, or give the same values, "
                f"which {self.config_file} has" + _without_tunables(listed)
            )


def workspace_argument(description: str) -> Workspace:
    """Return the search directory that is the command's one argument; `--help` prints the description."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("search_dir", type=path_argument, help="the directory of a search")
    workspace = Workspace(parser.parse_args().search_dir.absolute())
    if not workspace.config_file.exists():
        parser.error(f"{workspace.path} holds no search")
    return workspace


def read_config(path: Path) -> dict[str, Any]:
    """Return a configuration that was written as YAML, by this version or an earlier one.

    Raises:
        DamagedFileError: it is none.
    """
    config = read_yaml(path)
    with reading(path):
        return upgraded(config)


def read_search_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a search, of which all groups are there.

    Raises:
        DamagedFileError: it is something else.
    """
    config = read_config(path)
    with reading(path):
        require(config, GROUPS)
    return config


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as files keep it: with secrets for language models masked."""
    llm = config.get("llm")
    if not isinstance(llm, Mapping) or "extra" not in llm:
        return dict(config)
    return {**config, "llm": {**llm, "extra": masked(llm["extra"])}}


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], changeable: Collection[str] = CHANGEABLE
) -> str:
    """Return the first keys, with their values, that differ and may not; nothing where there are none.

    A group that the stored configuration lacks altogether is of a later version than it, and no difference;
    so is a metric, and what the catalogue tells of exploration. Secrets are none either: files do not keep
    them.
    """
    there = _flat(without_secrets(stored), changeable)
    present = {key: value for key, value in wanted.items() if key in stored}
    here = _flat(without_secrets(present), changeable)
    recorded = (stored.get("metrics") or {}).get("metrics") or {}
    different = [
        key
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
        and (not key.startswith("metrics.metrics.") or key.split(".")[2] in recorded)
        and not (key.startswith("hparams.parameters.") and key.endswith(".explores"))
    ]
    return "; ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in different[:5])


def _without_tunables(listed: str) -> str:
    """Return how to do without tunables that a search was begun without: the catalogue has new ones since."""
    new = re.findall(r"hparams\.parameters\.(\w+)\.group is None there", listed)
    return "".join(f"; ~hparams.parameters.{name} goes on without {name}" for name in dict.fromkeys(new))


def _flat(config: Mapping[str, Any], changeable: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys and values, without those that may change."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in changeable:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, changeable, f"{name}.")
        else:
            flat[name] = value
    return flat
