"""How often the tests of `analysis.dynamics` err: `python -m analysis.synthetic --help`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from scipy import stats

from analysis.claim import ALPHA, CLAIM, claim_verdict, part_verdict
from analysis.commands import command_parser, publish
from analysis.dynamics import judge_part, null_samples
from analysis.nulls import Outcome
from analysis.paths import Paths
from analysis.priors import match, permutation_test
from analysis.synthetic_searches import CHANCE, FAITHFUL, PLANTED, World, paths_of, write_search
from analysis.tables import Row
from llmzero.cli import run_command
from llmzero.core.settings import path_argument
from llmzero.studies.tables import markdown

LESS_FAITHFUL = (
    0.8  # share of the changes that go as planted, in half of the table of power, and in that of unequal sets
)
POWER_SEARCHES = (5, 10, 20)
POWER_SHARE = 5  # power is measured in one of so many studies
DRAWS = 199
WITHOUT, WITH = "all but the prior", "all"
PRIOR, SUPPORTED = "prior", "supported"
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


@dataclass(frozen=True)
class Sample:
    """A number of searches, the stages of their best paths, and `World.change`."""

    searches: int
    stages: int
    change: tuple[float, float] = (0.6, 0.6)

    def __str__(self) -> str:
        often = (
            ""
            if self.change[0] == self.change[1]
            else f" that change by {self.change[0]} to {self.change[1]}"
        )
        return f"{self.searches} of {self.stages}{often}"

    def paths(self, world: World, first: int) -> Paths:
        """Return the paths of so many searches, whose seeds are `first` and those that follow."""
        shaped = replace(world, depths=(self.stages,), change=self.change)
        return paths_of(shaped, range(first, first + self.searches))


# Searches in question and searches of the prior whose sizes, lengths or changes differ.
UNEQUAL = (
    (Sample(30, 8), Sample(8, 3)),
    (Sample(8, 3), Sample(30, 8)),
    (Sample(40, 12), Sample(5, 4)),
    (Sample(5, 4), Sample(40, 12)),
    (Sample(40, 4), Sample(30, 12)),
    (Sample(20, 8, (0.9, 0.3)), Sample(8, 8, (0.3, 0.9))),
)
# What moves the searches of both sets there, by name.
PROPOSERS = {
    "coin": CHANCE,
    "drawn": World("drawn", "drawn"),
    "leans: 75 % of the changes go up, or turn": World("grows", "oscillates", faithful=0.75),
    "trends": World("trends", "trends"),
    "habits": World("habits", "habits"),
}

HELP = """\
Make searches whose truth is known, test them as `python -m analysis.dynamics` does, and print how often it
says yes.

Worlds: what moves capacity, then what moves regularization.
  grows       95 % of the changes go up            oscillates  95 % of the changes turn round
  trends      each search goes up, or down, throughout, by a coin's decision
  coin        each stage goes up or down by a coin's decision
  drawn       each new value is drawn from the catalogue
  habits      from 95 % to 30 % of the changes go up, or turn round: each parameter has its own share

Where a null is true, its test has to reject in 5 % of the studies at most; so has the whole claim wherever a
part of it is false. The prior is true where one proposer made both sets of searches, also where these differ
in number and length.
"""
EXAMPLES = """\
examples:
  python -m analysis.synthetic --studies 500 --out results
  python -m analysis.synthetic --write runs/planted --searches 8   # search directories to try commands on
"""


def rejections(world: World, prior: World, studies: range, searches: int) -> Counter[tuple[str, str]]:
    """Return in how many studies each null is rejected, and each part and the claim are supported.

    The keys are pairs of a part of the claim and a null; the null of a verdict is `WITHOUT` or `WITH`.

    Args:
        world: what moves the hyperparameters of the searches in question.
        prior: what moves those of the searches that they are tested against.
        studies: their numbers, from which their seeds follow.
        searches: of each study, and as many of the prior.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for study in studies:
        first = 2 * searches * study
        ours = paths_of(world, range(first, first + searches))
        theirs = paths_of(prior, range(first + searches, first + 2 * searches))
        verdicts: dict[str, list[str]] = {WITHOUT: [], WITH: []}
        for part in CLAIM:
            result = judge_part(
                part, null_samples(part, ours, DRAWS), ours, {prior.agent: theirs}, searches, DRAWS
            )
            tests = [Outcome(**test) for test in result["tests"]]
            counts.update((part.says, test.null) for test in tests if test.p <= ALPHA)
            built_in = [test for test in tests if test.null in part.nulls]
            verdicts[WITHOUT].append(part_verdict(part, built_in, result["searches_judged"], searches, [])[0])
            verdicts[WITH].append(result["verdict"])
            counts[part.says, WITHOUT] += verdicts[WITHOUT][-1] == "supported"
        counts.update(
            ("claim", null) for null, each in verdicts.items() if claim_verdict(each) == "supported"
        )
    return counts


