"""How hyperparameters move along the stages: does capacity grow while regularization oscillates? `python -m analysis.dynamics --help`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.load import Tables, load, parser_of, publish
from analysis.nulls import (
    DRAWS,
    Measure,
    Null,
    Outcome,
    Versions,
    against,
    drawn,
    mean_of_judged,
    reordered,
    turned_searches,
    turned_stages,
)
from analysis.paths import LEAST, SHAPES, Array, Counts, Line, Paths
from llmzero.cli import run_command
from llmzero.studies.statistics import Interval, holm, interval, mean, wilcoxon
from llmzero.studies.tables import markdown

ALPHA = 0.05
MIN_SEARCHES = 5  # fewer cannot reach p = 0.05 where each search counts as one

HELP = """\
Test the claim that along good strategies capacity hyperparameters grow from stage to stage while regularization hyperparameters
oscillate. Looked at are the paths to the best stage of each search; of each parameter that a path changes at least twice it is told
whether it only grew, only fell, or oscillated. A search counts as one observation, however many parameters and paths it has.

What the claim is measured against (nulls):
  direction   a search that grows throughout might as well have fallen throughout                    (capacity)
  chance      each stage goes up or down by a coin's decision; short paths are monotone by chance    (capacity)
  order       the stages come in any other order                                                     (regularization)
  random      each new value is drawn evenly from the catalogue                                      (both)
  prior       searches given with --null, one null for each proposer: of one that sees nothing
              (agent=openai_blind), or of one that draws at random (agent=random)                    (both)

