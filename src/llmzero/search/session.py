"""From a composed configuration to a finished search: puts the parts together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llmzero.agents.base import AsksModel, EarlyStopper, Proposer
from llmzero.agents.journal import CallJournal
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.core.length import LENGTHS
from llmzero.core.parts import make
from llmzero.core.stage import StageDir, StageSpec
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.evidence import UNTOLD, Choice, Evidence
from llmzero.evidence.proposal import Proposal
from llmzero.mirrors.display import Display
from llmzero.mirrors.replays import ReplayDisplay
from llmzero.runners.base import ENTRY_POINT, StageRunner
from llmzero.search.briefing import briefing
from llmzero.search.checks import check_models, check_parts, check_protocols, check_sources, check_stages
from llmzero.search.confirm import Confirmation
from llmzero.search.driver import Driver, Plan
from llmzero.search.final_test import FinalTest
from llmzero.search.look import look
from llmzero.search.methods.base import MethodContext, SearchMethod
from llmzero.search.outputs import Outputs
from llmzero.search.rounds import Rounds, carry_out
from llmzero.search.settings import Group, SearchConfig
from llmzero.search.thinking import Bill
from llmzero.search.tuning import Tuning
from llmzero.tree.budget import Ledger
from llmzero.tree.outcomes import read_test
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Tree
from llmzero.tree.workspace import Workspace

TRACKING_TIMEOUT_S = 60.0


@dataclass
class Session:
    """A search, checked and ready to run. Making one reads and imports, but computes and writes nothing.

    Attributes:
        shown: takes note of the progress of a replay that confirms another search. That one tests the
            practitioner's configuration, and reports the result.
    """

    config: SearchConfig
    workspace: Workspace
    catalogue: Catalogue
    evidence: EvidenceBuilder
    runner: StageRunner
    stopper: EarlyStopper
    proposer: Proposer
    tracking: Any
    shown: ReplayDisplay | None = None
    _ledger: Ledger = field(default_factory=Ledger, init=False)

    def __post_init__(self) -> None:
        self.method = self._method()  # here, so that it refuses settings before anything runs

    @classmethod
    def from_config(
        cls, config: SearchConfig, *, runner: StageRunner | None = None, shown: ReplayDisplay | None = None
    ) -> Session:
        """Build the parts of a configuration and check that they fit together.

        Args:
            config: the whole of it.
            runner: another search's, which this one shares; by default the configuration's.
            shown: for a replay that confirms another search.

        Raises:
            UserError: something in it cannot work.
        """
        catalogue, metrics = config.catalogue, config.metric_catalogue
        workspace = Workspace(Path(config.search_dir).absolute())
        runner = runner or make(
            config.runner,
            "runner",
            workers=config.search.workers,
            catalogue=catalogue,
            secrets=secrets_of(config),
            directory=workspace.path,
        )
        proposer = make(
            config.agent,
            "agent",
            name=None,
            llm=config.llm,
            catalogue=catalogue,
            metric_catalogue=metrics,
        )
        session = cls(
            config=config,
            workspace=workspace,
            catalogue=catalogue,
            evidence=EvidenceBuilder(
                workspace.nodes,
                catalogue,
                metrics,
                config.seed,
                briefing(config, asks_model=isinstance(proposer, AsksModel)),
                max_depth=config.search.max_depth,
                stages=config.stages,
                lengths=LENGTHS if getattr(runner, "any_length", True) else (1.0, 1.0),
                validation_temperature=(config.trainer or {}).get("validation_temperature"),
            ),
            runner=runner,
            stopper=make(config.stopper, "stopper", llm=config.llm, audit_fraction=None),
            proposer=proposer,
            tracking=make(config.tracking, "tracking", secrets=secrets_of(config)),
            shown=shown,
        )
        parts = {"agent": session.proposer, "stopper": session.stopper, "search.method": session.method}
        check_protocols(config, parts | {"tracking": session.tracking, "runner": session.runner})
        check_parts(config, session.runner, session.models)
        return session

    @property
    def models(self) -> list[AsksModel]:
        """The agents that call a language model."""
        return [agent for agent in (self.proposer, self.stopper) if isinstance(agent, AsksModel)]

    @property
    def _thinks(self) -> bool:
        """Whether the agent asks a language model."""
        return isinstance(self.proposer, AsksModel)

    @property
    def agent_name(self) -> str:
        """The agent's name in the configuration."""
        return str(self.config.agent["name"])

    def check_models(self) -> None:
        """Check that the language models can be asked.

        Raises:
            UserError: a key is missing, nobody answers, a prompt template is broken or does not fit its
                budget.
        """
        check_models(self.models, self.evidence, self.catalogue, self.config.budget)

    def check_sources(self) -> None:
        """Check the task's data and the model before a search begins; one that has begun has had them.

        Raises:
            UserError: they cannot be used, a split has too few problems, or there is no model.
        """
        if self.runner.trains and not self.workspace.tree_file.exists():
            check_sources(self.config.task, self.config.model)

    def look(self) -> list[str]:
        """Look at all that the first stage loads but weights; return lines for the plan.

        Raises:
            UserError: the stage would fail.
        """
        config, hparams = self.config, self.catalogue.defaults()
        if config.runner.get("entry_point") != ENTRY_POINT:
            return []  # nothing is trained, or by a function that loads what it likes
        directory = self.workspace.nodes / ROOT
        spec = StageSpec(ROOT, None, 0, directory, None, hparams, 0, config.seed, config.stage_groups)
        return look(spec, config.stages, secrets_of(config))

    @property
    def stage_groups(self) -> dict[str, Group]:
        """What stages need besides their hyperparameters. A search that an earlier version began goes on as
        it did: its stages validate within their own `max_completion_length`.
        """
        groups, root = self.config.stage_groups, StageDir(self.workspace.nodes / ROOT)
        if groups["trainer"] and root.has_spec():
            groups["trainer"] = {**groups["trainer"], "validation_max_tokens": root.validation_limit()}
        return groups

    def run(self) -> dict[str, Any]:
        """Search, test, report; return the summary. A search that is over already is not run again."""
        return carry_out(self.rounds())

    def rounds(self) -> Rounds[dict[str, Any]]:
        """Do the same in rounds; they return the summary."""
        config, workspace = self.config, self.workspace
        with workspace.opened(asdict(config)):
            store = EventStore(workspace.tree_file, durable=not self.runner.repeatable)
            check_stages(store, self.catalogue, config.budget)
            if not store.ended:
                self.runner.warm_up(self.stage_groups)
            self._ledger = store.ledger
            display = self.shown or Display(workspace, config.budget, config.search.workers, self.agent_name)
            outputs = Outputs(config, workspace, self.catalogue, self.evidence)
            self.tracking.start(workspace.path)
            bill = self._connect_models(store)
            try:
                with display.live(store):
                    yield from self._search(store, display, outputs, bill)
                if config.search.confirm_seeds:
                    outputs.write(store, "running")
                    yield from Confirmation(workspace, store, self.catalogue, config, self._replay).rounds()
            except BaseException:
                bill.settle()
                outputs.write(store, "interrupted")
                raise
            bill.settle()
            if self.shown is None:  # else others use it too
                self.runner.close()
                store.charge_idle(self.runner.idle(), store.ledger.seconds)
            summary = outputs.write(store, "finished")
            if isinstance(display, Display):
                display.finish(store, summary)
            self.tracking.finish(TRACKING_TIMEOUT_S)
            return summary

    def _replay(self, config: SearchConfig, shown: ReplayDisplay) -> Rounds[dict[str, Any]]:
        """Run a search that confirms this one, or that it is compared with, on its runner."""
        return Session.from_config(config, runner=self.runner, shown=shown).rounds()

    def _search(
        self, store: EventStore, display: Display | ReplayDisplay, outputs: Outputs, bill: Bill
    ) -> Rounds[None]:
        """Run the search, then its final test unless that was run after the last stage."""
        constant = self.config.search.test_constant and self.shown is None
        limit = (self.stage_groups["trainer"] or {}).get("validation_max_tokens")
        if constant and limit is None and "max_completion_length" in self.catalogue:
            raise UserError(
                "search.test_constant=true: stages of this search validate within their own length limits, "
                "as those of earlier versions do, and fixed schedules would not; give false"
            )
        driver = self._driver(store, display, bill)
        finished = len(store.trajectory)
        for changed in driver.rounds():
            if len(store.trajectory) != finished:  # what could start has been started
                finished = len(store.trajectory)
                outputs.refresh(store)
            yield changed
        incumbents = self.config.search.test_incumbents
        wanted = {"trajectory": incumbents, "constant": constant}
        tested = read_test(self.workspace.path)
        complete = tested and all(name in tested for name, asked in wanted.items() if asked)
        if store.ended and tested and complete and not tested.get("failed"):
            return
        outputs.refresh(store)
        compared = "base and best" if self.shown else "base, practitioner and best"
        display.say(f"Testing {compared} strategy on the test split (never read before) ...")
        groups, defaults = self.stage_groups, self.catalogue.defaults()
        test = FinalTest(self.workspace, store, self.runner, groups, defaults, self.config.seed)
        workers = self.config.search.workers
        tuning = Tuning(self.workspace, store, self.config, self._replay, self.runner.exact)
        yield from test.rounds(
            workers,
            practitioner=self.shown is None,
            constant=tuning.rounds if constant else None,
            incumbents=incumbents,
        )
        driver.end()

    def _method(self) -> SearchMethod:
        """Make the search method; evidence for the agent that it asks includes what is left of the budget."""
        config = self.config

        def evidence_of(tree: Tree, node_id: str, choice: Choice = UNTOLD) -> Evidence:
            return self.evidence.for_proposal(tree, node_id, self._ledger.left(config.budget), choice=choice)

        def propose(tree: Tree, node_id: str, choice: Choice) -> Proposal:
            return self._proposed(evidence_of(tree, node_id, choice))

        context = MethodContext(
            catalogue=self.catalogue,
            propose=propose,
            max_depth=config.search.max_depth,
            seed=config.seed,
            proposer=self.proposer,
            evidence=evidence_of,
            directory=self.workspace.path,
            stages=config.stages,
            workers=config.search.workers,
            thinks=self._thinks,
            lengths=self.evidence.lengths,
        )
        method: SearchMethod = make(config.search.method, "search.method", context=context)
        return method

    def _proposed(self, evidence: Evidence) -> Proposal:
        """Return what the agent proposes.

        Raises:
            UserError: an agent from outside closes its parent, or names another, where that was not offered.
        """
        proposal, standing = self.proposer.propose(evidence), evidence.standing
        others = [view.node_id for view in standing.others] if standing else []
        own = evidence.stage.node_id
        if (proposal.action == "close" and not others) or proposal.parent not in (None, own, *others):
            raise UserError(
                f"agent={self.config.agent['name']}: proposed action={proposal.action}, "
                f"parent={proposal.parent} below {own}, where evidence.standing.others is {others}: it may "
                "close a stage where there are others, and name one of these alone"
            )
        return proposal

    def _driver(self, store: EventStore, display: Display | ReplayDisplay, bill: Bill) -> Driver:
        config = self.config

        def think(
            known: EventStore, node_id: str, until: int | None, choice: Choice
        ) -> Callable[[], Proposal]:
            left = known.ledger.left(config.budget)
            evidence = self.evidence.for_proposal(known.tree, node_id, left, choice=choice, until=until)
            return partial(self._proposed, evidence)

        def on_change(driver: Driver) -> None:
            statuses = {node_id: running.status for node_id, running in driver.running.items()}
            display.update(store, statuses, driver.elapsed)

        plan = Plan(
            length=config.search.length,
            workers=config.search.workers,
            seed=config.seed,
            stage_config=self.stage_groups,
            audit_fraction=config.stopper.get("audit_fraction") or 0.0,
            path_stages=config.search.max_depth if (config.trainer or {}).get("lr_over") == "path" else None,
            retries_failed=self.shown is not None,
            prefetch_depth=config.search.max_depth if config.search.prefetch and self._thinks else 0,
        )
        return Driver(
            workspace=self.workspace,
            store=store,
            method=self.method,
            runner=self.runner,
            stopper=self.stopper,
            evidence=self.evidence,
            budget=config.budget,
            plan=plan,
            root_hparams=self.catalogue.defaults(),
            on_change=on_change,
            think=think,
            settle=bill.settle,
            idle=self.runner.idle if self.shown is None else dict,
        )

    def _connect_models(self, store: EventStore) -> Bill:
        """Have every call of a language model stored beside its stage and charged.

        Calls that an earlier driver was killed before charging are charged now.
        """
        bill = Bill(store, self.config.budget)
        journal = CallJournal(self.workspace.nodes, bill.note, store.llm_calls, bill.spent_limit)
        if self.models:
            journal.settle()
            bill.settle()
        for agent in self.models:
            agent.endpoint.connect(journal)
        return bill


def secrets_of(config: SearchConfig) -> list[str]:
    """Return the environment variables that hold secrets of the driver's."""
    return [config.llm.api_key_env] if config.llm.api_key_env else []
