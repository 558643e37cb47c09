"""Derives a design rule from a search: which changes came with improvements, and under which conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from llmzero.core.hparams import Catalogue, HParams, Parameter
from llmzero.evidence.evidence import Evidence
from llmzero.strategies.rule import Clause, Condition, observed
from llmzero.tree.tree import Tree

MIN_TRANSITIONS = 4  # fewer cannot be compared, two by two
BEST_PATH_WEIGHT = 2.0


@dataclass(frozen=True)
class Transition:
    """A step of the search from a stage to its child.

    Attributes:
        facts: observables of the parent stage.
        before, after: configurations of parent and child.
        gain: of the child over its parent; None where it failed.
    """

    facts: Mapping[str, float]
    before: HParams
    after: HParams
    gain: float | None
    weight: float = 1.0

    @property
    def improved(self) -> bool:
        """Whether the child passed its parent."""
        return self.gain is not None and self.gain > 0


def transitions(tree: Tree, evidence_of: Callable[[str], Evidence]) -> list[Transition]:
    """Return the search's steps from stages with training dynamics; those along the best path weigh more."""
    best = tree.best()
    path = {node.node_id for node in tree.path(best.node_id)} if best else set()
    steps = []
    for parent in tree.stages():
        children = [child for child in tree.children(parent.node_id) if child.final]
        facts = observed(evidence_of(parent.node_id)) if children and parent.usable else {}
        for child in children if "gain" in facts else ():
            gain = None if child.score is None or parent.score is None else child.score - parent.score
            weight = BEST_PATH_WEIGHT if child.node_id in path else 1.0
            steps.append(Transition(facts, parent.hparams, child.hparams, gain, weight))
    return steps


def derive(steps: Sequence[Transition], catalogue: Catalogue, observables: Sequence[str]) -> list[Clause]:
    """Return a clause for every parameter and direction that improved scores, the best supported first.

    Args:
        steps: of one search.
        catalogue: its tunables.
        observables: what conditions may be about; of two that tell equally well the first is taken.
    """
    clauses = [
        clause
        for parameter in catalogue.values()
        for up in (True, False)
        if (clause := _clause(parameter, up, steps, observables))
    ]
    return sorted(clauses, key=lambda clause: (clause.improved, clause.gain or 0.0), reverse=True)


def _clause(
    parameter: Parameter, up: bool, steps: Sequence[Transition], observables: Sequence[str]
) -> Clause | None:
    """Return when to move a parameter up or down; None where that did not improve more often than not."""
    name = parameter.name
    moves = [
        (parameter.position(step.after[name]) - parameter.position(step.before[name]), step) for step in steps
    ]
    moved = [step for move, step in moves if (move > 0 if up else move < 0)]
    if not any(step.improved for step in moved):
        return None
    growth = parameter.group == "capacity" and up
    condition = _stump(
        moved, ("gain",) if growth else observables, ("at_most",) if growth else ("at_most", "at_least")
    )
    basis = (
        "compared"
        if condition
        else "too few to compare"
        if len(moved) < MIN_TRANSITIONS
        else "no condition tells them apart"
    )
    condition = condition or _bound_on_gain(moved)
    held = [step for step in moved if condition.holds(step.facts)]
    if _weight(step for step in held if step.improved) <= _weight(held) / 2:
        return None
    improved = [step for step in held if step.improved]
    gain = round(fmean(step.gain for step in held if step.gain is not None), 4)
    return Clause(
        name,
        condition,
        **_size(parameter, up, improved),
        support=len(held),
        improved=len(improved),
        gain=gain,
        basis=f"transitions: {len(moved)}, {basis}",
    )


def _stump(moved: Sequence[Transition], observables: Sequence[str], sides: Sequence[str]) -> Condition | None:
    """Return the condition that best separates moves that improved from the others.

    At least two moves are on either side of it. None where they are too few for that, or where no condition
    is right more often than the same answer for all of them.
    """
    values = {
        observe: sorted({step.facts[observe] for step in moved if observe in step.facts})
        for observe in observables
    }
    thresholds = [
        (observe, float(f"{(a + b) / 2:.5g}"))
        for observe in observables
        for a, b in pairwise(values[observe])
    ]
    conditions = [
        Condition(observe, **{side: threshold}) for observe, threshold in thresholds for side in sides
    ]
    splits = [
        condition
        for condition in conditions
        if 2 <= sum(condition.holds(step.facts) for step in moved) <= len(moved) - 2
    ]

    def right(condition: Condition) -> float:
        return _weight(step for step in moved if condition.holds(step.facts) == step.improved)

    improved = _weight(step for step in moved if step.improved)
    best = max(splits, key=right, default=None)
    return best if best and right(best) > max(improved, _weight(moved) - improved) else None


def _bound_on_gain(moved: Sequence[Transition]) -> Condition:
    """Return a bound on the gain: the largest before any of the moves that improved."""
    return Condition(
        "gain", at_most=math.ceil(max(step.facts["gain"] for step in moved if step.improved) * 1e4) / 1e4
    )


def _size(parameter: Parameter, up: bool, improved: Sequence[Transition]) -> dict[str, Any]:
    """Return how far to move: one notch of capacity, else the median of what improved.

    Moves to and from zero have no factor and are left out.
    """
    values = [(step.before[parameter.name], step.after[parameter.name]) for step in improved]
    if parameter.choices is not None:
        notches = [
            abs(parameter.choices.index(after) - parameter.choices.index(before)) for before, after in values
        ]
        size = 1 if parameter.group == "capacity" else max(1, round(median(notches)))
        return {"notches": size if up else -size}
    factors = [after / before for before, after in values if before > 0 and after > 0]
    return {"factor": float(f"{median(factors):.6g}") if factors else (2.0 if up else 0.5)}


def _weight(steps: Iterable[Transition]) -> float:
    return sum(step.weight for step in steps)
