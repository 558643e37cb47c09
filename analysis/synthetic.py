"""How often the tests of `analysis.dynamics` err: `python -m analysis.synthetic --help`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from scipy import stats

from analysis.claim import ALPHA, CLAIM, MIN_SEARCHES, ClaimPart
from analysis.commands import command_parser, publish
from analysis.dynamics import contrast, judge_part, null_samples, values_by_search
from analysis.nulls import NullSamples
from analysis.paths import Paths
from analysis.priors import match, permutation_test
from analysis.synthetic_searches import CHANCE, FAITHFUL, PLANTED, World, paths_of, write_search
from analysis.tables import Row
from llmzero.cli import run_command
from llmzero.core.settings import path_argument
from llmzero.studies.tables import markdown

LESS_FAITHFUL = 0.8  # share of the changes that go as planted, where power is measured
POWER_SHARE = 5  # power is measured in one of so many studies
DRAWS = 99
PRIOR, WITHOUT, WITH = "prior", "supported but for the prior", "supported"
SUSPICION = 0.01


@dataclass(frozen=True)
class Sample:
    """A number of searches, the stages that their best paths may have, and `World.change`."""

    searches: int
    depths: tuple[int, ...]
    change: tuple[float, float] = (0.6, 0.6)

    def __str__(self) -> str:
        low, high = self.depths[0], self.depths[-1]
        first, last = self.change
        stages = f"{low}" if low == high else f"{low}-{high}"
        return f"{self.searches} of {stages}" + ("" if first == last else f", changed by {first} to {last}")

    def paths(self, world: World, first: int) -> Paths:
        """Return the paths of so many searches, whose seeds are `first` and those that follow."""
        shaped = replace(world, depths=self.depths, change=self.change)
        return paths_of(shaped, range(first, first + self.searches))


Nulls = Mapping[str, Sequence[str]]  # of each group
BUILT_IN: Nulls = {part.group: tuple(part.nulls) for part in CLAIM}
NONE: Nulls = {part.group: () for part in CLAIM}

# The nulls that are true in each world; the prior is true in all, as its searches are of the same world.
WORLDS: dict[World, Nulls] = {
    CHANCE: {"capacity": ("direction", "chance"), "regularization": ("order",)},
    World("drawn", "drawn"): {"capacity": ("random",), "regularization": ("random",)},
    World("trends", "oscillates"): {"capacity": ("direction",), "regularization": ()},
    World("coin", "oscillates"): {"capacity": ("direction", "chance"), "regularization": ()},
    World("grows", "coin"): {"capacity": (), "regularization": ("order",)},
    World("grows", "drawn"): {"capacity": (), "regularization": ("random",)},
}
MIXED = tuple(range(3, 13))
EQUAL = (
    Sample(5, (3,)),
    Sample(5, (12,)),
    Sample(10, (5, 6, 7, 8)),
    Sample(20, MIXED),
    Sample(40, (3,)),
    Sample(40, (12,)),
)
# Searches in question and searches of the prior whose sizes, lengths or changes differ.
UNEQUAL = (
    (Sample(30, (8,)), Sample(8, (3,))),
    (Sample(8, (3,)), Sample(30, (8,))),
    (Sample(40, (12,)), Sample(5, (4,))),
    (Sample(5, (4,)), Sample(40, (12,))),
    (Sample(20, MIXED), Sample(10, (3, 4, 5, 6))),
    (Sample(20, (8,), (0.9, 0.3)), Sample(8, (8,), (0.3, 0.9))),
)
# What moves the searches of both sets there, by name.
PROPOSERS = {
    "coin": CHANCE,
    "drawn": World("drawn", "drawn"),
    "leans": World("grows", "oscillates", faithful=0.75),
    "trends": World("trends", "trends"),
    "habits": World("habits", "habits"),
}
POWER = (Sample(10, (4,)), Sample(10, (8,)), Sample(20, (6,)), Sample(40, (4,)), Sample(40, (8,)))

HELP = """\
Make searches whose truth is known, test them as `python -m analysis.dynamics` does, and print how often it
says yes. 500 studies take about a quarter of an hour.

Worlds: what moves capacity, then what moves regularization.
  grows       95 % of the changes go up            oscillates  95 % of the changes turn round
  trends      each search goes up, or down, throughout, by a coin's decision
  coin        each stage goes up or down by a coin's decision
  drawn       each new value is drawn from the catalogue
  leans       75 % of the changes go up, or turn round
  habits      from 95 % to 30 % of the changes go up, or turn round: each parameter has its own share