A part of the claim is supported where it beats every null with p <= 0.05; the claim, where both parts are.
"""
EXAMPLES = """\
examples:
  python -m analysis.dynamics runs/study
  python -m analysis.dynamics runs/mine/* --null runs/blind runs/random --out found
"""


def _grew(counts: Counts) -> Array:
    return np.asarray(counts.ups == counts.changes, float)


def _leaning(counts: Counts) -> Array:
    return np.asarray(_grew(counts) - (counts.ups == 0))


def _grew_beyond_chance(counts: Counts) -> Array:
    return np.asarray(_grew(counts) - 0.5**counts.changes)


def _monotone(counts: Counts) -> Array:
    return np.asarray(counts.turns == 0, float)


def _monotone_beyond_chance(counts: Counts) -> Array:
    return np.asarray(_monotone(counts) - 2 * 0.5**counts.changes)


def _turning(counts: Counts) -> Array:
    return np.asarray(counts.turns / np.maximum(counts.changes - 1, 1))


@dataclass(frozen=True)
class Part:
    """A part of the claim.

    Attributes:
        measure: what it says is high, of each parameter on a path; `words` say what that is.
        compared: the measure by which searches with paths of other lengths are compared.
        nulls: what it has to beat, by name.
    """

    group: str
    says: str
    words: str
    measure: Measure
    compared: Measure
    nulls: dict[str, tuple[Null, Measure]]


CLAIM = (
    Part(
        "capacity",
        "capacity grows",
        "share that only grew",
        _grew,
        _grew_beyond_chance,
        {
            "direction": (turned_searches, _leaning),
            "chance": (turned_stages, _grew),
            "random": (drawn, _grew),
        },
    ),
    Part(
        "regularization",
        "regularization oscillates",
        "turns, as a share of the possible ones",
        _turning,
        _turning,
        {"order": (reordered, _turning), "random": (drawn, _turning)},
    ),
)


def analysed(tables: Tables, nulls: Tables | None = None, draws: int = DRAWS) -> dict[str, Any]:
    """Return what `dynamics.json` holds: of each part of the claim its tests and verdict, and of each parameter and group its shapes."""
    paths, priors = Paths.of(tables), _by_proposer(nulls)
    parts = {part.group: _part(part, paths, priors, len(tables.searches), draws) for part in CLAIM}
    return {
        "searches": len(tables.searches),
        "proposers": tables.searches["proposer"].value_counts().to_dict(),
        "prior_searches": {name: len(prior.best) for name, prior in priors.items()},
        "stages_on_best_paths": float(np.mean([len(line.signs) for line in paths.best]))
        if paths.best
        else 0.0,
        "parts": {
            group: {key: value for key, value in found.items() if key != "parameters"}
            for group, found in parts.items()
        },
        "verdict": overall([found["verdict"] for found in parts.values()]),
        "prior_measured": bool(priors),
        "contrast": _contrast(paths),
        "shapes": _shapes(paths),
        "parameters": _corrected([row for found in parts.values() for row in found["parameters"]]),
    }


def _by_proposer(nulls: Tables | None) -> dict[str, Paths]:
    """Return the paths of the searches of each proposer."""
    if nulls is None:
        return {}
    names = nulls.searches["proposer"].fillna("unknown")
    return {str(name): Paths.of(nulls.of(nulls.searches["search"][names == name])) for name in names.unique()}


def _part(part: Part, paths: Paths, priors: dict[str, Paths], searches: int, draws: int) -> dict[str, Any]:
    columns = paths.columns(part.group)
    lines = [line.of(columns) for line in paths.best]
    versions = [
        Versions.of(name, null, measure, lines, draws) for name, (null, measure) in part.nulls.items()
    ]
    values = values_of(paths, part.group, part.measure)
    tests = [outcome for each in versions if (outcome := each.outcome())]
    silent = [
        name
        for name, prior in priors.items()
        if len(values_of(prior, part.group, part.measure)) < MIN_SEARCHES
    ]
    telling = {name: prior for name, prior in priors.items() if name not in silent and len(values)}
    tests += [_prior_test(part, name, paths, prior, draws) for name, prior in telling.items()]
    verdict, why = judged(part, tests, len(values), searches, silent)
    return {
        "says": part.says,
        "measure": part.words,
        "searches_judged": len(values),
        "observed": asdict(interval(mean, [values])) if len(values) else None,
        "tests": [asdict(test) for test in tests],
        "above_priors": {
            name: asdict(_difference(values, values_of(prior, part.group, part.measure)))
            for name, prior in telling.items()
        },
        "verdict": verdict,
        "why": why,
        "parameters": [
            _parameter(part, name, lines, versions, i)
            for i, name in enumerate(np.array(paths.parameters)[columns].tolist())
        ],
    }


def _prior_test(part: Part, name: str, paths: Paths, prior: Paths, draws: int) -> Outcome:
    ours, theirs = (values_of(of, part.group, part.compared) for of in (paths, prior))
    return against(f"prior: {name}", ours, theirs, draws)


def _difference(ours: Array, theirs: Array) -> Interval:
    return interval(lambda a, b: mean(a) - mean(b), [ours], [theirs])


def values_of(paths: Paths, group: str, measure: Measure) -> Array:
    """Return the mean of a measure over a group's parameters on the best path of each search that can be judged."""
    columns = paths.columns(group)
    told = [(measure(line.counts)[columns], line.counts.judged[columns]) for line in paths.best]
    return np.array([float(mean_of_judged(values, enough)) for values, enough in told if enough.any()])


# --- the verdict ---


def judged(
    part: Part, tests: Sequence[Outcome], count: int, searches: int, silent: Sequence[str]
) -> tuple[str, str]:
    """Return the verdict on a part of the claim and the reason; `silent` are the priors of which too few searches can be judged."""
    changed = f"{count} of {searches} searches changed a {part.group} parameter at least {LEAST} times on their best path"
    if count < MIN_SEARCHES:
        return "too little data", f"{changed}; at least {MIN_SEARCHES} have to"
    lost = [test for test in tests if test.p > ALPHA and test.floor <= ALPHA]
    mute = [test for test in tests if test.floor > ALPHA]
    if lost:
        return "not supported", f"{changed}, and " + "; ".join(map(_lost, lost))
    if mute:
        return "too little data", f"{changed}, but these paths are too few or too short: " + "; ".join(
            map(_mute, mute)
        )
    if silent:
        return (
            "too little data",
            f"fewer than {MIN_SEARCHES} searches of {', '.join(silent)} changed a {part.group} parameter as often",
        )
    return "supported", f"{changed}, and it beats " + ", ".join(
        f"{test.null} (p = {test.p:.2g})" for test in tests
    )


def _lost(test: Outcome) -> str:
    return f"{test.null} gives as much: {test.expected:.2f} against {test.observed:.2f} (p = {test.p:.2g})"


def _mute(test: Outcome) -> str:
    return f"even a perfect outcome happens under {test.null} with p = {test.floor:.2g}"


def overall(verdicts: Sequence[str]) -> str:
    """Return the verdict on the claim, which holds where all of its parts do."""
    return next(
        (verdict for verdict in ("not supported", "too little data") if verdict in verdicts), "supported"
    )


# --- parameters and groups ---


def _parameter(
    part: Part, name: str, lines: Sequence[Line], versions: Sequence[Versions], column: int
) -> dict[str, Any]:
    """Return the tests of one parameter: p is the largest against any null, as the claim has to beat each."""
    outcomes = [outcome for each in versions if (outcome := each.outcome(column))]
    value = [float(part.measure(line.counts)[column]) for line in lines if line.counts.judged[column]]
    return {
        "parameter": name,
        "group": part.group,
        "searches_judged": len(value),
        "observed": float(np.mean(value)) if value else None,
        "expected": {outcome.null: outcome.expected for outcome in outcomes},
        "p": max(outcome.p for outcome in outcomes) if outcomes else None,
    }


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with their p corrected for the number of parameters that were tested."""
    corrected = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    return [{**row, "p_holm": next(corrected) if row["p"] is not None else None} for row in rows]


def _shapes(paths: Paths) -> list[dict[str, Any]]:
    """Return how often each shape is, of each group and parameter, on best paths and on all: the mean over searches of the share in each."""
    columns = {("group", group): paths.columns(group) for group in dict.fromkeys(paths.groups.tolist())}
    columns |= {("parameter", name): np.array([i]) for i, name in enumerate(paths.parameters)}
    rows = []
    for kind, lines in (("best", paths.best), ("leaves", paths.leaves)):
        searches: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for line in lines:
            searches[line.search].append(line.counts.shapes)
        for (of, name), kept in columns.items():
            shares = [
                np.bincount(np.array(shapes)[:, kept].ravel(), minlength=len(SHAPES))
                / len(shapes)
                / len(kept)
                for shapes in searches.values()
            ]
            means = dict(zip(SHAPES, np.mean(shares, axis=0).tolist(), strict=True))
            rows.append({"of": of, "name": name, "paths": kind, "searches": len(shares), **means})
    return rows


def _contrast(paths: Paths) -> dict[str, Any] | None:
    """Return by how much more of capacity than of regularization is monotone, in the searches where both can be judged.

    What changes seldom is monotone by chance, so the difference is also given, and tested, beyond what coins would do.
    """
    columns = [paths.columns(part.group) for part in CLAIM]
    lines = [line.counts for line in paths.best if all(line.counts.judged[c].any() for c in columns)]
    if not lines:
        return None
    plain, beyond = (
        [
            np.array([float(mean_of_judged(measure(counts)[c], counts.judged[c])) for counts in lines])
            for c in columns
        ]
        for measure in (_monotone, _monotone_beyond_chance)
    )
    return {
        "searches": len(lines),
        "difference": asdict(interval(mean, [plain[0] - plain[1]])),
        "beyond_chance": asdict(interval(mean, [beyond[0] - beyond[1]])),
        "p_wilcoxon": wilcoxon(*beyond),
    }


# --- for people ---


def told(found: dict[str, Any]) -> str:
    """Return `dynamics.md`."""
    return "\n".join([*_headline(found), *_tests(found), *_shape_tables(found), *_parameters(found)])


def _headline(found: dict[str, Any]) -> Iterator[str]:
    proposers = ", ".join(f"{name} ({count})" for name, count in found["proposers"].items())
    length = f"{found['stages_on_best_paths']:.1f} stages on the mean best path"
    yield f"# Dynamics\n\n{found['searches']} searches of {proposers or 'nobody'}, {length}.\n"
    yield f"**Capacity grows while regularization oscillates: {found['verdict']}.**\n"
    yield "".join(
        f"- {part['says']}: **{part['verdict']}**. {part['why'][:1].upper()}{part['why'][1:]}.\n"
        for part in found["parts"].values()
    )
    if not found["prior_measured"]:
        yield "The proposer's own prior was not measured: a proposer that always moves this way would pass too. --null takes searches of one.\n"
    if found["contrast"]:
        of = found["contrast"]
        difference, beyond = (
            f"{of[k]['value']:+.2f} [{of[k]['low']:+.2f}, {of[k]['high']:+.2f}]"
            for k in ("difference", "beyond_chance")
        )
        yield f"Share of capacity less share of regularization that is monotone: {difference} in {of['searches']} searches;"
        yield f"beyond what chance gives to so many changes: {beyond} (p = {of['p_wilcoxon']:.2g}).\n"


def _tests(found: dict[str, Any]) -> Iterator[str]:
    yield "## Tests\n\nThe mean over searches, each of which counts as one. Direction: share that only grew less share that only fell."
    yield "Against priors growth is what lies above the share that coins would give to so many changes. In brackets bootstrap 95 % intervals.\n"
    rows = []
    for part in found["parts"].values():
        for test in part["tests"]:
            rows.append(
                [
                    part["says"],
                    test["null"],
                    f"{test['observed']:.2f}",
                    f"{test['expected']:.2f}",
                    f"{test['p']:.2g}",
                    f"{test['floor']:.1g}",
                ]
            )
    yield markdown(["part", "null", "observed", "under the null", "p", "least p possible"], rows)
    for part in found["parts"].values():
        if of := part["observed"]:
            yield f"{part['says']}: {part['measure']}: {of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}]."
        for agent, of in part["above_priors"].items():
            yield f"{part['says']}: above that of {agent} by {of['value']:+.2f} [{of['low']:+.2f}, {of['high']:+.2f}]."
    yield ""


def _shape_tables(found: dict[str, Any]) -> Iterator[str]:
    for of, kind, words in (
        ("group", "best", "best paths"),
        ("group", "leaves", "all paths"),
        ("parameter", "best", "best paths"),
    ):
        yield f"## Shapes of each {of} on {words}\n"
        kept = [row for row in found["shapes"] if row["of"] == of and row["paths"] == kind]
        yield markdown(
            [of, "searches", *SHAPES],
            [[row["name"], str(row["searches"]), *(f"{row[s]:.2f}" for s in SHAPES)] for row in kept],
        )


def _parameters(found: dict[str, Any]) -> Iterator[str]:
    yield "## Tests of each parameter\n\np: the largest against any null but priors; Holm: corrected for the number of parameters.\n"
    rows = [
        [
            row["parameter"],
            row["group"],
            str(row["searches_judged"]),
            _number(row["observed"]),
            _number(row["p"]),
            _number(row["p_holm"]),
        ]
        for row in found["parameters"]
    ]
    yield markdown(["parameter", "group", "searches judged", "observed", "p", "Holm"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def main() -> None:
    """Print the verdict and the tables, and write them where that is asked for."""
    parser = parser_of("dynamics", HELP, EXAMPLES)
    parser.add_argument(
        "--null",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIRECTORY",
        help="searches of a proposer to be beaten",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write dynamics.json, dynamics.md and trajectories.csv there"
    )
    given = parser.parse_args()
    tables = load(given.directories)
    found = analysed(tables, load(given.null) if given.null else None)
    publish("dynamics", found, told(found), given.out)
    if given.out:
        Paths.of(tables).table().to_csv(given.out / "trajectories.csv", index=False)


if __name__ == "__main__":
    run_command(main)
