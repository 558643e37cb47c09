"""What came of every alternative at a decision point, as the table has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from statistics import fmean

from llmzero.core.hparams import HParams, Parameter
from llmzero.runners.tables.format import Path_, Point, Table
from llmzero.studies.bench.points import DecisionPoint

SIGMAS = 2.0  # from which on a difference is beyond noise
NOTHING = Point(step=0, score=0.0, stderr=0.0, test=0.0, test_stderr=0.0, flops=0.0, seconds=0.0)


@dataclass(frozen=True)
class Regret:
    """What a proposal gives away against the best alternative, in scores.

    Attributes:
        val: best validation score of the best alternative minus that of the proposed stage.
        test: test score of the alternative that is best by validation, minus that of the proposed stage;
            below 0 where validation misleads.
        path, path_test: the same of the best stages by validation at or below these two, wherever that is;
            None at the last level, where nothing follows.
    """

    val: float
    test: float
    path: float | None
    path_test: float | None


@dataclass(frozen=True)
class Outcomes:
    """Scores of the stages of a table: of each its best validation, and the test score there.

    A stage that failed before it had one scores nothing.
    """

    table: Table

    @cached_property
    def best(self) -> dict[Path_, Point]:
        """The best validation of every stage, by path."""
        return {
            path: max(stage.points, key=lambda point: point.score, default=NOTHING)
            for path, stage in self.table.stages.items()
        }

    @cached_property
    def below(self) -> dict[Path_, Point]:
        """The best validation of every stage and all that continue it, by path."""
        best: dict[Path_, Point] = {}
        for path, point in self.best.items():
            for length in range(1, len(path) + 1):
                best[path[:length]] = max(best.get(path[:length], NOTHING), point, key=lambda p: p.score)
        return best


@dataclass(frozen=True)
class Alternatives:
    """The stages that could be proposed at a point, with their outcomes."""

    point: DecisionPoint
    outcomes: Outcomes

    @property
    def deeper(self) -> bool:
        """Whether stages may follow the proposed one."""
        return len(self.point.parent) + 1 < self.point.table.depth

    def regret(self, path: Path_) -> Regret:
        """Return the regret of a proposed stage.

        Where it is the child of another stage than the one that was asked about, the best alternative is
        that of both.
        """
        parents = dict.fromkeys((self.point.parent, path[:-1]))
        offered = {each for parent in parents for each in self.point.untried(parent)} | {path}

        def gaps(found: Mapping[Path_, Point]) -> tuple[float, float]:
            best, own = max((found[each] for each in sorted(offered)), key=_score), found[path]
            return best.score - own.score, best.test - own.test

        below = gaps(self.outcomes.below) if self.deeper else (None, None)
        return Regret(*gaps(self.outcomes.best), *below)

    def expected(self, parent: Path_ | None = None) -> Regret:
        """Return the mean regret of a child of a stage that is drawn among those that were not tried."""
        drawn = self.point.untried(self.point.parent if parent is None else parent)
        regrets = [self.regret(path) for path in drawn]
        paths = [(each.path, each.path_test) for each in regrets]
        known = [(val, test) for val, test in paths if val is not None and test is not None]
        return Regret(
            fmean(each.val for each in regrets),
            fmean(each.test for each in regrets),
            fmean(val for val, _ in known) if known else None,
            fmean(test for _, test in known) if known else None,
        )

    def matters(self) -> bool:
        """Whether the best alternative by validation beats the mean of the others on test beyond noise, in
        its own score or in what follows.
        """
        found = [self.outcomes.best, *([self.outcomes.below] if self.deeper else [])]
        offered = self.point.untried(self.point.parent)
        return len(offered) > 1 and any(_stands_out([each[path] for path in offered]) for each in found)


def _score(point: Point) -> float:
    return point.score


def _stands_out(points: Sequence[Point]) -> bool:
    best = max(points, key=_score)
    rest = [point for point in points if point is not best]
    noise = sqrt(best.test_stderr**2 + sum(point.test_stderr**2 for point in rest) / len(rest) ** 2)
    return best.test - fmean(point.test for point in rest) > SIGMAS * noise


def nearest(table: Table, hparams: HParams) -> tuple[int, bool]:
    """Return the number of the recorded configuration nearest to one, and whether it is that one.

    The distance is the largest over the parameters, on each one's scale, in units of what its choices span;
    of equal ones the sum decides.
    """
    gaps = [_gap(parameter, hparams.get(name)) for name, parameter in table.catalogue.items()]

    def distance(number: int) -> tuple[float, float]:
        values = table.configurations[number].values()
        each = [gap(value) for gap, value in zip(gaps, values, strict=True)]
        return max(each), sum(each)

    exact = table.number(hparams)
    if exact is not None:
        return exact, True
    return min(range(len(table.configurations)), key=distance), False


def _gap(parameter: Parameter, wanted: object) -> Callable[[object], float]:
    """Return what measures the distance of a choice from a value: 0 or 1 where they are not all numbers."""
    choices = parameter.choices or ()
    if not all(_is_number(value) for value in (wanted, *choices)):
        return lambda value: float(value != wanted)
    scale = _scale(parameter, (wanted, *choices))
    span = scale(max(choices)) - scale(min(choices)) or 1.0
    return lambda value: abs(scale(value) - scale(wanted)) / span


def _scale(parameter: Parameter, values: Iterable[object]) -> Callable[[object], float]:
    logarithmic = parameter.scale == "log" and all(float(value) > 0 for value in values)  # type: ignore[arg-type]
    return (lambda value: log(value)) if logarithmic else float  # type: ignore


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