Where a null is true, its test has to reject in 5 % of the studies at most. The prior is true where one
proposer made both sets of searches, also where these differ in number and length.
"""
EXAMPLES = """\
examples:
  python -m analysis.synthetic --studies 500 --out results
  python -m analysis.synthetic --write runs/planted --searches 8   # search directories to try commands on
"""

PAGE = """\
# Error rates of the tests of `analysis.dynamics`

Written by `python -m analysis.synthetic --studies {studies} --out errors`, whose `--help` says what the
worlds are. "10 of 5-8" are 10 searches with best paths of 5 to 8 stages; each stage changes a parameter with
probability 0.6 where nothing else is said. Of {studies} studies a true rate of 5 % gives more than {bound}
with a probability of 1 %.

Entries above that:{above}

## False positives

Each null hypothesis is true in its world. A part of the claim is supported where all of its null hypotheses
are rejected, so not more often. The prior is as many searches of the same world, as long.

{false}
## False positives where both sets differ

One proposer made both sets: how often the prior is rejected, and the part supported, as all of its null
hypotheses are rejected.

{unequal}
## Power

How often planted truth is found, in {fewer} studies. The first column is the share of changes that are as
planted: up, or a turn.

{power}"""


def rejections(
    world: World, prior: World, sizes: tuple[Sample, Sample], studies: range, nulls: Nulls
) -> Counter[tuple[str, str]]:
    """Return in how many studies each null is rejected, and each part of the claim, and the claim, supported.

    The keys are pairs: of a part of the claim and a null of `nulls`, or `PRIOR`, or `WITH`; `WITHOUT` counts
    studies where all of `nulls` are rejected. "claim" stands for both parts. A part is judged where all these
    nulls are rejected, as it is supported nowhere else.

    Args:
        world: what moves the hyperparameters of the searches in question.
        prior: what moves those of the searches that they are tested against.
        sizes: of both sets.
        studies: their numbers, from which their seeds follow.
        nulls: those to test of each part beside the prior.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for study in studies:
        first = 100 * study  # seeds: no set has more than 50 searches
        ours, theirs = sizes[0].paths(world, first), sizes[1].paths(prior, first + 50)
        both: Counter[str] = Counter()
        for part in CLAIM:
            rejected = [null for null in nulls[part.group] if _p(part, null, ours) <= ALPHA]
            said = [WITHOUT] if len(rejected) == len(nulls[part.group]) else []
            matched = match(ours, theirs, part)
            if matched and permutation_test(PRIOR, matched, DRAWS).p <= ALPHA:
                rejected.append(PRIOR)
                samples = null_samples(part, ours, DRAWS) if said else []
                result = judge_part(part, samples, ours, {PRIOR: theirs}, sizes[0].searches, DRAWS)
                said += [WITH] if said and result["verdict"] == "supported" else []
            counts.update((part.says, what) for what in (*rejected, *said))
            both.update(said)
        counts.update(("claim", what) for what, parts in both.items() if parts == len(CLAIM))
    return counts


def _p(part: ClaimPart, null: str, paths: Paths) -> float:
    """Return the p-value of a part of the claim against a null; 1 where too few searches can be judged."""
    if len(values_by_search(paths, part.group, part.measure)) < MIN_SEARCHES:
        return 1.0
    best = [path.select(paths.columns(part.group)) for path in paths.best]
    outcome = NullSamples.draw(null, *part.nulls[null], best, DRAWS).outcome()
    return outcome.p if outcome else 1.0


def error_rates(studies: int) -> list[Row]:
    """Return how often every null is rejected where it is true, in sets of one size and length."""
    rows = []
    for (world, nulls), size in product(WORLDS.items(), EQUAL):
        counts = rejections(world, world, (size, size), range(studies), nulls)
        rows += [
            _row(
                counts[part.says, null], studies, world=str(world), part=part.says, null=null, sizes=str(size)
            )
            for part in CLAIM
            for null in (*nulls[part.group], PRIOR)
        ]
    return rows


def contrast_error_rates(studies: int) -> list[Row]:
    """Return how often capacity and regularization are told apart that both move by coins."""
    rows = []
    for size in EQUAL:
        contrasts = [contrast(size.paths(CHANCE, 100 * study)) for study in range(studies)]
        count = sum(each is not None and each["p_wilcoxon"] <= ALPHA for each in contrasts)
        words = {"world": str(CHANCE), "part": "the contrast", "null": "no difference"}
        rows.append(_row(count, studies, **words, sizes=str(size)))
    return rows


