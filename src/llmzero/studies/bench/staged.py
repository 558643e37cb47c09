"""Makes the search of a decision point again, with all files of its stages, in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from llmzero.agents.stopper import NeverStop
from llmzero.evidence.evidence import Choice, Evidence, Prediction
from llmzero.evidence.proposal import Proposal
from llmzero.runners.base import StageRunner
from llmzero.runners.tables.format import Path_
from llmzero.search.driver import Driver, Plan
from llmzero.search.methods.base import Expansion, SearchMethod
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.search.thinking import Think
from llmzero.studies.bench.points import DecisionPoint
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree

UNLIMITED = Budget(stages=None)


class Given:
    """A search method that makes the stages that it is given, one after the other."""

    def __init__(self, stages: Sequence[Expansion]) -> None:
        self.stages = stages

    def ask(self, tree: Tree) -> Expansion | None:
        """Return the next stage; None where all are there."""
        done = len(tree) - 1
        return self.stages[done] if done < len(self.stages) else None

    def tell(self, tree: Tree, node: Node) -> None:
        """Do nothing: what is to come does not depend on it."""


@dataclass
class StagedSearch:
    """The search of a point as it stood then.

    Attributes:
        evidence: for the agent that is asked.
    """

    point: DecisionPoint
    session: Session
    made: list[Expansion]
    evidence: Evidence

    def outcomes(self, proposals: Sequence[tuple[Path_, Proposal]]) -> list[Prediction | None]:
        """Run stages of the table that agents proposed, and return what they expected beside what came.

        None stands for a proposal that expected nothing.
        """
        first = len(self.made) + 1
        self.made += [self._expansion(path, proposal) for path, proposal in proposals]
        tree = grown(self.session, Given(self.made)).tree
        found = self.session.evidence.for_proposal(tree, ROOT, {}).predictions
        by_node = {prediction.node_id: prediction for prediction in found}
        return [by_node.get(f"{first + i:04d}") for i in range(len(proposals))]

    def _expansion(self, path: Path_, proposal: Proposal) -> Expansion:
        hparams = self.point.table.configurations[path[-1]]
        return Expansion(
            self.point.node_id(path[:-1]), hparams, replace(proposal, parent=None, resume="last")
        )


@contextmanager
def staged(point: DecisionPoint, config: SearchConfig, runner: StageRunner) -> Iterator[StagedSearch]:
    """Make a point's search again while the block runs.

    Args:
        point: where it had come to.
        config: of a search on the point's table.
        runner: of such searches, which share it.
    """
    with TemporaryDirectory(prefix="llmzero-bench-") as directory:
        budget = replace(config.budget, stages=point.budget)
        session = Session.from_config(replace(config, search_dir=directory, budget=budget), runner=runner)
        made = [_recorded(point, path) for path in point.stages]
        store = grown(session, Given(made))
        others = tuple(map(point.node_id, point.others))
        evidence = session.evidence.for_proposal(
            store.tree,
            point.node_id(point.parent),
            store.ledger.left(budget),
            choice=Choice(point.why, others),
        )
        yield StagedSearch(point, session, made, evidence)


def _recorded(point: DecisionPoint, path: Path_) -> Expansion:
    configurations = point.table.configurations
    before = configurations[path[-2]] if len(path) > 1 else point.table.catalogue.defaults()
    hparams = configurations[path[-1]]
    changes = point.table.catalogue.changes(before, hparams)
    return Expansion(point.node_id(path[:-1]), hparams, Proposal("search", (), "", changes))


def grown(
    session: Session, method: SearchMethod, budget: Budget = UNLIMITED, think: Think | None = None
) -> EventStore:
    """Grow a session's tree until its method or the budget ends that, one stage at a time; test nothing.

    `think` prepares questions to an agent, for methods that leave proposals open.
    """
    workspace, config = session.workspace, session.config
    workspace.nodes.mkdir(exist_ok=True)
    store = EventStore(workspace.tree_file, durable=False)
    driver = Driver(
        workspace=workspace,
        store=store,
        method=method,
        runner=session.runner,
        stopper=NeverStop(),
        evidence=session.evidence,
        budget=budget,
        plan=Plan(config.search.length, 1, config.seed, session.stage_groups),
        root_hparams=session.catalogue.defaults(),
        on_change=lambda driver: None,
        think=think,
    )
    for _ in driver.rounds():
        pass
    return store
