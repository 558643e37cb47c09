"""`dynamics.json` as Markdown for people: `dynamics.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.paths import SHAPES
from llmzero.studies.tables import markdown


def as_markdown(report: dict[str, Any]) -> str:
    """Return `dynamics.md`."""
    return "\n".join([*_headline(report), *_tests(report), *_shape_tables(report), *_parameter_table(report)])


def _headline(report: dict[str, Any]) -> Iterator[str]:
    proposers = ", ".join(f"{name} ({count})" for name, count in report["proposers"].items())
    copies = f" {report['copies']} copies of searches are left out." if report["copies"] else ""
    length = f"{report['stages_on_best_paths']:.1f} stages on the mean best path"
    yield f"# Dynamics\n\n{report['searches']} searches of {proposers or 'nobody'}, {length}.{copies}\n"
    yield f"**Capacity grows while regularization oscillates: {report['verdict']}.**\n"
    yield "".join(
        f"- {part['says']}: **{part['verdict']}**. {part['why'][:1].upper()}{part['why'][1:]}.\n"
        for part in report["parts"].values()
    )
    if not report["prior_measured"]:
        yield (
            "The proposer's own prior was not measured: a proposer that always moves this way would pass "
            "too. --null takes searches of one.\n"
        )
    if contrast := report["contrast"]:
        difference, beyond = (_interval(contrast[key], "+") for key in ("difference", "beyond_chance"))
        yield (
            f"Share of capacity less share of regularization that is monotone: {difference} "
            f"in {contrast['searches']} searches;"
        )
        yield f"beyond what chance gives to so many changes: {beyond} (p = {contrast['p_wilcoxon']:.2g}).\n"


def _tests(report: dict[str, Any]) -> Iterator[str]:
    yield (
        "## Tests\n\nThe mean over searches, each of which counts as one. "
        "Direction: share that only grew less share that only fell."
    )
    yield (
        "Against priors the first stages of each path count, and of these the first changes of equally "
        "many parameters of each search. "
        "In brackets 95 % intervals of the mean (Student's t).\n"
    )
    rows = [
        [
            part["says"],
            test["null"],
            f"{test['observed']:.2f}",
            f"{test['expected']:.2f}",
            f"{test['p']:.2g}",
            f"{test['floor']:.1g}",
        ]
        for part in report["parts"].values()
        for test in part["tests"]
    ]
    rows += [
        [part["says"], f"prior: {name}", "", "", "too little data", ""]
        for part in report["parts"].values()
        for name in part["not_comparable"]
    ]
    yield markdown(["part", "null", "observed", "under the null", "p", "least p possible"], rows)
    for part in report["parts"].values():
        if part["observed"]:
            yield f"{part['says']}: {part['measure']}: {_interval(part['observed'])}."
        for proposer, difference in part["above_priors"].items():
            yield (
                f"{part['says']}: above that of {proposer} by {_interval(difference, '+')} "
                f"(of each search the first {difference['changes']} changes of "
                f"{difference['parameters']} parameters within the first {difference['stages']} stages)."
            )
    yield ""


def _shape_tables(report: dict[str, Any]) -> Iterator[str]:
    for of, kind, words in (
        ("group", "best", "best paths"),
        ("group", "leaves", "all paths"),
        ("parameter", "best", "best paths"),
    ):
        yield f"## Shapes of each {of} on {words}\n"
        rows = [
            [row["name"], str(row["searches"]), *(f"{row[shape]:.2f}" for shape in SHAPES)]
            for row in report["shapes"]
            if row["of"] == of and row["paths"] == kind
        ]
        yield markdown([of, "searches", *SHAPES], rows)


def _parameter_table(report: dict[str, Any]) -> Iterator[str]:
    yield (
        "## Tests of each parameter\n\n"
        "p: the largest against any null but priors; Holm: corrected for the number of parameters.\n"
    )
    rows = [
        [
            row["parameter"],
            row["group"],
            str(row["searches_judged"]),
            *("-" if row[key] is None else f"{row[key]:.2g}" for key in ("observed", "p", "p_holm")),
        ]
        for row in report["parameters"]
    ]
    yield markdown(["parameter", "group", "searches judged", "observed", "p", "Holm"], rows)


def _interval(interval: dict[str, float], sign: str = "") -> str:
    value, low, high = (f"{interval[key]:{sign}.2f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
