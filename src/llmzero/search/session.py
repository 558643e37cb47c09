"""From a composed configuration to a finished search: the one place where the parts are put together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from llmzero.agents.base import AsksModel, EarlyStopper, Proposer
from llmzero.agents.journal import CallJournal
from llmzero.agents.rule_file import RuleFileAgent
from llmzero.config import catalogue_of, check_ranges, stage_config
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import metric_catalogue
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
UNTOLD = (
    "_target_",
    "cache_dir",
    "test_size",
    "seed",
)  # of a stage's configuration: of no use to an agent, or of the test split


@dataclass
class Session:
    """A search, checked and ready to run. Making one reads and imports, but computes and writes nothing."""

    config: dict[str, Any]
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
    def from_config(cls, config: dict[str, Any]) -> Session:
        """Check a resolved configuration and build the parts.

        Raises:
            UserError: something in it cannot work.
        """
        check_ranges(config)
        check_parts(config)
        catalogue = catalogue_of(config)
        proposer = _instance(config["agent"], "name")
        if isinstance(proposer, RuleFileAgent):
            proposer.read(catalogue)
        return cls(
            config=config,
            workspace=Workspace(Path(config["search_dir"]).absolute()),
            catalogue=catalogue,
            runner=_instance(config["runner"]),
            stopper=_instance(config["stopper"], "audit_fraction"),
            proposer=proposer,
            tracking=_instance(config["tracking"]),
            budget=Budget.from_config(config["budget"]),
        )

    def run(self) -> dict[str, Any]:
        """Search, test, report; return the summary. A search that is over already is not run again."""
        with self.workspace.opened(self.config):
            store = EventStore(
                self.workspace.tree_file, durable=not getattr(self.runner, "repeatable", False)
            )
            self._ledger = store.ledger
            display = Display(self.workspace, self.budget, self.config["search"]["workers"], self.agent_name)
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
        return str(self.config["agent"]["name"])

    def _search(self, store: EventStore, display: Display) -> None:
        driver = self._driver(store, display)
        with display.live(store):
            driver.run()
            incumbents = self.config["search"]["test_incumbents"]
            if not store.ended or (
                incumbents and "trajectory" not in (read_json(self.workspace.test_file) or {})
            ):
                self._mirror_in_passing(store)
                compared = "base and best" if self.confirms else "base, practitioner and best"
                display.say(f"Testing {compared} strategy on the test split (never read before) ...")
                config = self.stage_config
                test = FinalTest(
                    self.workspace, store, self.runner, config, self.catalogue.defaults(), self.config["seed"]
                )
                test.run(practitioner=not self.confirms, incumbents=incumbents)
                driver.end()

    def _confirm(self, store: EventStore, display: Display) -> None:
        """Run the best strategies and the practitioner's configuration on fresh seeds, where that is wanted."""
        if self.config["search"]["confirm_seeds"]:
            self._mirror(store, "running")
            Confirmation(self.workspace, store, self.catalogue, self.config, _replay, display.say).run()

    def _method(self) -> SearchMethod:
        """Make the search method, whose proposals know what is left of the budget."""
        search, evidence = self.config["search"], self.evidence

        def facts(tree: Tree, node_id: str) -> Evidence:
            return evidence.for_proposal(tree, node_id, self._ledger.left(self.budget))

        def propose(tree: Tree, node_id: str) -> Proposal:
            return self.proposer.propose(facts(tree, node_id))

        context = MethodContext(
            catalogue=self.catalogue,
            propose=propose,
            max_depth=search["max_depth"],
            seed=self.config["seed"],
            proposer=self.proposer,
            evidence=facts,
            directory=self.workspace.path,
            stages=self.budget.stages,
            workers=search["workers"],
        )
        method: SearchMethod = _maker(search["method"])(context=context)
        return method

    def _driver(self, store: EventStore, display: Display) -> Driver:
        search, seed = self.config["search"], self.config["seed"]
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
                search["stage_steps"],
                search["workers"],
                seed,
                self.stage_config,
                self.config["stopper"].get("audit_fraction", 0.0),
            ),
            root_hparams=self.catalogue.defaults(),
            on_change=on_change,
        )

    @property
    def evidence(self) -> EvidenceBuilder:
        """What gathers evidence for agents."""
        metrics = metric_catalogue(self.config["metrics"]["metrics"])
        return EvidenceBuilder(
            self.workspace.nodes, self.catalogue, metrics, self.config["seed"], setting(self.config)
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

    @property
    def stage_config(self) -> dict[str, Any]:
        """The part of the configuration that a stage needs."""
        return stage_config(self.config)

    def _mirror_in_passing(self, store: EventStore) -> None:
        """Mirror, unless that would take more than its share of the time."""
        began = time.monotonic()
        if began >= self._mirror_due:
            self._mirror(store, "running")
            self._mirror_due = began + (time.monotonic() - began) / MIRROR_SHARE

    def _mirror(self, store: EventStore, state: str) -> dict[str, Any]:
        """Rewrite everything that is made from the log: summary, strategy, report."""
        name = self.config["search"]["name"]
        summary = write_summary(self.workspace, store, method=name, agent=self.agent_name, state=state)
        best = store.tree.best() if len(store.tree) else None
        if best is not None and best.parent_id is not None:
            provenance = {
                "search_id": summary["search_id"],
                "method": name,
                "agent": self.agent_name,
                "seed": self.config["seed"],
                "base_score": summary["base_score"],
                "score": best.score,
                "test": summary["test"],
            }
            export_strategy(self.workspace.strategy_file, store.tree, best, self.catalogue, provenance)
            if state == "finished" and name != "replay":
                self._export_rule(store, provenance)
        if self.config["search"]["report"]:
            write_report(self.workspace.path, store, self.catalogue, live=state == "running")
        return summary

    def _export_rule(self, store: EventStore, provenance: dict[str, Any]) -> None:
        evidence = self.evidence
        steps = transitions(store.tree, lambda node_id: evidence.of_ended(store.tree, node_id))
        known = {name: provenance[name] for name in ("search_id", "method", "agent", "seed")}
        known |= {"transitions": len(steps), "improved": sum(step.improved for step in steps)}
        write_rule(self.workspace.rule_file, derive(steps, self.catalogue), known)


def _replay(config: dict[str, Any]) -> dict[str, Any]:
    """Run a replay that confirms another search; return its summary."""
    return replace(Session.from_config(config), confirms=True).run()


def check_parts(config: dict[str, Any]) -> None:
    """Raise `UserError` where the groups do not fit together."""
    trains = {"LocalRunner": "local", "InlineRunner": "inline", "SlurmRunner": "slurm"}.get(
        str(config["runner"]["_target_"]).rsplit(".", 1)[-1]
    )
    for group in ("task", "model"):
        if trains and config[group].get("_target_") is None:
            raise UserError(
                f"{group}=none: runner={trains} trains, so it needs a {group}; name one, or use runner=simulated"
            )
    shared, runner = (config.get("rollout") or {}).get("tensor_parallel", 1), config["runner"]
    if trains == "slurm" and (runner["tasks_per_node"] or max(1, runner["gpus_per_node"])) % shared:
        raise UserError(
            f"rollout.tensor_parallel={shared}: must divide the processes of a node; set runner.gpus_per_node or runner.tasks_per_node"
        )
    if config["search"]["name"] == "skill" and "model" not in config["agent"]:
        raise UserError("search=skill: needs a language model: agent=openai agent.model=NAME")
    for group in ("agent", "stopper"):
        unpriced = "price_input" in config[group] and None in (
            config[group]["price_input"],
            config[group]["price_output"],
        )
        if unpriced and config["budget"]["llm_dollars"] is not None:
            raise UserError(
                f"budget.llm_dollars: needs {group}.price_input and {group}.price_output, in dollars a million tokens"
            )
    if config["trainer"]["evaluation_split"] == "test":
        raise UserError(
            "trainer.evaluation_split=test: a search selects on val; test is read once, at its end"
        )


def setting(config: dict[str, Any]) -> dict[str, str]:
    """Return what is trained and how, for agents: task, model and objective, and the shape of the search."""
    search, parts = config["search"], {}
    for group in ("task", "model", "algorithm"):
        values = {
            key: value
            for key, value in (config.get(group) or {}).items()
            if isinstance(value, str | int | float) and key not in UNTOLD
        }
        target = str((config.get(group) or {}).get("_target_") or "").rsplit(".", 1)[-1]
        parts[group] = (
            " ".join([target, *(f"{key}={value}" for key, value in values.items())]).strip() or "none"
        )
    parts["search"] = (
        f"stages of {search['stage_steps']} steps, paths of up to {search['max_depth']} stages, {search['workers']} stages at a time"
    )
    return parts


def _instance(config: dict[str, Any], *ours: str) -> Any:
    """Make the object of a group, without the keys that are read elsewhere."""
    return _maker({key: value for key, value in config.items() if key not in ours})()


def _maker(config: dict[str, Any]) -> Any:
    """Return what makes the object of a group; its errors come as they are, not wrapped by Hydra, which copies what it is given several
    times over and so gets only what it may have to make something of.
    """
    plain = {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and not isinstance(value, dict | list)
    }
    rest = {key: value for key, value in config.items() if key not in plain}
    made = (
        instantiate(rest, _partial_=True, _convert_="all") if len(rest) > 1 else _target(config["_target_"])
    )
    return partial(made, **plain)


@cache
def _target(path: str) -> Any:
    return instantiate({"_target_": path}, _partial_=True)
