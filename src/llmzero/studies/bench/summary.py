"""Sums up the scores of agents over decision points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

Record = dict[str, Any]
ALL = "all"
VALIDITY = ("first", "repaired", "part", "never")
ACTIONS = ("change", "continue", "close")


def mean_of(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return a mean with its standard error, which one value has not."""
    return {
        "mean": fmean(values) if values else None,
        "stderr": stdev(values) / sqrt(len(values)) if len(values) > 1 else None,
        "n": len(values),
    }


def ratio_of(values: Sequence[float], units: Sequence[float]) -> dict[str, float | int | None]:
    """Return the ratio of two sums over the same points, with its standard error by linearisation."""
    whole, n = sum(units), len(units)
    if not whole:
        return {"mean": None, "stderr": None, "n": n}
    ratio = sum(values) / whole
    rest = sum((value - ratio * unit) ** 2 for value, unit in zip(values, units, strict=True))
    stderr = sqrt(rest / (n - 1) * n) / abs(whole) if n > 1 else None
    return {"mean": ratio, "stderr": stderr, "n": n}


def summary_of(rows: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Return the scores of every agent, by task and over all of them, in the order of the rows."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    groups = {ALL: rows, **{task: [row for row in rows if row["task"] == task] for task in tasks}}
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    return {
        task: {agent: agent_scores([row for row in group if row["agent"] == agent]) for agent in agents}
        for task, group in groups.items()
    }


def agent_scores(rows: Sequence[Record]) -> Record:
    """Return the scores of one agent's answers; points without an answer are counted alone."""
    answered = [row for row in rows if row["answered"]]
    scores: Record = {"points": len(rows), "unanswered": len(rows) - len(answered)}
    for kind in ("val", "test", "path", "path_test"):
        known = [row for row in answered if row["regret"][kind] is not None]
        regrets = [row["regret"][kind] for row in known]
        scores[f"regret_{kind}"] = mean_of(regrets)
        scores[f"of_chance_{kind}"] = ratio_of(regrets, [row["chance"][kind] for row in known])
    said = [row for row in answered if "validity" in row]
    if said:
        scores |= _answers(said) | _foresight([row["expected"] for row in said if "expected" in row])
    return scores


def _answers(rows: Sequence[Record]) -> Record:
    counts, actions = Counter(row["validity"] for row in rows), Counter(row["action"] for row in rows)
    calls = sum(row["calls"] for row in rows)
    return {
        "validity": {name: counts[name] for name in VALIDITY},
        "actions": {name: actions[name] for name in ACTIONS},
        "elsewhere": sum(row["elsewhere"] for row in rows),
        "not_recorded": sum(not row["exact"] for row in rows),
        "calls": calls,
        "tokens": sum(row["tokens"] for row in rows),
        "dollars": sum(row["dollars"] for row in rows),
        "seconds_a_call": sum(row["seconds"] for row in rows) / calls if calls else None,
    }


def _foresight(expected: Sequence[Mapping[str, Any]]) -> Record:
    """Return how well agents knew what would come."""
    known = [each for each in expected if each["score"] is not None]
    held = _both(known, ("low", "high"), lambda e: float(e["low"] <= e["score"] <= e["high"]))
    width = _both(known, ("low", "high"), lambda e: e["high"] - e["low"])
    error = _both(known, ("expected_score",), lambda e: e["expected_score"] - e["score"])
    directions = [float(hit) for each in expected for _, _, hit in each["metrics"]]
    return {
        "brier": mean_of(
            _both(expected, ("probability",), lambda e: (e["probability"] - e["improved"]) ** 2)
        ),
        "brier_best": mean_of(
            _both(
                expected,
                ("probability_best", "was_best"),
                lambda e: (e["probability_best"] - e["was_best"]) ** 2,
            )
        ),
        "coverage": mean_of(held),
        "width": mean_of(width),
        "score_error": mean_of(list(map(abs, error))),
        "score_bias": mean_of(error),
        "directions": mean_of(directions),
    }


def _both(
    expected: Iterable[Mapping[str, Any]], needed: Sequence[str], value: Callable[[Mapping[str, Any]], float]
) -> list[float]:
    """Return a value of the expectations that say what it needs."""
    return [float(value(each)) for each in expected if all(each[name] is not None for name in needed)]