def unequal_error_rates(studies: int) -> list[Row]:
    """Return how often a prior is rejected, and a part supported, though one proposer made both sets."""
    rows = []
    for (name, world), sizes in product(PROPOSERS.items(), UNEQUAL):
        counts = rejections(world, world, sizes, range(studies), NONE)
        rows += [
            _row(counts[key], studies, world=name, part=key[0], null=key[1], **_words(sizes))
            for key in product((part.says for part in CLAIM), (PRIOR, WITH))
        ]
    return rows


def power(studies: int) -> list[Row]:
    """Return how often planted truth is found, in sets of equal and of unequal sizes and lengths."""
    rows = []
    settings = [
        *product((FAITHFUL, LESS_FAITHFUL), ("coin",), [(size, size) for size in POWER]),
        *product((LESS_FAITHFUL,), ("coin", "drawn"), UNEQUAL),
    ]
    for faithful, prior, sizes in settings:
        world = replace(PLANTED, faithful=faithful)
        counts = rejections(world, PROPOSERS[prior], sizes, range(studies), BUILT_IN)
        words = {"as planted": f"{faithful:.0%}", "prior": prior, **_words(sizes)}
        rows += [
            _row(counts[key], studies, **words, part=key[0], null=key[1])
            for key in product((*(part.says for part in CLAIM), "claim"), (WITHOUT, WITH))
        ]
    return rows


def _words(sizes: tuple[Sample, Sample]) -> dict[str, str]:
    return {"searches": str(sizes[0]), "of the prior": str(sizes[1])}


def _row(count: int, studies: int, **words: str) -> Row:
    """Return a rate, its exact 95 % interval, and the probability of as many where the true rate is 5 %."""
    test = stats.binomtest(count, studies, ALPHA, alternative="greater")
    low, high = stats.binomtest(count, studies).proportion_ci()
    return {
        **words,
        "rate": count / studies,
        "low": float(low),
        "high": float(high),
        "p_of_more_than_5": float(test.pvalue),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """Return `dynamics_error_rates.md`."""
    studies = report["studies"]
    bound = stats.binom.isf(SUSPICION, studies, ALPHA) / studies
    too_high = [
        ", ".join(value for value in row.values() if isinstance(value, str))
        for row in (*report["false_positives"], *report["unequal_false_positives"])
        if row["p_of_more_than_5"] < SUSPICION
    ]
    return PAGE.format(
        studies=studies,
        fewer=report["power_studies"],
        bound=f"{bound:.1%}",
        above="".join(f"\n- {row}" for row in too_high) or " none",
        false=_table(report["false_positives"], ("world", "part", "null"), ("sizes",)),
        unequal=_table(
            report["unequal_false_positives"], ("world", "searches", "of the prior"), ("part", "null")
        ),
        power=_table(report["power"], ("as planted", "prior", "searches", "of the prior"), ("part", "null")),
    )


def _table(rows: Sequence[Row], lines: Sequence[str], columns: Sequence[str]) -> str:
    """Return a table of rates: a line for each combination of some keys, a column for each of others."""
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        line = cells.setdefault(tuple(row[key] for key in lines), {})
        line[", ".join(row[key] for key in columns)] = f"{row['rate']:.1%}"
    heads = list(dict.fromkeys(head for line in cells.values() for head in line))
    table = [[*line, *(rates.get(head, "") for head in heads)] for line, rates in cells.items()]
    return markdown([*lines, *heads], table)


def main() -> None:
    """Measure error rates and power, or write searches."""
    parser = command_parser("synthetic", HELP, EXAMPLES)
    parser.add_argument(
        "--studies", type=int, default=500, help="studies in each world (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="write dynamics_error_rates.json and dynamics_error_rates.md there",
    )
    parser.add_argument(
        "--write",
        type=path_argument,
        metavar="DIR",
        help="only write searches there, with planted truth and without",
    )
    parser.add_argument(
        "--searches", type=int, default=10, help="how many --write writes of each (default: %(default)s)"
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
        "power_studies": fewer,
        "false_positives": [*error_rates(arguments.studies), *contrast_error_rates(arguments.studies)],
        "unequal_false_positives": unequal_error_rates(arguments.studies),
        "power": power(fewer),
    }
    publish("dynamics_error_rates", report, as_markdown(report), arguments.out)


if __name__ == "__main__":
    run_command(main)
