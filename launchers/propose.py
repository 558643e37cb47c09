#!/usr/bin/env python
"""Asks an agent about a stage of a search, and starts nothing.

`python launchers/propose.py search_dir=runs/a node=0003 agent=openai ...`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmzero.agents.base import AsksModel, Proposer
from llmzero.agents.endpoint import LlmSettings
from llmzero.agents.journal import CallJournal
from llmzero.agents.llm import LlmAgent
from llmzero.cli import launch
from llmzero.config import ProposeConfig, checked
from llmzero.core.errors import UserError
from llmzero.evidence.evidence import Choice, Evidence
from llmzero.search.checks import check_stages
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.stored import refuse_foreign, stored_config
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace, read_search_config

NAMED = Choice("A user named it.")
# Settings of the language model that say whom to ask, with whose key, and which files to read and write.
REACHING = ("base_url", "api_key_env", "extra", "cassette", "cassette_dir", "prompts")


def run(config: ProposeConfig) -> None:
    """Print the agent's proposal for a child of `node`; with `dry_run=true` a language model's prompt."""
    file = Workspace(Path(config.search_dir)).config_file
    if not file.exists():
        raise UserError(f"search_dir={config.search_dir}: holds no search")
    stored = read_search_config(file)
    stored_config(file)
    of_search = _of_search(config, stored)
    try:
        session = Session.from_config(of_search)
    except UserError as error:
        raise _in_file(file, error) from error
    if session.models:
        _refuse_reaching(config, stored)
    store = EventStore(session.workspace.tree_file, repair=False)
    check_stages(store, session.catalogue, session.config.budget)
    if config.node not in store.tree.nodes:
        raise UserError(
            f"node={config.node}: there is no such stage; there are {', '.join(store.tree.nodes)}"
        )
    if store.tree[config.node].state == "withdrawn":
        raise UserError(
            f"node={config.node}: was withdrawn when it was proposed; name a stage that has begun"
        )
    if store.tree[config.node].state == "proposing":
        raise UserError(f"node={config.node}: is still being proposed; name a stage that has begun")
    left = store.ledger.left(session.config.budget)
    evidence = session.evidence.for_proposal(store.tree, config.node, left, choice=NAMED)
    print(_prompt(session.proposer, evidence) if config.dry_run else _proposal(session, evidence))


def _of_search(config: ProposeConfig, stored: Mapping[str, Any]) -> SearchConfig:
    """Return the configuration that the search ran with, but for the agent and what is set of its model.

    Early stoppers are not asked, so there is none.

    Raises:
        UserError: it names code that nobody said is to be trusted, or is wrong.
    """
    own = vars(config.llm)
    llm = {**stored.get("llm", {}), **_given(config)}
    if not config.trusted:
        llm |= {name: own[name] for name in REACHING}
    wanted = {
        "llm": llm,
        "agent": config.agent,
        "stopper": {"_target_": "llmzero.agents.stopper.NeverStop"},
        "search_dir": config.search_dir,
    }
    merged = {**stored, **wanted}
    where = f"search_dir={config.search_dir}: config.yaml"
    refuse_foreign(where, merged, asdict(config), trusted=config.trusted)
    try:
        return checked(SearchConfig, merged)
    except UserError as error:
        raise _in_file(Workspace(Path(config.search_dir)).config_file, error) from error


def _in_file(file: Path, error: UserError) -> UserError:
    return UserError(f"{file}, with this command's agent: {error}")


def _given(config: ProposeConfig) -> dict[str, Any]:
    """Return what the command sets of the language model."""
    defaults = vars(LlmSettings())
    return {name: value for name, value in vars(config.llm).items() if value != defaults[name]}


def _refuse_reaching(config: ProposeConfig, stored: Mapping[str, Any]) -> None:
    """Check that no endpoint is asked, no key sent and no file used that only the stored file names.

    Raises:
        UserError: the search's are others than the command's, and are not trusted; a prompt alone (`dry_run`)
            needs its templates only.
    """
    there = {**vars(LlmSettings()), **stored.get("llm", {}), **_given(config)}
    used = ("prompts",) if config.dry_run else REACHING
    other = [name for name in used if there[name] != getattr(config.llm, name)]
    if other and not config.trusted:
        raise UserError(
            f"{', '.join(f'llm.{name}' for name in other)}: other than this command's in the stored "
            f"configuration of search_dir={config.search_dir}; give them on the command line, "
            "or trusted=true to use what is stored there"
        )


def _prompt(agent: Proposer, evidence: Evidence) -> str:
    if not isinstance(agent, LlmAgent):
        raise UserError(
            "dry_run=true prints the prompt of a language model: give agent=openai llm.model=NAME"
        )
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in agent.prompt(evidence))


def _proposal(session: Session, evidence: Evidence) -> str:
    session.check_models()
    with TemporaryDirectory() as scratch:
        if isinstance(session.proposer, AsksModel):
            session.proposer.endpoint.connect(CallJournal(Path(scratch), lambda *_: None, (), lambda: None))
        return json.dumps(session.proposer.propose(evidence).to_dict(), indent=2)


if __name__ == "__main__":
    launch("propose", ProposeConfig, run)
