"""Tests whether capacity grows while regularization oscillates: `python -m analysis.dynamics --help`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.claim import (
    CLAIM,
    MIN_SEARCHES,
    ClaimPart,
    claim_verdict,
    monotone,
    monotone_beyond_chance,
    part_verdict,
)
from analysis.commands import add_null_option, publish, search_parser
from analysis.dynamics_text import as_markdown
from analysis.load import load_ended
from analysis.nulls import DRAWS, Measure, NullSamples, mean_of_testable
from analysis.paths import SHAPES, Array, Paths
from analysis.priors import match, permutation_test
from analysis.tables import Tables, copies
from llmzero.cli import run_command
from llmzero.core.settings import path_argument
from llmzero.studies.statistics import holm, mean_interval, wilcoxon

HELP = """\
Test the claim that along good strategies capacity hyperparameters grow from stage to stage while
regularization hyperparameters oscillate. Looked at are the paths to the best stage of each search; of each
parameter that a path changes at least twice it is told whether it only grew, only fell, or oscillated. A
search counts as one observation, however many parameters and paths it has.

What the claim is measured against (nulls):
  capacity:
    direction  a search that grows throughout might as well have fallen throughout
    chance     each stage goes up or down by a coin's decision; short paths are monotone by chance
  regularization:
    order      the stages come in any other order
  both:
    random     each new value is drawn evenly from the catalogue
    prior      searches given with --null, one null for each proposer: of one that sees nothing
               (agent=openai_blind), or of one that draws at random (agent=random); there may be more or
               fewer of them, and with longer or shorter paths: compared are the first stages of each
               path, and of these the first changes of equally many parameters

