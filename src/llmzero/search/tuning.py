"""The best constant: `search=fixed` with the compute of a search, each arm as long as its best path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from llmzero.core.compute import summed
from llmzero.core.text import visible_line
from llmzero.mirrors.replays import ReplaysDisplay
from llmzero.search.confirm import RunSearch
from llmzero.search.final_test import FAILED, Measure, Score, Trained, shortfall
from llmzero.search.methods.fixed import FixedSettings
from llmzero.search.rounds import Rounds
from llmzero.search.settings import SearchConfig
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree
from llmzero.tree.workspace import Workspace

NAME = "fixed schedules"


@dataclass(frozen=True)
class Tuning:
    """Runs fixed schedules as a search of its own, below `<search_dir>/fixed/`, on the runner of the search.

    There are as many arms as the search's compute pays for, to the nearest. An early stopper would compare
    the beginnings of arms with the ends of others, so there is none.

    Attributes:
        config: the search's configuration.
        run: runs the search that a configuration describes, to its final test, and returns its summary.
        exact: whether its stages are as long as was asked for, see `StageRunner`.
    """

    workspace: Workspace
    store: EventStore
    config: SearchConfig
    run: RunSearch
    exact: bool

    def rounds(self, path: Trained, depth: int, measure: Measure) -> Rounds[Score]:
        """Return the entry of `test.json` on the best arm, whose training was charged to no budget: the base
        model's where none has passed its validation score, and what failed of the arms.

        An arm that did not run to its end is not chosen, whatever it reached; the next run tries it again.

        Args:
            path: what is behind the end of the best path.
            depth: its number of stages, and the number of stages of each arm.
            measure: tests a checkpoint.

        Raises:
            UserError: the search failed; the next attempt goes on with it.
        """
        config = self.fixed_config(path, depth)
        display = ReplaysDisplay({NAME: path.steps}, "Tuning", "Tuned")
        summary = yield from self.run(config, display.begin(NAME))  # one that has ended is not run again
        display.end(NAME)
        spent = summary["budget"]
        self.store.charge_setup(
            f"fixed/{Path(config.search_dir).name}",
            round(spent["gpu_seconds"] + spent["setup_gpu_seconds"], 3),
            summed((spent["flops"], spent["setup_flops"])),
        )
        inner = EventStore(Workspace(Path(config.search_dir)).tree_file, repair=False).tree
        arms = [_arm(inner, first) for first in inner.children(ROOT)]
        troubles = {arm[-1].node_id: trouble for arm in arms if (trouble := _trouble(arm, depth, self.exact))}
        whole = [arm for arm in arms if arm[-1].node_id not in troubles]
        failed = f"{len(troubles)} of {len(arms)} fixed schedules failed: {'; '.join(troubles.values())}"
        told = {FAILED: visible_line(failed)} if troubles else {}
        if not whole:
            return told
        node = inner.best([inner.root, *(stage for arm in whole for stage in arm)])
        assert node is not None
        given = _given(next((arm for arm in whole if node in arm), []))
        tested = summary["test"]["best"]
        if node.node_id != tested["node_id"]:  # which is of an arm that failed
            assert node.result is not None
            assert node.result.checkpoint is not None
            name = f"constant-{node.node_id}"
            tested = yield from measure(name, node.result.checkpoint, node.hparams, given, node.score)
        about = str(node.proposal.get("rationale")).partition(": ")[2] or "The base model."
        return {
            **tested,
            "node_id": node.node_id,
            **vars(given),
            "gpu_seconds": round(given.gpu_seconds, 1),
            "about": visible_line(about),
            "arms": len(arms),
            "tuning_flops": spent["flops"],
            **told,
        }

    def fixed_config(self, path: Trained, depth: int) -> SearchConfig:
        """Return the configuration of the search over fixed schedules."""
        search, ledger = self.config.search, self.store.ledger
        limits: dict[str, Any] = dict.fromkeys(limit.name for limit in fields(Budget))
        if path.flops is None or ledger.flops is None:  # unknown: steps and stages stand for compute
            amount, steps, flops = f"{path.steps}-steps", -(-path.steps // depth), None
            arms = ledger.stages / depth
        else:
            amount, steps, flops = f"{path.flops:.0f}-flops", None, path.flops / depth
            arms = ledger.flops / path.flops
        settings = FixedSettings(arms=max(1, round(arms)))
        method = {"_target_": "llmzero.search.methods.fixed.Fixed", **asdict(settings)}
        return replace(
            self.config,
            agent={"_target_": "llmzero.agents.rules.RuleAgent", "name": "none"},  # proposes nothing
            stopper={"_target_": "llmzero.agents.stopper.NeverStop"},
            tracking={"_target_": "llmzero.mirrors.tracking.NoTracking"},
            search_dir=str(self.workspace.fixed / f"{settings.arms}-arms-of-{depth}-stages-{amount}"),
            budget=Budget(**limits),
            search=replace(
                search,
                name="fixed",
                max_depth=depth,
                stage_steps=steps,
                stage_flops=flops,
                confirm_seeds=0,
                test_constant=False,
                test_incumbents=False,
                prefetch=False,
                method=method,
            ),
        )


def _arm(tree: Tree, first: Node) -> list[Node]:
    """Return the stages of an arm, by the first of them."""
    arm = [first]
    while arm[-1].children:
        arm.append(tree[arm[-1].children[-1]])
    return arm


def _trouble(arm: Sequence[Node], depth: int, exact: bool) -> str | None:
    """Return why an arm did not run to its end; None where it did."""
    for node in arm:
        assert node.result is not None
        if trouble := shortfall(node.result, node.length, exact):
            about = str(node.proposal.get("rationale")).partition(": ")[2]
            return f"{about} Stage {node.depth} of {depth}: {trouble}"
    return None if len(arm) == depth else f"it ended after {len(arm)} of {depth} stages"


def _given(arm: Sequence[Node]) -> Trained:
    """Return what the stages of an arm were given, whichever of its checkpoints is the best."""
    return Trained.by([stage.result for stage in arm if stage.result])
