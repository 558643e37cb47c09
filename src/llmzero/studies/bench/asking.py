"""Puts a decision point to agents, and scores what each answers. Calls are kept, and are not made twice."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmzero.agents.base import AsksModel, Proposer
from llmzero.agents.journal import CallJournal, read_record
from llmzero.core.files import reading
from llmzero.core.redaction import redacted
from llmzero.core.shapes import NUMBER, require
from llmzero.core.text import visible_line
from llmzero.evidence.evidence import Evidence, Prediction
from llmzero.evidence.proposal import Proposal
from llmzero.runners.base import StageRunner
from llmzero.runners.tables.format import Path_
from llmzero.search.settings import SearchConfig
from llmzero.studies.bench.outcomes import Alternatives, Outcomes, Regret, nearest
from llmzero.studies.bench.points import DecisionPoint
from llmzero.studies.bench.staged import staged

Record = dict[str, Any]
RANDOM, UNCHANGED = "random", "unchanged"  # rows that the table answers exactly


class Bill:
    """What calls have cost, from any thread; `limit` in dollars ends them."""

    def __init__(self, limit: float | None) -> None:
        self.limit, self.dollars = limit, 0.0
        self._lock = threading.Lock()

    def charge(self, name: str, tokens: int, dollars: float) -> None:
        """Add a call."""
        with self._lock:
            self.dollars += dollars

    def spent(self) -> str | None:
        """Return the name of the limit that is reached, if it is."""
        return "dollars" if self.limit is not None and self.dollars >= self.limit else None


def _seconds(records: Mapping[Path, Record]) -> float:
    for file, record in records.items():
        with reading(file):
            require(record, {"seconds": NUMBER})
    return float(sum(record["seconds"] for record in records.values()))


@dataclass(frozen=True)
class Asked:
    """An agent of the bench.

    Attributes:
        name: in the results.
        agent: what proposes.
        calls: the folder of its calls, by point.
    """

    name: str
    agent: Proposer
    calls: Path

    def propose(self, point: DecisionPoint, evidence: Evidence, bill: Bill) -> tuple[Proposal, Record]:
        """Return the answer to a point, and facts of the calls: how many failed, and their seconds.

        What failed is forgotten, so that the next run of the command asks again.
        """
        if not isinstance(self.agent, AsksModel):
            return self.agent.propose(evidence), {"calls": 0, "failed": 0, "seconds": 0.0}
        nodes, agent = self.calls / point.name, copy(self.agent)
        paid = {f"{file.parent.parent.name}/{file.stem}" for file in nodes.glob("*/calls/*.json")}
        agent.endpoint = self.agent.endpoint.connected(CallJournal(nodes, bill.charge, paid, bill.spent))
        proposal = agent.propose(evidence)
        files = sorted(nodes.glob("*/calls/*.json"))
        records = {file: record for file in files if (record := read_record(file)) is not None}
        failed = [file for file, record in records.items() if record["error"]]
        facts: Record = {"calls": len(records), "failed": len(failed), "seconds": _seconds(records)}
        for file in failed:
            file.unlink()
        if failed:
            facts["error"] = visible_line(redacted(str(records[failed[-1]]["error"])))[:300]
        return proposal, facts

    def settle(self, bill: Bill) -> None:
        """Charge what an earlier run of the command has paid."""
        for file in self.calls.glob("*/*/calls/*.json"):
            if record := read_record(file):
                bill.charge(file.stem, 0, record["dollars"])


@dataclass(frozen=True)
class Ground:
    """A table on which points lie: what is the same for all of them.

    Attributes:
        config: of a search on it.
        runner: of such searches.
        outcomes: of its stages.
        agents: who is asked.
    """

    config: SearchConfig
    runner: StageRunner
    outcomes: Outcomes
    agents: Sequence[Asked]


def answers(point: DecisionPoint, ground: Ground, bill: Bill) -> list[Record]:
    """Return what agents answer at a point, scored; and what a random choice and none would come to."""
    alternatives, agents = Alternatives(point, ground.outcomes), ground.agents
    rows = [_row(RANDOM, alternatives, alternatives.expected()), unchanged(alternatives)]
    with staged(point, ground.config, ground.runner) as search:
        asked = [(each, *each.propose(point, search.evidence, bill)) for each in agents]
        chosen = [(_chosen(point, proposal), proposal) for _, proposal, _ in asked]
        made = [(path, proposal) for (path, _), proposal in chosen if path is not None]
        came = dict(zip((id(proposal) for _, proposal in made), search.outcomes(made), strict=True))
    for (each, proposal, facts), ((path, exact), _) in zip(asked, chosen, strict=True):
        regret = alternatives.expected(point.others[0]) if path is None else alternatives.regret(path)
        rows.append(
            _row(each.name, alternatives, regret)
            | _said(proposal, path, exact, facts, each.agent)
            | _foresight(came.get(id(proposal)))
        )
    return rows


def unchanged(alternatives: Alternatives) -> Record:
    """Return what training on unchanged would come to; where that was tried before, a random choice."""
    point = alternatives.point
    path = (*point.parent, point.table.number(_present(point, point.parent)) or 0)
    tried = path in point.stages
    regret = alternatives.expected() if tried else alternatives.regret(path)
    return _row(UNCHANGED, alternatives, regret) | {"path": None if tried else list(path), "tried": tried}


def _present(point: DecisionPoint, path: Path_) -> dict[str, Any]:
    return point.table.configurations[path[-1]] if path else point.table.catalogue.defaults()


def _chosen(point: DecisionPoint, proposal: Proposal) -> tuple[Path_ | None, bool]:
    """Return the stage of the table that an answer means, and whether it is exactly that; None closes."""
    if proposal.action == "close" and point.others:
        return None, True
    parents = {point.node_id(path): path for path in point.others}
    parent = parents.get(proposal.parent or "", point.parent)
    number, exact = nearest(point.table, {**_present(point, parent), **proposal.changes})
    return (*parent, number), exact


def _row(name: str, alternatives: Alternatives, regret: Regret) -> Record:
    chance = alternatives.expected()
    point = alternatives.point
    return {
        "agent": name,
        "point": point.name,
        "task": point.table.file.name.partition("-")[0],
        "depth": len(point.parent) + 1,
        "answered": True,
        "regret": asdict(regret),
        "chance": asdict(chance),
    }


def _said(proposal: Proposal, path: Path_ | None, exact: bool, facts: Record, agent: Proposer) -> Record:
    """Return what an answer is, whatever comes of it."""
    return {
        "answered": not facts["failed"],
        "action": proposal.action,
        "elsewhere": proposal.parent is not None,
        "path": None if path is None else list(path),
        "exact": exact,
        "validity": _validity(proposal, agent),
        "tokens": proposal.tokens,
        "dollars": proposal.dollars,
        "notes": list(proposal.notes),
        **facts,
    }


def _validity(proposal: Proposal, agent: Proposer) -> str:
    """Return whether an answer was valid at first, after a repair, in part, or never."""
    if isinstance(agent, AsksModel) and proposal.agent != agent.endpoint.model:
        return "never"
    if proposal.notes:
        return "part"
    return "repaired" if proposal.calls > 1 else "first"


def _foresight(came: Prediction | None) -> Record:
    """Return what was expected beside what came; nothing where nothing was expected."""
    return {} if came is None else {"expected": asdict(came)}
