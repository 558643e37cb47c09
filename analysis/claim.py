"""The claim that capacity grows while regularization oscillates: its parts, their nulls, its verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.nulls import (
    Measure,
    Null,
    Outcome,
    flip_searches,
    flip_stages,
    redraw_values,
    reorder_stages,
)
from analysis.paths import MIN_CHANGES, Array, Counts

ALPHA = 0.05
MIN_SEARCHES = 5  # fewer cannot reach p = 0.05 where each search counts as one


def only_grew(counts: Counts) -> Array:
    """Return 1 for each parameter whose changes all went up, else 0."""
    return np.asarray(counts.ups == counts.changes, float)


def direction(counts: Counts) -> Array:
    """Return 1 where all changes went up, -1 where all went down, else 0."""
    return np.asarray(only_grew(counts) - (counts.ups == 0))


def monotone(counts: Counts) -> Array:
    """Return 1 for each parameter that never turned, else 0."""
    return np.asarray(counts.turns == 0, float)


def monotone_beyond_chance(counts: Counts) -> Array:
    """Return `monotone` less its probability if a coin decided each change."""
    return np.asarray(monotone(counts) - 2 * 0.5**counts.changes)


def turning_share(counts: Counts) -> Array:
    """Return the turns of each parameter as a share of the turns that so many changes could have made."""
    return np.asarray(counts.turns / np.maximum(counts.changes - 1, 1))


@dataclass(frozen=True)
class ClaimPart:
    """A part of the claim: that a measure of one group of parameters is high.

    Attributes:
        group: the group of parameters.
        says: the part of the claim in words.
        words: the measure in words.
        measure: of each parameter on a path.
        tells: how much it tells of a parameter that changed so often, in comparison to other numbers.
        nulls: what the part has to beat, by name: a null and the measure that is tested against it.
    """

    group: str
    says: str
    words: str
    measure: Measure
    tells: Callable[[Array], Array]
    nulls: dict[str, tuple[Null, Measure]]


CLAIM = (
    ClaimPart(
        "capacity",
        "capacity grows",
        "share that only grew",
        only_grew,
        lambda changes: 1 - 0.5 ** (changes - 1),  # the probability that coins turn it
        {
            "direction": (flip_searches, direction),
            "chance": (flip_stages, only_grew),
            "random": (redraw_values, only_grew),
        },
    ),
    ClaimPart(
        "regularization",
        "regularization oscillates",
        "turns, as a share of the possible ones",
        turning_share,
        lambda changes: changes - 1.0,  # its possible turns
        {"order": (reorder_stages, turning_share), "random": (redraw_values, turning_share)},
    ),
)


def part_verdict(
    part: ClaimPart, tests: Sequence[Outcome], count: int, searches: int, small_priors: Sequence[str]
) -> tuple[str, str]:
    """Return the verdict on a part of the claim, and the reason in words.

    Args:
        part: the part of the claim.
        tests: its tests against all nulls.
        count: the number of searches with a testable parameter of its group.
        searches: the number of all searches.
        small_priors: the priors that too few searches can be compared with.
    """
    changed = (
        f"{count} of {searches} searches changed a {part.group} parameter at least {MIN_CHANGES} times "
        "on their best path"
    )
    if count < MIN_SEARCHES:
        return "too little data", f"{changed}; at least {MIN_SEARCHES} have to"
    if lost := [test for test in tests if test.p > ALPHA and test.floor <= ALPHA]:
        reasons = (
            f"{test.null} gives as much: {test.expected:.2f} against {test.observed:.2f} (p = {test.p:.2g})"
            for test in lost
        )
        return "not supported", f"{changed}, and " + "; ".join(reasons)
    if powerless := [test for test in tests if test.floor > ALPHA]:
        reasons = (
            f"even a perfect outcome happens under {test.null} with p = {test.floor:.2g}"
            for test in powerless
        )
        return (
            "too little data",
            f"{changed}, but these paths are too few or too short: " + "; ".join(reasons),
        )
    if small_priors:
        return (
            "too little data",
            f"{changed}, but with {', '.join(small_priors)} too little is comparable: of both sets at least "
            f"{MIN_SEARCHES} searches have to change one of the same {part.group} parameters {MIN_CHANGES} "
            "times within as many stages",
        )
    beaten = ", ".join(f"{test.null} (p = {test.p:.2g})" for test in tests)
    return "supported", f"{changed}, and it beats {beaten}"


def claim_verdict(verdicts: Sequence[str]) -> str:
    """Return the verdict on the whole claim, which holds where all of its parts do."""
    negative = (verdict for verdict in ("not supported", "too little data") if verdict in verdicts)
    return next(negative, "supported")
