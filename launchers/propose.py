#!/usr/bin/env python
"""Asks an agent about a stage of a search, and starts nothing.

`python launchers/propose.py search_dir=runs/a node=0003 agent=openai ...`
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from llmzero.agents.base import AsksModel, Proposer
from llmzero.agents.endpoint import LlmSettings
from llmzero.agents.journal import CallJournal
from llmzero.agents.llm import LlmAgent
from llmzero.cli import launch
from llmzero.config import ProposeConfig
from llmzero.core.errors import UserError
from llmzero.core.settings import read
from llmzero.evidence.evidence import Evidence
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace, read_config


def run(config: ProposeConfig) -> None:
    """Print the agent's proposal for a child of `node`; with `dry_run=true` a language model's prompt."""
    session = Session.from_config(_of_search(config))
    store = EventStore(session.workspace.tree_file, repair=False)
    if config.node not in store.tree.nodes:
        raise UserError(
            f"node={config.node}: there is no such stage; there are {', '.join(store.tree.nodes)}"
        )
    evidence = session.evidence.for_proposal(
        store.tree, config.node, store.ledger.left(session.config.budget)
    )
    print(_prompt(session.proposer, evidence) if config.dry_run else _proposal(session, evidence))


def _of_search(config: ProposeConfig) -> SearchConfig:
    """Return the configuration that the search ran with, but for the agent and what is set of its model.

    Early stoppers are not asked, so there is none.
    """
    file = Workspace(Path(config.search_dir)).config_file
    if not file.is_file():
        raise UserError(f"search_dir={config.search_dir}: holds no search")
    stored = read_config(file)
    defaults = vars(LlmSettings())
    llm = {name: value for name, value in vars(config.llm).items() if value != defaults[name]}
    wanted = {
        "llm": stored.get("llm", {}) | llm,
        "agent": config.agent,
        "stopper": {"_target_": "llmzero.agents.stopper.NeverStop"},
        "search_dir": config.search_dir,
    }
    return read(SearchConfig, stored | wanted, "")


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
