"""The best constant: `search=fixed` with the compute of a search, each arm as long as its best path."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from llmzero.core.compute import summed
from llmzero.core.text import visible_line
from llmzero.mirrors.replays import ReplaysDisplay
from llmzero.search.confirm import RunSearch
from llmzero.search.final_test import Score, Trained
from llmzero.search.methods.fixed import FixedSettings
from llmzero.search.rounds import Rounds
from llmzero.search.settings import SearchConfig
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace

NAME = "fixed schedules"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """Runs fixed schedules as a search of its own, below `<search_dir>/fixed/`, on the runner of the search.

    There are as many arms as the search's compute pays for, to the nearest. An early stopper would compare
    the beginnings of arms with the ends of others, so there is none.

    Attributes:
        config: the search's configuration.
        run: runs the search that a configuration describes, to its final test, and returns its summary.
    """

    workspace: Workspace
    store: EventStore
    config: SearchConfig
    run: RunSearch

    def rounds(self, path: Trained, depth: int) -> Rounds[Score]:
        """Return the entry of `test.json` on the best arm, whose training was charged to no budget; nothing
        where every arm failed, the base model's where none has passed its validation score.

        Args:
            path: what is behind the end of the best path.
            depth: its number of stages, and the number of stages of each arm.

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
        if not any(node.score is not None for node in inner.stages()):
            log.warning("all fixed schedules failed, so there is no test score of one: %s", config.search_dir)
            return {}
        node = inner[summary["test"]["best"]["node_id"]]
        about = str(node.proposal.get("rationale")).partition(": ")[2] or "The base model."
        while node.parent_id and node.children:  # what the arm was given, whichever checkpoint is the best
            node = inner[node.children[-1]]
        given = Trained.by([stage.result for stage in inner.path(node.node_id)[1:] if stage.result])
        return {
            **summary["test"]["best"],
            **vars(given),
            "gpu_seconds": round(given.gpu_seconds, 1),
            "about": visible_line(about),
            "arms": len(inner.root.children),
            "tuning_flops": spent["flops"],
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
