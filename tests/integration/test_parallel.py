"""Several stages at once: decisions depend on the order in which stages end, not on when that is noticed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from llmzero.agents.stopper import NeverStop
from llmzero.core.hparams import Catalogue
from llmzero.core.length import Length
from llmzero.core.stage import StageDir, StageResult, StageSpec, StageStatus, ValidationPoint
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.evidence import Choice
from llmzero.evidence.proposal import Proposal
from llmzero.search.driver import Driver, Plan
from llmzero.search.methods.base import MethodContext
from llmzero.search.methods.tree_search import TreeSearch, TreeSearchSettings
from llmzero.search.rounds import carry_out
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Tree
from llmzero.tree.workspace import Workspace

CATALOGUE = Catalogue.from_config(
    {"rate": {"group": "capacity", "kind": "float", "low": 0.0, "high": 1.0, "default": 0.5}}
)


@dataclass
class Table:
    """Stages that end three by three, in an order drawn before; if `late`, three are noticed at once."""

    late: bool
    running: dict[str, float] = field(default_factory=dict)  # moments of their ends
    most: int = 0  # that ran side by side
    together: int = 0  # ends that were noticed with others

    def start(self, spec: StageSpec) -> Handle:
        number = int(spec.node_id) - 1
        self.running[spec.node_id] = number // 3 + random.Random(number).random()
        self.most = max(self.most, len(self.running))
        return Handle(self, spec, self.running[spec.node_id])

    def attach(self, spec: StageSpec) -> None:
        return None


@dataclass
class Handle:
    table: Table
    spec: StageSpec
    moment: float

    def poll(self) -> StageStatus:
        moments = self.table.running.values()
        together = self.table.late and len(moments) == 3 and len(set(map(int, moments))) == 1
        self.table.together += together
        ended = together or self.moment == min(moments)
        return StageStatus("completed" if ended else "running")

    def stop(self) -> None: ...

    def result(self) -> StageResult:
        self.table.running.pop(self.spec.node_id, None)
        score = (
            0.1 * self.spec.depth + random.Random(f"{self.spec.depth}/{self.spec.hparams['rate']}").random()
        )
        point = ValidationPoint(1, self.spec.depth, score, 0.01, 100, 0.0)
        checkpoint = StageDir(self.spec.directory).checkpoint(1)
        return StageResult(
            "completed",
            [point],
            1,
            score,
            checkpoint,
            1.0,
            1.0,
            last_checkpoint=checkpoint,
            ended_at=self.moment,
        )


def search(directory: Path, table: Table, workers: int) -> Tree:
    """Run a search of 24 stages over a table; return its tree."""
    workspace = Workspace(directory)
    workspace.nodes.mkdir(parents=True)

    def propose(tree: Tree, node_id: str, choice: Choice) -> Proposal:
        return Proposal("test", (), "", {"rate": round(random.Random(len(tree)).random(), 3)})

    driver = Driver(
        workspace=workspace,
        store=EventStore(workspace.tree_file),
        method=TreeSearch(
            TreeSearchSettings(),
            MethodContext(CATALOGUE, propose, max_depth=4, seed=0, stages=24, workers=workers),
        ),
        runner=table,
        stopper=NeverStop(),
        evidence=EvidenceBuilder(workspace.nodes, CATALOGUE, {}, 0),
        budget=Budget(stages=24),
        plan=Plan(length=Length(steps=1), workers=workers, seed=0, stage_config={}),
        root_hparams=CATALOGUE.defaults(),
        on_change=lambda driver: None,
    )
    carry_out(driver.rounds())
    return driver.store.tree


def test_what_is_found_does_not_depend_on_when_ends_are_noticed(tmp_path: Path) -> None:
    tables = {"at_once": Table(late=False), "late": Table(late=True)}
    trees = {name: search(tmp_path / name, table, workers=3) for name, table in tables.items()}
    shapes = [
        [(node.node_id, node.parent_id, node.hparams, node.finished_order) for node in tree]
        for tree in trees.values()
    ]
    assert shapes[0] == shapes[1]
    assert [table.most for table in tables.values()] == [3, 3]
    assert tables["late"].together > 0
    order = [int(node.node_id) for node in trees["late"].finished]
    assert order != sorted(order), "they do not end as they began"


def test_one_worker_never_runs_two_stages(tmp_path: Path) -> None:
    table = Table(late=False)
    tree = search(tmp_path, table, workers=1)
    assert table.most == 1
    assert [node.node_id for node in tree.finished] == list(tree.nodes)
