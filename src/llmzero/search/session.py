"""From a composed configuration to a finished search: the one place where the parts are put together."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmzero.agents.base import AsksModel, EarlyStopper, Proposer
from llmzero.agents.journal import CallJournal
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import metric_catalogue
from llmzero.core.parts import make
from llmzero.evidence.evidence import Evidence, EvidenceBuilder
from llmzero.evidence.proposal import Proposal
from llmzero.mirrors.display import Display
from llmzero.mirrors.report import write_report
from llmzero.mirrors.results import write_summary
from llmzero.runners.base import StageRunner
from llmzero.search.confirm import Confirmation
from llmzero.search.driver import Driver, Plan
from llmzero.search.final_test import FinalTest
from llmzero.search.methods.base import MethodContext, SearchMethod
from llmzero.search.settings import SearchConfig
from llmzero.strategies.derive_rule import derive, transitions
from llmzero.strategies.rule import write_rule
from llmzero.strategies.schedule import export_strategy
from llmzero.tree.budget import Budget, Ledger
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree
from llmzero.tree.workspace import Workspace

TRACKING_TIMEOUT_S = 60.0
MIRROR_SHARE = 0.1  # of the time of a search that summary, strategy and report may take
FIRST_MIRROR_S = 0.5  # after the beginning
HIDDEN_KEYS = (
    "_target_",
    "cache_dir",
    "test_size",
    "seed",
)  # of a stage's configuration: of no use to an agent, or of the test split


@dataclass
class Session:
    """A search, checked and ready to run. Making one reads and imports, but computes and writes nothing."""

    config: SearchConfig
    workspace: Workspace
    catalogue: Catalogue
    runner: StageRunner
    stopper: EarlyStopper
    proposer: Proposer
    tracking: Any
    budget: Budget
    confirms: bool = (
        False  # another search, which has a practitioner's configuration to compare with and tells the end
    )
    _ledger: Ledger = field(default_factory=Ledger, init=False)
    _mirror_due: float = field(default_factory=lambda: time.monotonic() + FIRST_MIRROR_S, init=False)

    def __post_init__(self) -> None:
        self.method = self._method()  # refuses settings that it cannot work with

    @classmethod
    def from_config(cls, config: SearchConfig) -> Session:
        """Build the parts of a configuration and check that they fit together.

        Raises:
            UserError: something in it cannot work.
        """
        catalogue = config.catalogue
        session = cls(
            config=config,
            workspace=Workspace(Path(config.search_dir).absolute()),
            catalogue=catalogue,
            runner=make(config.runner, "runner", workers=config.search.workers),
            stopper=make(config.stopper, "stopper", llm=config.llm, audit_fraction=None),
            proposer=make(config.agent, "agent", name=None, llm=config.llm, catalogue=catalogue),
            tracking=make(config.tracking, "tracking"),
            budget=config.budget,
        )
        session.check_parts()
        return session

    def run(self) -> dict[str, Any]:
        """Search, test, report; return the summary. A search that is over already is not run again."""
        with self.workspace.opened(asdict(self.config)):
            store = EventStore(self.workspace.tree_file, durable=not self.runner.repeatable)
            self._ledger = store.ledger
            display = Display(self.workspace, self.budget, self.config.search.workers, self.agent_name)
            self.tracking.start(self.workspace.path)
            self._connect(store)
            try:
                self._search(store, display)
                self._confirm(store, display)
            except BaseException:
                self._mirror(store, "interrupted")
                raise
            summary = self._mirror(store, "finished")
            if not self.confirms:
                display.finish(store, summary)
            self.tracking.finish(TRACKING_TIMEOUT_S)
            return summary

    @property
    def agent_name(self) -> str:
        """The agent's name in the configuration."""
        return str(self.config.agent["name"])

    def _search(self, store: EventStore, display: Display) -> None:
        driver = self._driver(store, display)
        with display.live(store):
            driver.run()
            incumbents = self.config.search.test_incumbents
            if not store.ended or (
                incumbents and "trajectory" not in (read_json(self.workspace.test_file) or {})
            ):
                self._mirror_in_passing(store)
                compared = "base and best" if self.confirms else "base, practitioner and best"
                display.say(f"Testing {compared} strategy on the test split (never read before) ...")
                config = self.config.stage_groups
                test = FinalTest(
                    self.workspace, store, self.runner, config, self.catalogue.defaults(), self.config.seed
                )
                test.run(practitioner=not self.confirms, incumbents=incumbents)
                driver.end()

    def _confirm(self, store: EventStore, display: Display) -> None:
        """Run the best strategies and the practitioner's configuration on fresh seeds, where that is wanted."""
        if self.config.search.confirm_seeds:
            self._mirror(store, "running")
            Confirmation(self.workspace, store, self.catalogue, self.config, _replay, display.say).run()

    def _method(self) -> SearchMethod:
        """Make the search method, whose proposals know what is left of the budget."""
        search, evidence = self.config.search, self.evidence

        def facts(tree: Tree, node_id: str) -> Evidence:
            return evidence.for_proposal(tree, node_id, self._ledger.left(self.budget))

        def propose(tree: Tree, node_id: str) -> Proposal:
            return self.proposer.propose(facts(tree, node_id))

        context = MethodContext(
            catalogue=self.catalogue,
            propose=propose,
            max_depth=search.max_depth,
            seed=self.config.seed,
            proposer=self.proposer,
            evidence=facts,
            directory=self.workspace.path,
            stages=self.budget.stages,
            workers=search.workers,
        )
        method: SearchMethod = make(search.method, "search.method", context=context)
        return method

    def _driver(self, store: EventStore, display: Display) -> Driver:
        search, seed = self.config.search, self.config.seed
        finished = len(store.trajectory)

        def on_change(driver: Driver) -> None:
            nonlocal finished
            display.update(
                store,
                {node_id: running.status for node_id, running in driver.running.items()},
                driver.elapsed,
            )
            if len(store.trajectory) != finished:
                finished = len(store.trajectory)
                self._mirror_in_passing(store)

        return Driver(
            workspace=self.workspace,
            store=store,
            method=self.method,
            runner=self.runner,
            stopper=self.stopper,
            evidence=self.evidence,
            budget=self.budget,
            plan=Plan(
                search.stage_steps,
                search.workers,
                seed,
                self.config.stage_groups,
                self.config.stopper.get("audit_fraction") or 0.0,
            ),
            root_hparams=self.catalogue.defaults(),
            on_change=on_change,
        )

    @property
    def evidence(self) -> EvidenceBuilder:
        """What gathers evidence for agents."""
        metrics = metric_catalogue(self.config.metrics["metrics"])
        return EvidenceBuilder(
            self.workspace.nodes, self.catalogue, metrics, self.config.seed, setting(self.config)
        )

    def check_parts(self) -> None:
        """Raise `UserError` where the groups do not fit together."""
        config, budget = self.config, self.budget.limits
        runner = str(config.runner["_target_"]).rsplit(".", 1)[-1]
        for group, part in (("task", config.task), ("model", config.model)):
            if self.runner.trains and part.get("_target_") is None:
                raise UserError(
                    f"{group}=none: {runner} trains, so it needs a {group}; name one, or use runner=simulated"
                )
        shared = (config.rollout or {}).get("tensor_parallel", 1)
        if self.runner.trains and self.runner.processes_per_node % shared:
            raise UserError(
                f"rollout.tensor_parallel={shared}: must divide the {self.runner.processes_per_node} processes that "
                f"{runner} starts on a node; set its GPUs or processes"
            )
        if (
            "llm_dollars" in budget
            and self._models()
            and None in (config.llm.price_input, config.llm.price_output)
        ):
            raise UserError(
                "budget.llm_dollars: needs llm.price_input and llm.price_output, in dollars a million tokens"
            )
        if (config.trainer or {}).get("evaluation_split") == "test":
            raise UserError(
                "trainer.evaluation_split=test: a search selects on val; test is read once, at its end"
            )

    def check_models(self) -> None:
        """Check the set-up of agents that are language models, with the evidence that there is before anything ran.

        Raises:
            UserError: a key is missing, nobody answers, a prompt template is broken or does not fit its budget.
        """
        tree = Tree()
        tree.add(Node(ROOT, None, 0, self.catalogue.defaults(), 0, None, {}))
        for agent in self._models():
            agent.check(self.evidence.for_proposal(tree, ROOT, Ledger().left(self.budget)))
            agent.endpoint.check()

    def _models(self) -> list[AsksModel]:
        """Return the agents that call a language model."""
        return [agent for agent in (self.proposer, self.stopper) if isinstance(agent, AsksModel)]

    def _connect(self, store: EventStore) -> None:
        """Have the calls of language models stored beside their nodes and charged, those too whose driver was killed before it could."""

        def charge(name: str, tokens: int, dollars: float) -> None:
            store.append("llm_call", name=name, tokens=tokens, dollars=dollars)

        def spent() -> str | None:
            return next(iter(store.ledger.spent_llm_limits(self.budget)), None)

        journal = CallJournal(self.workspace.nodes, charge, store.llm_calls, spent)
        models = self._models()
        if models:
            journal.settle()
        for agent in models:
            agent.endpoint.connect(journal)

    def _mirror_in_passing(self, store: EventStore) -> None:
        """Mirror, unless that would take more than its share of the time."""
        began = time.monotonic()
        if began >= self._mirror_due:
            self._mirror(store, "running")
            self._mirror_due = began + (time.monotonic() - began) / MIRROR_SHARE

    def _mirror(self, store: EventStore, state: str) -> dict[str, Any]:
        """Rewrite everything that is made from the log: summary, strategy, report."""
        name = self.config.search.name
        summary = write_summary(self.workspace, store, method=name, agent=self.agent_name, state=state)
        best = store.tree.best() if len(store.tree) else None
        if best is not None and best.parent_id is not None:
            provenance = {
                "search_id": summary["search_id"],
                "method": name,
                "agent": self.agent_name,
                "seed": self.config.seed,
                "base_score": summary["base_score"],
                "score": best.score,
                "test": summary["test"],
            }
            export_strategy(self.workspace.strategy_file, store.tree, best, self.catalogue, provenance)
            if state == "finished" and name != "replay":
                self._export_rule(store, provenance)
        if self.config.search.report:
            write_report(self.workspace.path, store, self.catalogue, live=state == "running")
        return summary

    def _export_rule(self, store: EventStore, provenance: dict[str, Any]) -> None:
        evidence = self.evidence
        steps = transitions(store.tree, lambda node_id: evidence.of_ended(store.tree, node_id))
        known = {name: provenance[name] for name in ("search_id", "method", "agent", "seed")}
        known |= {"transitions": len(steps), "improved": sum(step.improved for step in steps)}
        write_rule(self.workspace.rule_file, derive(steps, self.catalogue), known)


def _replay(config: SearchConfig) -> dict[str, Any]:
    """Run a replay that confirms another search; return its summary."""
    return replace(Session.from_config(config), confirms=True).run()


def setting(config: SearchConfig) -> dict[str, str]:
    """Return what is trained and how, for agents: task, model and objective, and the shape of the search."""
    search, parts = config.search, {}
    for group, values in (("task", config.task), ("model", config.model), ("algorithm", config.algorithm)):
        shown = {
            key: value
            for key, value in (values or {}).items()
            if isinstance(value, str | int | float) and key not in HIDDEN_KEYS
        }
        target = str((values or {}).get("_target_") or "").rsplit(".", 1)[-1]
        parts[group] = (
            " ".join([target, *(f"{key}={value}" for key, value in shown.items())]).strip() or "none"
        )
    parts["search"] = (
        f"stages of {search.stage_steps} steps, paths of up to {search.max_depth} stages, {search.workers} stages at a time"
    )
    return parts
