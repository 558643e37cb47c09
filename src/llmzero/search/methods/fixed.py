"""Fixed schedules, which everyone else would tune: constants times decays of the learning rate, each run over
the whole length of a path, and a hand-made schedule of growing length limits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.files import reading
from llmzero.core.hparams import Catalogue, HParams
from llmzero.core.settings import setting
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext, memo_of
from llmzero.search.methods.chains import Chains
from llmzero.search.methods.grid import cells, check_grid
from llmzero.tree.tree import Node, Tree

# What is tuned by default, and with at most how many values each.
TUNED = {"learning_rate": 5, "max_completion_length": 5, "easiest": 4, "lr_schedule": 4}
LIMIT = "max_completion_length"
GROWS_AT = (0.2, 0.5)  # of the path's length


@dataclass
class FixedSettings:
    """`search=fixed`."""

    parameters: Any = setting(
        None,
        "number of values by parameter; the others keep their defaults. null: learning rate, length limit "
        "and decay, as far as the catalogue has them",
    )
    staged_context: Any = setting(
        None, "three length limits of a hand-made schedule that is run second, e.g. [8, 16, 32]; null is none"
    )
    arms: int | None = setting(
        None,
        "how many arms are run; null: all, or as many as the budget pays for from beginning to end",
        low=1,
    )


@dataclass(frozen=True)
class Arm:
    """A fixed schedule: what it is, and the hyperparameters of each of its stages."""

    about: str
    stages: Sequence[HParams]


class Fixed(Chains):
    """Trains one arm after another, each as a chain of `search.max_depth` stages under one learning-rate
    schedule that spans them.

    The practitioner's configuration is the first arm, a staged context, where asked for, the second; the
    cells of the grid follow in a random order, so that a budget that ends early has covered it evenly.

    Raises:
        UserError: a parameter of the grid is unknown, or has not that many values, or the limits of the
            staged context are not three of the catalogue, or the budget does not pay for a whole arm.
    """

    def __init__(self, settings: FixedSettings, context: MethodContext) -> None:
        super().__init__(context)
        catalogue, depth = context.catalogue, context.max_depth
        numbers = _usual(catalogue) if settings.parameters is None else settings.parameters
        check_grid(catalogue, numbers)
        defaults = catalogue.defaults()
        self.arms = [Arm("The practitioner's configuration.", [defaults] * depth)]
        if settings.staged_context is not None:
            self.arms.append(_staged(catalogue, settings.staged_context, depth))
        grid = [cell for cell in cells(catalogue, numbers) if {**defaults, **cell} != defaults]
        random.Random(f"{context.seed}/fixed").shuffle(grid)
        for cell in grid:
            about = ", ".join(f"{name}={value}" for name, value in cell.items())
            self.arms.append(Arm(f"{about}.", [{**defaults, **cell}] * depth))
        self.arms = self.arms[: settings.arms]
        if context.stages is not None and context.stages < depth:
            raise UserError(
                f"search.max_depth={depth}: search=fixed runs arms of so many stages, and the budget pays "
                f"for {context.stages}; raise budget.stages or budget.flops, or lower search.max_depth"
            )

    def continues(self, node: Node) -> bool:
        """Return whether a chain is continued after a stage: not where that was stopped early either."""
        return super().continues(node) and node.state == "completed"

    def first_stage(self, tree: Tree) -> Expansion | None:
        """Return the first stage of the next arm; None after the last, and where too few stages are left to
        finish one more.
        """
        number, depth = len(tree.root.children), self.context.max_depth
        if number >= len(self.arms):
            return None
        if self.context.stages is not None:
            lasts = [node for node in tree.stages() if not node.children]
            under_way = sum(depth - node.depth for node in lasts if not node.final or self.continues(node))
            if len(tree.stages()) + under_way + depth > self.context.stages:
                return None
        return self._stage(tree.root, number)

    def next_stage(self, tree: Tree, node: Node) -> Expansion:
        """Return the next stage of an arm."""
        number = memo_of(self.context, node, {"arm": int})["arm"]
        with reading(self.context.directory / "tree.jsonl"):
            if not 0 <= number < len(self.arms):
                raise ValueError(f"memo of stage {node.node_id}: arm={number}: there are {len(self.arms)}")
        return self._stage(node, number)

    def _stage(self, parent: Node, number: int) -> Expansion:
        """Return the stage of an arm that resumes from its parent's last checkpoint."""
        depth, arm = self.context.max_depth, self.arms[number]
        hparams = arm.stages[parent.depth]
        about = f"Arm {number + 1} of {len(self.arms)}, stage {parent.depth + 1} of {depth}: {arm.about}"
        changes = self.context.catalogue.changes(parent.hparams, hparams)
        return Expansion(
            parent.node_id,
            hparams,
            Proposal("fixed", (), about, changes, "last"),
            memo={"arm": number},
            schedule=(parent.depth / depth, (parent.depth + 1) / depth),
        )


def _usual(catalogue: Catalogue) -> dict[str, int]:
    """Return how many values of which parameters are tuned by default."""
    names = [name for name in TUNED if name in catalogue] or list(catalogue)[:2]
    most = {name: catalogue[name].count or TUNED["learning_rate"] for name in names}
    return {name: min(TUNED.get(name, 4), most[name]) for name in names}


def _staged(catalogue: Catalogue, limits: Any, depth: int) -> Arm:
    """Return the hand-made arm: the limit grows at the ends of stages that are nearest to `GROWS_AT`."""
    key = "search.method.staged_context"
    if LIMIT not in catalogue:
        raise UserError(f"{key}={limits}: the catalogue has no {LIMIT}; give null")
    right = isinstance(limits, Sequence) and not isinstance(limits, str) and len(limits) == len(GROWS_AT) + 1
    wrong = [catalogue[LIMIT].problem(limit) for limit in limits] if right else []
    if not right or any(wrong):
        problem = next(filter(None, wrong), "must be three length limits, e.g. [8, 16, 32], or null")
        raise UserError(f"{key}={limits}: {problem}")
    ends = [max(1, round(share * depth)) for share in GROWS_AT]
    stages = [{LIMIT: limits[sum(end <= stage for end in ends)]} for stage in range(depth)]
    return Arm(
        f"Staged context, {' -> '.join(map(str, limits))}, in three stages as DeepScaleR's.",
        [{**catalogue.defaults(), **changed} for changed in stages],
    )
