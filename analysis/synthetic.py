"""How often the tests of `analysis.dynamics` err: `python -m analysis.synthetic --help`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

from scipy import stats

from analysis.claim import ALPHA, CLAIM, claim_verdict, part_verdict
from analysis.commands import command_parser, publish
from analysis.dynamics import analyse
from analysis.nulls import Outcome
from analysis.synthetic_searches import CHANCE, FAITHFUL, PLANTED, World, tables_of, write_search
from analysis.tables import Row
from llmzero.cli import run_command
from llmzero.core.settings import path_argument
from llmzero.studies.tables import markdown

LESS_FAITHFUL = 0.8  # share of the changes that go as planted, in the second half of the table of power
POWER_SEARCHES = (5, 10, 20)
DRAWS = 499
WITHOUT, WITH = "all but the prior", "all"
SUSPICION = 0.01

# The nulls that are true in each world; the prior is true in all, as its searches are of the same world.
WORLDS: dict[World, dict[str, tuple[str, ...]]] = {
    PLANTED: {"capacity": (), "regularization": ()},
    CHANCE: {"capacity": ("direction", "chance"), "regularization": ("order",)},
    World("drawn", "drawn"): {"capacity": ("random",), "regularization": ("random",)},
    World("trends", "oscillates"): {"capacity": ("direction",), "regularization": ()},
    World("coin", "oscillates"): {"capacity": ("direction", "chance"), "regularization": ()},
    World("grows", "coin"): {"capacity": (), "regularization": ("order",)},
    World("grows", "drawn"): {"capacity": (), "regularization": ("random",)},
}

HELP = """\
Make searches whose truth is known, test them as `python -m analysis.dynamics` does, and print how often it
says yes.

Worlds: what moves capacity, then what moves regularization.
  grows       95 % of the changes go up            oscillates  95 % of the changes turn round
  trends      each search goes up, or down, throughout, by a coin's decision
  coin        each stage goes up or down by a coin's decision
  drawn       each new value is drawn from the catalogue

Where a null is true, its test has to reject in 5 % of the studies at most; so has the whole claim wherever a
part of it is false.
"""
EXAMPLES = """\
examples:
  python -m analysis.synthetic --studies 500 --out results
  python -m analysis.synthetic --write runs/planted --searches 8   # search directories to try commands on
"""


def rejections(world: World, prior: World, studies: int, searches: int) -> Counter[tuple[str, str]]:
    """Return in how many studies each null is rejected, and each part and the claim are supported.

    The keys are pairs of a part of the claim and a null; the null of a verdict is `WITHOUT` or `WITH`.

    Args:
        world: what moves the hyperparameters of the searches in question.
        prior: what moves those of the searches that they are tested against.
        studies: how many studies are made.
        searches: of each study, and as many of the prior.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for study in range(studies):
        first = 2 * searches * study
        ours = tables_of(world, range(first, first + searches))
        theirs = tables_of(prior, range(first + searches, first + 2 * searches))
        report = analyse(ours, theirs, DRAWS)
        verdicts = []
        for part in CLAIM:
            result = report["parts"][part.group]
            tests = [Outcome(**test) for test in result["tests"]]
            counts.update((part.says, test.null) for test in tests if test.p <= ALPHA)
            built_in = [test for test in tests if test.null in part.nulls]
            verdicts.append(part_verdict(part, built_in, result["searches_judged"], searches, [])[0])
            counts[part.says, WITHOUT] += verdicts[-1] == "supported"
        counts["claim", WITHOUT] += claim_verdict(verdicts) == "supported"
        counts["claim", WITH] += report["verdict"] == "supported"
    return counts


