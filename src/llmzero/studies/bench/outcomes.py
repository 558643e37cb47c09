"""What came of every alternative at a decision point, as the table has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from math import log, sqrt
from statistics import fmean

from llmzero.core.hparams import HParams, Parameter
from llmzero.runners.tables.format import Path_, Point, Table
from llmzero.studies.bench.points import DecisionPoint

SIGMAS = 2.0  # from which on a difference is beyond noise


@dataclass(frozen=True)
class Regret:
    """What a proposal gives away against the best alternative, in scores; negative where it gains.

    Attributes:
        val: best validation score of the best alternative minus that of the proposed stage.
        test: test score of the alternative that is best by validation, minus that of the proposed stage.
        path: best validation score below the best alternative, its own among them, minus that below the
            proposed stage; None at the last level, where nothing follows.
    """

    val: float
    test: float
    path: float | None


@dataclass(frozen=True)
class Outcomes:
    """Scores of the stages of a table, for regrets. A stage that failed scores nothing."""

    table: Table
    _below: dict[Path_, float] = field(default_factory=dict)

    def score(self, path: Path_) -> float:
        """Return the best validation score of a stage."""
        best = self._best(path)
        return best.score if best else 0.0

    def test(self, path: Path_) -> float:
        """Return the test score at a stage's best validation."""
        best = self._best(path)
        return best.test if best else 0.0

    def test_stderr(self, path: Path_) -> float:
        """Return that score's standard error."""
        best = self._best(path)
        return best.test_stderr if best else 0.0

    def below(self, path: Path_) -> float:
        """Return the best validation score of a stage and all that continue it."""
        return self._all_below[path]

    def _best(self, path: Path_) -> Point | None:
        return max(self.table.stages[path].points, key=lambda point: point.score, default=None)

    @property
    def _all_below(self) -> dict[Path_, float]:
        if not self._below:
            for path in self.table.stages:
                for length in range(1, len(path) + 1):
                    above = path[:length]
                    self._below[above] = max(self._below.get(above, 0.0), self.score(path))
        return self._below


@dataclass(frozen=True)
class Alternatives:
    """The stages that could be proposed at a point, with their outcomes."""

    point: DecisionPoint
    outcomes: Outcomes

    @cached_property
    def deeper(self) -> bool:
        """Whether stages may follow the proposed one."""
        return len(self.point.parent) + 1 < self.point.table.depth

    def regret(self, path: Path_) -> Regret:
        """Return the regret of a proposed stage.

        Where it is the child of another stage than the one that was asked about, the best alternative is
        that of both.
        """
        parents = dict.fromkeys((self.point.parent, path[:-1]))
        offered = [each for parent in parents for each in self.point.untried(parent)]
        scores = self.outcomes
        chosen = max(offered, key=scores.score)
        return Regret(
            max(0.0, scores.score(chosen) - scores.score(path)),
            scores.test(chosen) - scores.test(path),
            max(0.0, max(map(scores.below, offered)) - scores.below(path)) if self.deeper else None,
        )

    def expected(self, parent: Path_ | None = None) -> Regret:
        """Return the mean regret of a child of a stage that is drawn among those that were not tried."""
        drawn = self.point.untried(self.point.parent if parent is None else parent)
        regrets = [self.regret(path) for path in drawn]
        paths = [regret.path for regret in regrets if regret.path is not None]
        return Regret(
            fmean(regret.val for regret in regrets),
            fmean(regret.test for regret in regrets),
            fmean(paths) if paths else None,
        )

    def beyond_noise(self) -> bool:
        """Whether the alternative that is best by validation is better than their mean on test, too."""
        offered = self.point.untried(self.point.parent)
        scores = self.outcomes
        chosen = max(offered, key=scores.score)
        rest = [path for path in offered if path != chosen]
        if not rest:
            return False
        error = sqrt(sum(scores.test_stderr(path) ** 2 for path in rest)) / len(rest)
        noise = sqrt(scores.test_stderr(chosen) ** 2 + error**2)
        return scores.test(chosen) - fmean(map(scores.test, rest)) > SIGMAS * noise


def nearest(table: Table, hparams: HParams) -> tuple[int, bool]:
    """Return the number of the recorded configuration nearest to one, and whether it is that one.

    The distance is the largest over the parameters, on each one's scale, in units of what its choices span.
    """
    gaps = [_gap(parameter, hparams.get(name)) for name, parameter in table.catalogue.items()]

    def distance(number: int) -> float:
        values = table.configurations[number].values()
        return max(gap(value) for gap, value in zip(gaps, values, strict=True))

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
