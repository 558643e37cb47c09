"""The files that a search makes of its event log: summary, strategy, rule and report."""

from __future__ import annotations

import time
from typing import Any

from llmzero.core.files import write_json
from llmzero.core.hparams import Catalogue
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.mirrors.report import write_report
from llmzero.mirrors.summary import summary_of
from llmzero.search.settings import SearchConfig
from llmzero.strategies.derive_rule import derive, transitions
from llmzero.strategies.rule import observables, write_rule
from llmzero.strategies.schedule import export_strategy
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace

SHARE = 0.1  # of a search's time that they may take while it runs
FIRST_AFTER_S = 0.5  # seconds after the beginning


class Outputs:
    """Rewrites the files of one search."""

    def __init__(
        self, config: SearchConfig, workspace: Workspace, catalogue: Catalogue, evidence: EvidenceBuilder
    ) -> None:
        self.config, self.workspace = config, workspace
        self.catalogue, self.evidence = catalogue, evidence
        self._due = time.monotonic() + FIRST_AFTER_S

    def refresh(self, store: EventStore) -> None:
        """Rewrite the files of a running search, unless that would take more than its share of the time."""
        began = time.monotonic()
        if began >= self._due:
            self.write(store, "running")
            self._due = began + (time.monotonic() - began) / SHARE

    def write(self, store: EventStore, state: str) -> dict[str, Any]:
        """Rewrite the files; return the summary.

        A rule is derived where the `state` is `finished`, not where it is `running` or `interrupted`.
        """
        name, agent = self.config.search.name, self.config.agent["name"]
        summary = summary_of(self.workspace, store, method=name, agent=agent, state=state)
        best = store.tree.best() if len(store.tree) else None
        if best is not None and best.parent_id is not None:
            source = {
                "search_id": summary["search_id"],
                "method": name,
                "agent": agent,
                "seed": self.config.seed,
            }
            scores = {"base_score": summary["base_score"], "score": best.score, "test": summary["test"]}
            export_strategy(
                self.workspace.strategy_file, store.tree, best, self.catalogue, {**source, **scores}
            )
            if state == "finished" and name != "replay":
                self._export_rule(store, source)
        if self.config.search.report:
            metrics = self.evidence.metric_catalogue
            live = state == "running"
            write_report(self.workspace.path, store, self.catalogue, metrics, summary, live=live)
        write_json(self.workspace.summary_file, summary, sync=False)  # the last: it says "finished" of all
        return summary

    def _export_rule(self, store: EventStore, source: dict[str, Any]) -> None:
        steps = transitions(store.tree, lambda node_id: self.evidence.of_ended(store.tree, node_id))
        counts = {"transitions": len(steps), "improved": sum(step.improved for step in steps)}
        clauses = derive(steps, self.catalogue, observables(self.evidence.metric_catalogue))
        write_rule(self.workspace.rule_file, clauses, {**source, **counts})