A part of the claim is supported where it beats every null with p <= 0.05; the claim, where both parts are.
"""
EXAMPLES = """\
examples:
  python -m analysis.dynamics runs/study
  python -m analysis.dynamics runs/mine/* --null runs/blind runs/random --out results
"""


def analyse(tables: Tables, nulls: Tables | None = None, draws: int = DRAWS) -> dict[str, Any]:
    """Return the content of `dynamics.json`: tests and verdicts of the claim, and the shapes of all paths.

    The test against a proposer's prior is the one of `["parts"][GROUP]["tests"]` whose `null` is
    "prior: PROPOSER". Where too little can be compared there is none, and `["not_comparable"]` of the part
    names the proposer.

    Args:
        tables: the searches in question. Copies of searches count as one.
        nulls: searches of proposers whose habits the claim has to beat, each proposer a null of its own. They
            may be more or fewer, with longer or shorter paths.
        draws: random versions of each path, and how often searches are exchanged with those of a prior.
    """
    repeated, repeated_nulls = copies(tables), copies(nulls, tables) if nulls else set()
    tables = tables.of(set(tables.searches["search"]) - repeated)
    paths, priors = Paths.of(tables), _paths_by_proposer(nulls, repeated_nulls) if nulls else {}
    samples = {part.group: null_samples(part, paths, draws) for part in CLAIM}
    results = {
        part.group: judge_part(part, samples[part.group], paths, priors, len(tables.searches), draws)
        for part in CLAIM
    }
    parameters = [row for part in CLAIM for row in _test_parameters(part, samples[part.group], paths)]
    corrected = iter(holm([row["p"] for row in parameters if row["p"] is not None]))
    stages = [len(path.signs) for path in paths.best]
    return {
        "searches": len(tables.searches),
        "copies": len(repeated) + len(repeated_nulls),
        "proposers": tables.searches["proposer"].value_counts().to_dict(),
        "prior_searches": {name: len(prior.best) for name, prior in priors.items()},
        "stages_on_best_paths": float(np.mean(stages)) if stages else 0.0,
        "parts": results,
        "verdict": claim_verdict([result["verdict"] for result in results.values()]),
        "prior_measured": bool(priors),
        "contrast": contrast(paths),
        "shapes": _shapes(paths),
        "parameters": [
            {**row, "p_holm": None if row["p"] is None else next(corrected)} for row in parameters
        ],
    }


def _paths_by_proposer(tables: Tables, left_out: Collection[str]) -> dict[str, Paths]:
    """Return the paths of the searches of each proposer, also where all of its searches are left out."""
    searches, proposers = tables.searches["search"], tables.searches["proposer"].fillna("unknown")
    return {
        str(name): Paths.of(tables.of(set(searches[proposers == name]).difference(left_out)))
        for name in proposers.unique()
    }


# --- tests of the claim ---


def null_samples(part: ClaimPart, paths: Paths, draws: int) -> list[NullSamples]:
    """Return random versions of the best paths of a part's parameters, under each of its nulls."""
    columns = paths.columns(part.group)
    best = [path.select(columns) for path in paths.best]
    return [
        NullSamples.draw(name, null, measure, best, draws) for name, (null, measure) in part.nulls.items()
    ]


def judge_part(
    part: ClaimPart,
    samples: Sequence[NullSamples],
    paths: Paths,
    priors: dict[str, Paths],
    searches: int,
    draws: int,
) -> dict[str, Any]:
    """Test a part of the claim against all nulls.

    Args:
        part: the part of the claim.
        samples: its `null_samples`.
        paths: those of the searches in question.
        priors: those of each proposer whose habits the claim has to beat.
        searches: the number of all searches.
        draws: how often searches are exchanged with those of a prior.
    """
    values = values_by_search(paths, part.group, part.measure)
    matches = {name: match(paths, prior, part) for name, prior in priors.items()}
    small = [name for name, matched in matches.items() if matched is None]
    comparable = {name: matched for name, matched in matches.items() if matched is not None}
    tests = []
    if len(values) >= MIN_SEARCHES:
        tests = [outcome for each in samples if (outcome := each.outcome())]
    tests += [permutation_test(f"prior: {name}", matched, draws) for name, matched in comparable.items()]
    verdict, why = part_verdict(part, tests, len(values), searches, small)
    return {
        "says": part.says,
        "measure": part.words,
        "searches_judged": len(values),
        "observed": asdict(mean_interval([values])) if len(values) else None,
        "tests": [asdict(test) for test in tests],
        "above_priors": {
            name: {
                **asdict(mean_interval([matched.ours], [matched.theirs])),
                "stages": matched.stages,
                "changes": matched.changes,
                "parameters": matched.parameters,
            }
            for name, matched in comparable.items()
        },
        "not_comparable": small,
        "verdict": verdict,
        "why": why,
    }


def values_by_search(paths: Paths, group: str, measure: Measure) -> Array:
    """Return a measure's mean over a group's testable parameters on each search's best path.

    Searches without a testable parameter are left out.
    """
    columns = paths.columns(group)
    means = [
        float(mean_of_testable(measure(path.counts)[columns], testable))
        for path in paths.best
        if (testable := path.counts.testable[columns]).any()
    ]
    return np.array(means)


def _test_parameters(
    part: ClaimPart, samples: Sequence[NullSamples], paths: Paths
) -> Iterator[dict[str, Any]]:
    """Yield the tests of each parameter: p is the largest against any null, as the claim has to beat each.

    There is none of a parameter that fewer than `MIN_SEARCHES` searches changed often enough.
    """
    for i, column in enumerate(paths.columns(part.group)):
        outcomes = [outcome for each in samples if (outcome := each.outcome(i))]
        judged = [path.counts for path in paths.best if path.counts.testable[column]]
        values = [float(part.measure(counts)[column]) for counts in judged]
        p = max(outcome.p for outcome in outcomes) if len(values) >= MIN_SEARCHES else None
        yield {
            "parameter": paths.parameters[column],
            "group": part.group,
            "searches_judged": len(values),
            "observed": float(np.mean(values)) if values else None,
            "expected": {outcome.null: outcome.expected for outcome in outcomes},
            "p": p,
        }


# --- descriptions of the paths ---


def _shapes(paths: Paths) -> list[dict[str, Any]]:
    """Return how frequent each shape is, of each group and each parameter, on best paths and on all paths.

    The share is computed within each search, then averaged over searches.
    """
    columns = {("group", group): paths.columns(group) for group in dict.fromkeys(paths.groups.tolist())}
    columns |= {("parameter", name): np.array([i]) for i, name in enumerate(paths.parameters)}
    rows = []
    for kind, chosen in (("best", paths.best), ("leaves", paths.leaves)):
        searches: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for path in chosen:
            searches[path.search].append(path.counts.shapes)
        for (of, name), indices in columns.items():
            shares = []
            for shapes in searches.values():
                counts = np.bincount(np.array(shapes)[:, indices].ravel(), minlength=len(SHAPES))
                shares.append(counts / len(shapes) / len(indices))
            means = dict(zip(SHAPES, np.mean(shares, axis=0).tolist(), strict=True))
            rows.append({"of": of, "name": name, "paths": kind, "searches": len(shares), **means})
    return rows


def contrast(paths: Paths) -> dict[str, Any] | None:
    """Return by how much more of capacity than of regularization is monotone, where both are testable.

    None where fewer than `MIN_SEARCHES` searches have both.

    What changes seldom is monotone by chance, so the difference is also computed, and tested, beyond what
    coins would do.
    """
    columns = [paths.columns(part.group) for part in CLAIM]
    counts = [path.counts for path in paths.best if all(path.counts.testable[c].any() for c in columns)]
    if len(counts) < MIN_SEARCHES:
        return None
    plain, beyond = (
        [
            np.array([float(mean_of_testable(measure(each)[c], each.testable[c])) for each in counts])
            for c in columns
        ]
        for measure in (monotone, monotone_beyond_chance)
    )
    return {
        "searches": len(counts),
        "difference": asdict(mean_interval([plain[0] - plain[1]])),
        "beyond_chance": asdict(mean_interval([beyond[0] - beyond[1]])),
        "p_wilcoxon": wilcoxon(*beyond),
    }


def main() -> None:
    """Print the verdict and the tables, and write them where --out says."""
    parser = search_parser("dynamics", HELP, EXAMPLES)
    add_null_option(parser, "searches of a proposer to be beaten")
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="write dynamics.json, dynamics.md and trajectories.csv there",
    )
    arguments = parser.parse_args()
    tables = load_ended(arguments.directories)
    report = analyse(tables, load_ended(arguments.null) if arguments.null else None)
    publish("dynamics", report, as_markdown(report), arguments.out)
    if arguments.out:
        Paths.of(tables).table().to_csv(arguments.out / "trajectories.csv", index=False)


if __name__ == "__main__":
    run_command(main)
