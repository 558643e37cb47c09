"""What early stopping saved, and how often audits show it to be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

from llmzero.core.stage import ValidationPoint, best_point
from llmzero.tree.tree import Node, Tree

FOLLOWING = ("seconds_validation", "seconds_checkpoint")
SAMPLED = 10_000  # of the steps that a stage did not take: the cost of more is that of some of them
Steps = Sequence[Mapping[str, Any]]  # rows of `metrics.jsonl`


def stopping_record(tree: Tree, metrics: Callable[[str], Steps]) -> dict[str, Any]:
    """Return what `summary.json` says of the early stopper.

    `saved_gpu_seconds` is what the steps that stopped stages did not take would have cost. Audited stages
    were judged hopeless too and ran on: `false_kills` counts those that passed the best score of the time of
    the decision, `clear_false_kills` those that did so by more than the standard error of their own score.

    Args:
        tree: the stages.
        metrics: returns the steps of a stage, by the stage's id.
    """
    decided = [
        node for node in tree.stages() if node.stop and node.result and node.stop.get("incumbent") is not None
    ]
    audited = [node for node in decided if node.stop and node.stop["event"] == "audited"]
    stopped = [node for node in decided if node not in audited]
    return {
        "stopped": len(stopped),
        "saved_gpu_seconds": round(sum(_saved(node, metrics(node.node_id)) for node in stopped), 3),
        "audited": len(audited),
        "false_kills": sum(excess > 0 for excess in _excesses(audited, 0)),
        "clear_false_kills": sum(excess > 0 for excess in _excesses(audited, 1)),
    }


def _excesses(audited: Sequence[Node], errors: float) -> Iterator[float]:
    """Yield by how much each stage passed the best score of the time, and so many of its standard errors."""
    for node in audited:
        point = best_point(node.result.validation) if node.result else None
        if node.score is not None and node.stop:
            stderr = point.stderr if point is not None else 0.0
            yield node.score - node.stop["incumbent"] - errors * stderr


def _saved(node: Node, taken: Steps) -> float:
    """Return the device seconds of the steps that a stage did not take; the stage's start is paid already.

    Steps grow longer with the completions, so their seconds are carried on along a line (Theil and Sen's,
    which a first step that compiles does not bend), up to a step whose completions all reach their limit.
    A validation and a checkpoint follow every so many steps and the last one, see `_following`.
    """
    assert node.result is not None
    if not taken or not node.result.seconds:
        return 0.0
    taken = list({row["step"]: row for row in taken}.values())
    points = [(row["step"], row.get("step_seconds") or 0.0) for row in taken]
    slope = median([(b - a) / (j - i) for (i, a), (j, b) in combinations(points, 2)] or [0.0])
    start = median(seconds - slope * step for step, seconds in points)
    longest, length = math.inf, taken[-1].get("completion_length_mean")
    if length:
        most = max(seconds for _, seconds in points)
        longest = most * node.hparams.get("max_completion_length", math.inf) / length
    ended = points[-1][0]
    last = node.length.expected_steps(ended, node.result.flops)
    if last <= ended:
        return 0.0
    among = range(ended + 1, last + 1, max(1, (last - ended) // SAMPLED))
    steps = (last - ended) * fmean(max(0.0, min(start + slope * step, longest)) for step in among)
    devices = node.result.gpu_seconds / node.result.seconds
    return float(devices * (steps + _following(node.result.validation, taken, ended, last)))


def _following(validations: Sequence[ValidationPoint], taken: Steps, ended: int, last: int) -> float:
    """Return the seconds of the validations and checkpoints of the steps after `ended`, up to the last.

    The first validation says after how many steps one follows, as nobody stops a stage before it. Each costs
    what the latest did.
    """
    every = validations[0].step if validations else last
    count = last // every - ended // every + (last % every > 0)
    seconds = ([row[name] for row in taken if row.get(name)] for name in FOLLOWING)
    return float(count * sum(each[-1] for each in seconds if each))