def unequal_rejections(
    world: World, prior: World, sizes: tuple[Sample, Sample], studies: range
) -> Counter[tuple[str, str]]:
    """Return in how many studies the prior is rejected, and each part and the claim are supported.

    The keys are pairs of a part of the claim, or the claim, and `PRIOR` or `SUPPORTED`. The other nulls are
    tested where the prior is rejected, as no part is supported elsewhere.

    Args:
        world: what moves the hyperparameters of the searches in question.
        prior: what moves those of the searches that they are tested against.
        sizes: of both sets.
        studies: their numbers, from which their seeds follow.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for study in studies:
        first = 100 * study  # seeds: no set has more than 50 searches
        ours, theirs = sizes[0].paths(world, first), sizes[1].paths(prior, first + 50)
        supported = 0
        for part in CLAIM:
            matched = match(ours, theirs, part)
            if matched is None or permutation_test("prior", matched, DRAWS).p > ALPHA:
                continue
            counts[part.says, PRIOR] += 1
            samples = null_samples(part, ours, DRAWS)
            result = judge_part(part, samples, ours, {"prior": theirs}, sizes[0].searches, DRAWS)
            if result["verdict"] == "supported":
                counts[part.says, SUPPORTED] += 1
                supported += 1
        counts["claim", SUPPORTED] += supported == len(CLAIM)
    return counts


def error_rates(studies: int, searches: int) -> list[Row]:
    """Return the rates of rejection of every null where it is true, and of the claim where it is false."""
    rows = []
    for world, true_nulls in WORLDS.items():
        prior = World(world.capacity, world.regularization, "same")
        counts = rejections(world, prior, range(studies), searches)
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
        counts = rejections(world, prior, range(studies), searches)
        for part, null in pairs:
            row = {"faithful": faithful, "searches": searches, "part": part, "null": null}
            rows.append({**row, **_rate(counts[part, null], studies)})
    return rows


def unequal_error_rates(studies: int) -> list[Row]:
    """Return how often a prior is rejected, and a part supported, though one proposer made both sets."""
    rows = []
    for (name, world), sizes in product(PROPOSERS.items(), UNEQUAL):
        counts = unequal_rejections(world, world, sizes, range(studies))
        for part, what in product((part.says for part in CLAIM), (PRIOR, SUPPORTED)):
            row = {"world": name, "sizes": [str(size) for size in sizes], "part": part, "null": what}
            rows.append({**row, **_rate(counts[part, what], studies)})
    return rows


def unequal_power(studies: int) -> list[Row]:
    """Return how often planted truth is detected where the sets differ in number and length."""
    rows = []
    pairs = [*((part.says, PRIOR) for part in CLAIM), ("claim", SUPPORTED)]
    world = replace(PLANTED, faithful=LESS_FAITHFUL)
    for prior, sizes in product(("coin", "drawn"), UNEQUAL):
        counts = unequal_rejections(world, PROPOSERS[prior], sizes, range(studies))
        for part, what in pairs:
            row = {"prior": prior, "sizes": [str(size) for size in sizes]}
            rows.append({**row, "part": part, "null": what, **_rate(counts[part, what], studies)})
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
    equal, unequal = report["false_positives"], report["unequal_false_positives"]
    too_high = "; ".join(
        ", ".join([row["world"], *row.get("sizes", ()), row["part"], row["null"]])
        for row in (*equal, *unequal)
        if row["p_of_more_than_5"] < SUSPICION
    )
    fewer = f"Of one study in {POWER_SHARE}."
    found = ["part", "nulls", "found", "95 % interval"]
    rejected = ["part", "null", "rejected", "95 % interval"]
    return "\n".join(
        [
            f"# Error rates\n\n{report['studies']} studies in each world.\n",
            f"## False positives, {report['searches']} searches in both sets\n",
            _table(["world (capacity, regularization)", *rejected], equal, "world"),
            "## False positives, unequal sets of one proposer\n",
            "Searches and stages of both sets; how often the prior is rejected, and the part supported.\n",
            _table(["proposer", "searches", "of the prior", *rejected], unequal, "world"),
            f"Rates that are above 5 % by more than chance (p < {SUSPICION}): {too_high or 'none'}.\n",
            f"## Power\n\n{fewer} The prior moves by coins.\n",
            _table(
                ["changes as planted", "searches a study", *found], report["power"], "faithful", "searches"
            ),
            f"## Power, unequal sets\n\n{fewer} {LESS_FAITHFUL:.0%} of the changes are as planted.\n",
            _table(
                ["prior", "searches", "of the prior", *found],
                report["unequal_power"],
                "prior",
            ),
        ]
    )


def _table(head: list[str], rows: list[Row], *keys: str) -> str:
    """Return a table of rates, whose first columns are some keys of the rows, and their sizes."""
    cells = [
        [
            *(f"{row[key]:.0%}" if key == "faithful" else str(row[key]) for key in keys),
            *row.get("sizes", ()),
            row["part"],
            row["null"],
            f"{row['rate']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
        ]
        for row in rows
    ]
    return markdown(head, cells)


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
    fewer = max(1, arguments.studies // POWER_SHARE)
    report = {
        "studies": arguments.studies,
        "searches": arguments.searches,
        "false_positives": error_rates(arguments.studies, arguments.searches),
        "unequal_false_positives": unequal_error_rates(arguments.studies),
        "power": power(fewer),
        "unequal_power": unequal_power(fewer),
    }
    publish("synthetic", report, as_markdown(report), arguments.out)


if __name__ == "__main__":
    run_command(main)