def error_rates(studies: int, searches: int) -> list[Row]:
    """Return the rates of rejection of every null where it is true, and of the claim where it is false."""
    rows = []
    for world, true_nulls in WORLDS.items():
        prior = World(world.capacity, world.regularization, "same")
        counts = rejections(world, prior, studies, searches)
        pairs = [(part.says, null) for part in CLAIM for null in (*true_nulls[part.group], "prior: same")]
        pairs += [("claim", WITHOUT), ("claim", WITH)] if world != PLANTED else [("claim", WITH)]
        rows += [
            {"world": str(world), "part": part, "null": null, **_rate(counts[part, null], studies)}
            for part, null in pairs
        ]
    return rows


def power(studies: int) -> list[Row]:
    """Return how often planted truth is detected, by the searches of a study and by how faithful they are.

    The searches of the prior move by coins.
    """
    rows = []
    pairs = [*((part.says, WITHOUT) for part in CLAIM), ("claim", WITHOUT), ("claim", WITH)]
    for faithful, searches in product((FAITHFUL, LESS_FAITHFUL), POWER_SEARCHES):
        world, prior = replace(PLANTED, faithful=faithful), World("coin", "coin", "coins")
        counts = rejections(world, prior, studies, searches)
        for part, null in pairs:
            row = {"faithful": faithful, "searches": searches, "part": part, "null": null}
            rows.append({**row, **_rate(counts[part, null], studies)})
    return rows


def _rate(count: int, studies: int) -> Row:
    """Return a rate, its exact 95 % interval, and the probability of as many where the true rate is 5 %."""
    test = stats.binomtest(count, studies, ALPHA, alternative="greater")
    low, high = stats.binomtest(count, studies).proportion_ci()
    return {
        "rate": count / studies,
        "low": float(low),
        "high": float(high),
        "p_of_more_than_5": float(test.pvalue),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """Return `synthetic.md`."""
    false_positives = [
        [row["world"], row["part"], row["null"], *_rate_cells(row)] for row in report["false_positives"]
    ]
    powers = [
        [f"{row['faithful']:.0%}", str(row["searches"]), row["part"], row["null"], *_rate_cells(row)]
        for row in report["power"]
    ]
    too_high = "; ".join(
        f"{row['world']}: {row['part']}, {row['null']}"
        for row in report["false_positives"]
        if row["p_of_more_than_5"] < SUSPICION
    )
    return "\n".join(
        [
            f"# Error rates\n\n{report['studies']} studies of {report['searches']} searches in each world.\n",
            "## False positives\n",
            markdown(
                ["world (capacity, regularization)", "part", "null", "rejected", "95 % interval"],
                false_positives,
            ),
            f"Rates that are above 5 % by more than chance (p < {SUSPICION}): {too_high or 'none'}.\n",
            "## Power\n",
            markdown(
                ["changes as planted", "searches a study", "part", "nulls", "found", "95 % interval"], powers
            ),
        ]
    )


def _rate_cells(row: Row) -> list[str]:
    return [f"{row['rate']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"]


def main() -> None:
    """Measure error rates and power, or write searches."""
    parser = command_parser("synthetic", HELP, EXAMPLES)
    parser.add_argument(
        "--studies", type=int, default=500, help="studies in each world (default: %(default)s)"
    )
    parser.add_argument("--searches", type=int, default=10, help="searches of a study (default: %(default)s)")
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="write synthetic.json and synthetic.md there"
    )
    parser.add_argument(
        "--write",
        type=path_argument,
        metavar="DIR",
        help="only write the searches of one study there, with planted truth and without",
    )
    arguments = parser.parse_args()
    if arguments.write:
        for name, world in (("planted", PLANTED), ("coin", CHANCE)):
            for seed in range(arguments.searches):
                write_search(arguments.write / name / f"seed-{seed}", world, seed)
        return
    report = {
        "studies": arguments.studies,
        "searches": arguments.searches,
        "false_positives": error_rates(arguments.studies, arguments.searches),
        "power": power(arguments.studies),
    }
    publish("synthetic", report, as_markdown(report), arguments.out)


if __name__ == "__main__":
    run_command(main)
